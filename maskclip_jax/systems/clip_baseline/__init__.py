"""clip_baseline"""
