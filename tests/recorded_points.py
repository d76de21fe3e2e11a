"""Random points that the official code drew, laid out for our criterion."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from maskclip_jax.losses.criterion import Points
from maskclip_jax.losses.terms import PointSampling


def lay_out(
  draws: Sequence[Float[np.ndarray, '...']],
  query_of: Int[np.ndarray, 'b l n'],
  sampling: PointSampling,
) -> Points:
  """The points by image, layer and row of the ground truth.

  The official order: layer by layer, the final one first; in each, one draw per image
  for the matching, then the candidates and the fresh points of all matched masks,
  image by image in the order of their queries.

  Args:
    draws: in the order they were drawn.
    query_of: the query of each row, -1 where it has none.
    sampling: sizes.
  """
  batch, layers, rows = query_of.shape
  fresh = sampling.points - sampling.uncertain
  matching = np.zeros((batch, layers, sampling.points, 2), np.float32)
  candidates = np.zeros((batch, layers, rows, sampling.candidates, 2), np.float32)
  extra = np.zeros((batch, layers, rows, fresh, 2), np.float32)
  remaining = iter(draws)
  for layer in range(layers):
    for image in range(batch):
      matching[image, layer] = next(remaining)[0]
    first, second = next(remaining), next(remaining)
    k = 0
    for image in range(batch):
      queries = query_of[image, layer]
      for row in np.argsort(queries, kind='stable')[(queries < 0).sum() :]:
        candidates[image, layer, row] = first[k]
        extra[image, layer, row] = second[k]
        k += 1
    assert k == len(first)
  return Points(*map(jnp.asarray, (matching, candidates, extra)))


def matching_only(
  draws: Sequence[Float[np.ndarray, '...']], batch: int, layers: int, rows: int
) -> Points:
  """The points of the matching alone: enough to find out who is matched."""
  step = batch + 2
  matching = np.stack(
    [
      np.stack([draws[step * layer + image][0] for layer in range(layers)])
      for image in range(batch)
    ]
  )
  nothing = np.zeros((batch, layers, rows, 0, 2), np.float32)
  return Points(*map(jnp.asarray, (matching, nothing, nothing)))
