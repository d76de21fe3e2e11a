"""masqclip"""
