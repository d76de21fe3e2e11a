"""Checkpoints: official files both ways, bundles, parameters by path."""
