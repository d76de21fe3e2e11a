"""The stages of training, one task each."""
