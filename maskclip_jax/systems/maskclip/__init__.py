"""maskclip"""
