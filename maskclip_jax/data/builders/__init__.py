"""TFDS builders: from the files that the owners publish to ArrayRecord, no TensorFlow.

One module per dataset; `base.py` is the builder they share, `raw.py` finds the files.
"""
