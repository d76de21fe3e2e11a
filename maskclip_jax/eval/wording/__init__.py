"""Which words a model should read for the classes of a dataset."""
