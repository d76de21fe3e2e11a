"""The metric families: semantic, panoptic, instance."""
