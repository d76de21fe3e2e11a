"""Post-processing against the recorded outputs of the official code."""

import golden
import jax
import numpy as np
import plain_postprocess as plain
import pytest

from maskclip_jax.postprocess.class_scores import ClassScores, class_probabilities
from maskclip_jax.postprocess.panoptic import panoptic
from maskclip_jax.postprocess.semantic import semantic, semantic_scores
from maskclip_jax.postprocess.tiles import Geometry

THINGS = [0, 1, 4, 5]


def unit_case():
  recorded = golden.load('masqclip')
  p = np.exp(recorded['in/unit/mask_cls'])
  scores = ClassScores(p, np.zeros(len(p), np.float32), np.ones(p.shape[1], bool))
  thing = np.isin(np.arange(7), THINGS)
  return recorded, recorded['in/unit/mask_pred'], scores, thing, Geometry.same(48, 60)


def test_official_semantic():
  recorded, masks, scores, _, geometry = unit_case()
  official = recorded['out/unit/sem_seg']
  for order in ('masks_first', 'scores_first'):
    maps = semantic_scores(masks, scores, geometry, order=order)
    golden.assert_close(maps, official, name=order)
    labels = semantic(masks, scores, geometry, order=order)
    np.testing.assert_array_equal(labels, official.argmax(0))


@pytest.mark.parametrize('case', range(4))
def test_official_panoptic(case):
  recorded, masks, scores, thing, geometry = unit_case()
  keys = f'meta/unit/panoptic{case}_object_mask_threshold_overlap_threshold'
  object_threshold, overlap_threshold = recorded[keys].tolist()
  ids, segments = panoptic(
    masks,
    scores,
    thing,
    geometry,
    object_threshold=object_threshold,
    overlap_threshold=overlap_threshold,
  )
  np.testing.assert_array_equal(ids, recorded[f'out/unit/panoptic{case}/seg'])
  rows = [[s.id, int(s.thing), s.class_index] for s in segments]
  assert rows == recorded[f'out/unit/panoptic{case}/segments_info'].tolist()


@pytest.mark.parametrize('things_only', [True, False])
def test_official_instances(things_only):
  recorded, masks, scores, thing, geometry = unit_case()
  # The recording was made with 12 detections per image.
  plain.assert_same_instances(
    masks,
    scores,
    thing,
    geometry,
    recorded,
    f'out/unit/instances_panoptic_{"on" if things_only else "off"}',
    top_k=12,
    things_only=things_only,
    packed=False,
  )


def masqclip_eval(image):
  """Masks and scores of the recorded batch of two photos, padded together."""
  recorded = golden.load('masqclip')
  objects = jax.nn.log_softmax(recorded['out/eval/m2f_pred_logits'][image])[:, 0]
  void = np.arange(8) == 7
  scores = class_probabilities(
    recorded['out/eval/clip_pred_logits_crafted'][image], void=void, objectness=objects
  )
  height, width = recorded[f'in/eval/img{image}_uint8'].shape[:2]
  original = recorded[f'out/eval_crafted/img{image}/panoptic_seg'].shape
  geometry = Geometry((32, 40), (128, 160), (height, width), original)
  return recorded, recorded['out/eval/m2f_pred_masks'][image], scores, geometry


@pytest.mark.parametrize('image', [0, 1])
def test_official_masqclip_evaluation(image):
  recorded, masks, scores, geometry = masqclip_eval(image)
  thing = np.isin(np.arange(8), THINGS)
  prefix = f'out/eval_crafted/img{image}'
  maps = semantic_scores(masks, scores, geometry)
  golden.assert_close(maps[:7], recorded[f'{prefix}/sem_seg'], name='semantic')
  plain.assert_same_instances(
    masks, scores, thing, geometry, recorded, f'{prefix}/instances', top_k=12
  )
  logits = plain.full_logits(masks, geometry)
  best = np.asarray(scores.probabilities).max(-1)
  for run in ('eval_crafted', 'eval_crafted_low', 'eval_crafted_low_strict'):
    object_threshold, overlap_threshold = recorded[f'meta/{run}_thresholds'].tolist()
    ids, segments = panoptic(
      masks,
      scores,
      thing,
      geometry,
      object_threshold=object_threshold,
      overlap_threshold=overlap_threshold,
    )
    _, _, margin = plain.panoptic(
      np.asarray(scores.probabilities), logits, best > object_threshold, thing, 0.0
    )
    official = recorded[f'out/{run}/img{image}/panoptic_seg']
    plain.near_ties(ids, official, margin, name=run)
    rows = [[s.id, int(s.thing), s.class_index] for s in segments]
    assert rows == recorded[f'out/{run}/img{image}/segments_info'].tolist()


def test_official_maskclip_evaluation():
  recorded = golden.load('maskclip')
  run = 'eval_with_other'
  void = np.arange(8) == 7
  scores = class_probabilities(recorded[f'out/{run}/pred_logits'][0], void=void)
  thing = np.isin(np.arange(8), THINGS)
  # Other vocabularies leave the masks as they are.
  masks = recorded['out/eval/pred_masks'][0]
  geometry = Geometry((32, 32), (128, 160), (121, 150), (96, 118))
  maps = semantic_scores(masks, scores, geometry)
  golden.assert_close(maps[:7], recorded[f'out/{run}/sem_seg'], name='semantic')
  plain.assert_same_instances(
    masks, scores, thing, geometry, recorded, f'out/{run}/instances', top_k=100
  )
  ids, segments = panoptic(
    masks,
    scores,
    thing,
    geometry,
    object_threshold=0.3,
    overlap_threshold=0.5,
    reject_void=True,
  )
  best, p_void = np.asarray(scores.probabilities).max(-1), np.asarray(scores.void)
  _, _, margin = plain.panoptic(
    np.asarray(scores.probabilities),
    plain.full_logits(masks, geometry),
    (best > 0.3) & (best >= p_void),
    thing,
    0.0,
  )
  plain.near_ties(ids, recorded[f'out/{run}/panoptic_seg'], margin, name='panoptic')
  rows = [[s.id, int(s.thing), s.class_index] for s in segments]
  assert rows == recorded[f'out/{run}/segments_info'].tolist()


def test_official_maskclip_evaluation_that_lost_its_last_class():
  # The released code drops the last column also where it is a class [masqclip 4.8].
  recorded = golden.load('maskclip')
  void = np.arange(7) == 6
  scores = class_probabilities(recorded['out/eval/pred_logits'][0], void=void)
  geometry = Geometry((32, 32), (128, 160), (121, 150), (96, 118))
  maps = semantic_scores(recorded['out/eval/pred_masks'][0], scores, geometry)
  golden.assert_close(maps[:6], recorded['out/eval/sem_seg'], name='semantic')
