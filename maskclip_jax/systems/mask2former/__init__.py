"""mask2former"""
