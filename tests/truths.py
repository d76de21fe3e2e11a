"""Ground truth for tests: from boolean masks to the forms that losses read."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from maskclip_jax.losses.ground_truth import GroundTruth


def packed(
  masks: Sequence[Bool[np.ndarray, 'n h w']],
  classes: Sequence[Int[np.ndarray, ' n']],
  rows: int | None = None,
) -> GroundTruth:
  """Bit-packed masks of a batch, padded to as many rows as needed, or more."""
  rows = rows or max(max(len(m) for m in masks), 1)
  height, width = masks[0].shape[1:]
  out = np.zeros((len(masks), rows, height, -(-width // 8)), np.uint8)
  table, valid = np.zeros((2, len(masks), rows), np.int32)
  for i, (m, c) in enumerate(zip(masks, classes, strict=True)):
    out[i, : len(m)] = np.packbits(m, axis=-1)
    table[i, : len(m)], valid[i, : len(m)] = c, 1
  return GroundTruth(
    jnp.asarray(table),
    jnp.asarray(valid.astype(bool)),
    (height, width),
    masks=jnp.asarray(out),
  )


def mapped(
  segments: Int[np.ndarray, 'b h w'],
  classes: Int[np.ndarray, 'b n'],
  valid: Bool[np.ndarray, 'b n'] | None = None,
) -> GroundTruth:
  """Segments that do not overlap, as a map of row numbers."""
  valid = np.ones(classes.shape, bool) if valid is None else valid
  return GroundTruth(
    jnp.asarray(classes, jnp.int32),
    jnp.asarray(valid),
    segments.shape[1:],
    segments=jnp.asarray(segments, jnp.int16),
  )
