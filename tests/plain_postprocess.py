"""The rules of post-processing in plain NumPy, whole images at once, and test cases.

`near_ties` is how label maps are compared: pixels may differ only where the reference
was decided by less than float32 rounding, and they are counted.
"""

import golden
import numpy as np

from maskclip_jax.postprocess.class_scores import ClassScores
from maskclip_jax.postprocess.instances import instances
from maskclip_jax.postprocess.tiles import Geometry

# Float32 rounding of scores in [0, 1]: what another order of summation may change.
NOISE = 2e-6


def bilinear(maps, shape):
  """PyTorch's bilinear resize of the last two axes, coordinates in float32 as there."""
  for axis, out in ((-2, shape[0]), (-1, shape[1])):
    size = maps.shape[axis]
    scale = np.float32(size) / np.float32(out)
    half = np.float32(0.5)
    centre = np.maximum((np.arange(out, dtype=np.float32) + half) * scale - half, 0)
    low = np.floor(centre).astype(int)
    t = (centre - low).astype(np.float32).reshape(-1, *[1] * (-1 - axis))
    first = maps.take(np.minimum(low, size - 1), axis)
    second = maps.take(np.minimum(low + 1, size - 1), axis)
    maps = first * (1 - t) + second * t
  return maps


def full_logits(mask_logits, geometry: Geometry):
  """Both resizes without tiles: float32, as the official code does them."""
  (mh, mw), (ih, iw) = geometry.mask, geometry.image
  padded = bilinear(np.asarray(mask_logits)[:, :mh, :mw], geometry.padded)
  return bilinear(padded[:, :ih, :iw], geometry.original)


def sigmoid(x):
  with np.errstate(over='ignore'):
    return 1 / (1 + np.exp(-x))


def panoptic(probabilities, logits, keep, thing, overlap_threshold):
  """[masqclip 8.2] in words; also the margin by which each pixel was decided."""
  soft = sigmoid(logits)
  best = probabilities.max(-1)
  kept = np.flatnonzero(keep)
  ids = np.zeros(logits.shape[1:], np.int32)
  if not len(kept):
    return ids, [], np.ones(ids.shape)
  value = best[kept, None, None] * soft[kept]
  winner = value.argmax(0)
  ranked = np.sort(value, axis=0)
  margin = ranked[-1] - ranked[-2] if len(kept) > 1 else np.ones(ids.shape)
  margin = np.minimum(margin, np.abs(soft[kept] - 0.5).min(0))
  segments, stuff = [], {}
  for i, query in enumerate(kept):
    won, covered = winner == i, soft[query] >= 0.5
    region = won & covered
    if not (won.any() and covered.any() and region.any()):
      continue
    if won.sum() / covered.sum() < overlap_threshold:
      continue
    label = int(probabilities[query].argmax())
    if label in stuff:
      ids[region] = stuff[label]
      continue
    segments.append((len(segments) + 1, int(thing[label]), label))
    ids[region] = len(segments)
    if not thing[label]:
      stuff[label] = len(segments)
  return ids, segments, margin


def scores(probabilities, mask_logits, geometry: Geometry, order: str):
  if order == 'masks_first':
    soft = sigmoid(full_logits(mask_logits, geometry))
    return np.einsum('qk,qyx->kyx', probabilities, soft)
  (mh, mw), (ih, iw) = geometry.mask, geometry.image
  padded = bilinear(np.asarray(mask_logits)[:, :mh, :mw], geometry.padded)
  maps = np.einsum('qk,qyx->kyx', probabilities, sigmoid(padded))
  return bilinear(maps[:, :ih, :iw], geometry.original)


def near_ties(ours, theirs, margin, *, name: str, most: float = 1e-3) -> int:
  """Counts pixels that differ; each must be a tie within float32 rounding.

  Args:
    ours: labels or ids.
    theirs: the reference's.
    margin: by how much the reference decided each pixel.
    name: what to print.
    most: the largest share of pixels that may differ.
  """
  differ = np.asarray(ours) != np.asarray(theirs)
  count = int(differ.sum())
  print(f'{name}: {count} of {differ.size} pixels differ, all near ties')
  assert (margin[differ] <= NOISE).all(), (
    f'{name}: pixels differ by margins up to {margin[differ].max():.2e}'
  )
  assert count <= most * differ.size, f'{name}: {count} near ties are too many'
  return count


def smooth_masks(rng, queries, height, width):
  """Blobs, not noise: masks as networks make them."""
  coarse = rng.standard_normal((queries, height // 4 + 2, width // 4 + 2)) * 5
  return bilinear(coarse.astype(np.float32), (height, width))


def random_case(seed, geometry, *, queries=12, columns=9, canvas=None):
  """Masks (on a canvas whose rest is NaN), scores and thing flags."""
  rng = np.random.default_rng(seed)
  masks = smooth_masks(rng, queries, *geometry.mask)
  if canvas is not None:
    rest = np.full((queries, *canvas), np.nan, np.float32)
    rest[:, : geometry.mask[0], : geometry.mask[1]] = masks
    masks = rest
  p = rng.dirichlet(np.full(columns, 0.2), queries).astype(np.float32)
  scores = ClassScores(p, np.zeros(queries, np.float32), np.ones(columns, bool))
  return masks, scores, rng.random(columns) < 0.5


GEOMETRIES = {
  'one_pixel': Geometry((16, 16), (64, 64), (64, 64), (1, 1)),
  'one_row': Geometry((8, 40), (32, 160), (1, 160), (1, 300)),
  'one_column': Geometry((40, 8), (160, 32), (160, 1), (300, 1)),
  'enlarged': Geometry((24, 32), (96, 128), (90, 120), (201, 268)),
  'reduced': Geometry((24, 32), (96, 128), (90, 120), (33, 44)),
  'same': Geometry((24, 32), (96, 128), (96, 128), (96, 128)),
  'fine_masks': Geometry((72, 72), (32, 64), (30, 50), (60, 100)),
  'long': Geometry((160, 8), (640, 32), (640, 4), (2000, 10)),
}


def assert_same_instances(masks, scores, thing, geometry, recorded, prefix, **choices):
  """The official detections, whose order and whose choice among ties are open.

  Each must be one of ours, mask for mask, and each of ours that scores more than the
  last one of the `top_k` must be among them.
  """
  top_k, packed = choices.pop('top_k'), choices.pop('packed', True)
  ours = instances(masks, scores, thing, geometry, top_k=10_000, **choices)
  limited = instances(masks, scores, thing, geometry, top_k=top_k, **choices)
  official_masks = recorded[f'{prefix}/pred_masks{"_packed" if packed else ""}']
  if packed:
    official_masks = golden.unpack(official_masks, geometry.original[1])
  p = np.asarray(scores.probabilities)
  cut = np.sort(p.ravel())[-top_k]
  left = set(range(len(ours)))
  official = zip(
    recorded[f'{prefix}/scores'],
    recorded[f'{prefix}/pred_classes'],
    official_masks,
    strict=True,
  )
  for score, label, mask in official:
    match = [
      i
      for i in left
      if ours.classes[i] == label
      and np.isclose(ours.scores[i], score, rtol=golden.TOLERANCE, atol=1e-7)
      and np.array_equal(ours.mask(i), mask)
    ]
    assert match, f'{prefix}: no detection of class {label} with score {score}'
    left.remove(match[0])
  missed = [i for i in left if p[ours.queries[i], ours.classes[i]] > cut * (1 + 1e-5)]
  assert not missed
  tied = (p == cut).sum() > 1
  assert tied or len(limited) == len(official_masks)
