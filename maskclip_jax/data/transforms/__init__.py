"""Augmentations: mappers draw operations, operations act on examples."""
