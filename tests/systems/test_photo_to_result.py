"""From a photo to segments: our model and our post-processing, against the official's.

The parts are compared one by one elsewhere; here nothing recorded is put in between.
"""

import functools

import golden
import numpy as np
import official
import pytest

from maskclip_jax.postprocess.class_scores import class_probabilities
from maskclip_jax.postprocess.instances import instances
from maskclip_jax.postprocess.panoptic import panoptic
from maskclip_jax.postprocess.semantic import semantic, semantic_scores
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.systems.contract import Images, TextBank

# The classes that the recording called things.
THING = np.isin(np.arange(64), [0, 1, 4, 5])
TEXTS = {
  'eval_official_text': 'in/text_embeddings',
  'eval_crafted': 'in/text_embeddings_crafted',
  'eval_crafted_low': 'in/text_embeddings_crafted',
  'eval_crafted_low_strict': 'in/text_embeddings_crafted',
}


@functools.cache
def outputs(text: str):
  g = golden.load('masqclip')
  photos = [g[f'in/eval/img{i}_uint8'] for i in (0, 1)]
  images = Images.from_arrays(photos, (192, 192), pad_to_batch=True)
  bank = TextBank.build(g[text], [True] * 7, void_last=True)
  return bank, official.run(official.small('masqclip'), images, bank)


def case(run: str, image: int):
  g = golden.load('masqclip')
  bank, found = outputs(TEXTS[run])
  scores = class_probabilities(
    found.class_logits[image], bank.valid, bank.void, found.objectness[image]
  )
  photo_hw = g[f'in/eval/img{image}_uint8'].shape[:2]
  original_hw = g[f'out/{run}/img{image}/panoptic_seg'].shape
  geometry = Geometry((32, 40), (128, 160), photo_hw, original_hw)
  return found.mask_logits[image], scores, geometry, f'out/{run}/img{image}'


@pytest.mark.parametrize('image', [0, 1])
@pytest.mark.parametrize('run', TEXTS)
def test_panoptic(run, image):
  g = golden.load('masqclip')
  masks, scores, geometry, prefix = case(run, image)
  object_threshold, overlap_threshold = g[f'meta/{run}_thresholds'].tolist()
  ids, segments = panoptic(
    masks,
    scores,
    THING,
    geometry,
    object_threshold=object_threshold,
    overlap_threshold=overlap_threshold,
  )
  recorded = g[f'{prefix}/segments_info'].tolist()
  assert [s.id for s in segments] == [row[0] for row in recorded]
  p = np.asarray(scores.probabilities)
  for segment, (_, thing, label) in zip(segments, recorded, strict=True):
    assert segment.thing == bool(thing)
    # Some of the crafted classes tie, to the last digits of a float32.
    tie = p[segment.query, label] / p[segment.query, segment.class_index]
    assert segment.class_index == label or tie > 1 - golden.TOLERANCE
  differ = int((ids != g[f'{prefix}/panoptic_seg']).sum())
  print(f'parity {run}, image {image}: {differ} of {ids.size} pixels differ')
  # Two masks may tie, or a mask be undecided, to float32 rounding of the network.
  assert differ <= ids.size // 10_000


@pytest.mark.parametrize('image', [0, 1])
@pytest.mark.parametrize('run', ['eval_official_text', 'eval_crafted'])
def test_semantic(run, image):
  g = golden.load('masqclip')
  masks, scores, geometry, prefix = case(run, image)
  recorded = g[f'{prefix}/sem_seg']
  maps = semantic_scores(masks, scores, geometry)[:7]
  golden.assert_close(maps, recorded, name=f'{run}, image {image}, class maps')
  labels = semantic(masks, scores, geometry)
  differ = labels != recorded.argmax(0)
  top = np.sort(recorded, axis=0)
  assert (top[-1] - top[-2])[differ].max(initial=0) <= golden.TOLERANCE * top.max()


@pytest.mark.parametrize('image', [0, 1])
@pytest.mark.parametrize('run', ['eval_official_text', 'eval_crafted'])
def test_instances(run, image):
  """Each official detection is one of ours: class, score and mask."""
  g = golden.load('masqclip')
  masks, scores, geometry, prefix = case(run, image)
  ours = instances(masks, scores, THING, geometry, top_k=10_000)
  recorded = golden.unpack(
    g[f'{prefix}/instances/pred_masks_packed'], geometry.original[1]
  )
  detections = zip(
    g[f'{prefix}/instances/scores'],
    g[f'{prefix}/instances/pred_classes'],
    recorded,
    strict=True,
  )
  for score, label, mask in detections:
    assert any(
      ours.classes[i] == label
      and np.isclose(ours.scores[i], score, rtol=golden.TOLERANCE)
      and (ours.mask(i) != mask).sum() <= mask.size // 10_000
      for i in range(len(ours))
    ), f'{prefix}: no detection of class {label} with score {score}'
