"""Rows of Mask2Former, by transformers."""

from rows import Row

ROWS: tuple[Row, ...] = ()
