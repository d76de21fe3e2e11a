"""Losses of set prediction: matching, ground truth, pseudo masks. No flax, no I/O."""
