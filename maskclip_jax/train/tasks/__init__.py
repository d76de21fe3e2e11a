"""The stages of training, one task a file, found by the name of the file."""
