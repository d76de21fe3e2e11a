"""OVSeg's benchmarks: weights that were tuned on them, and the same weight on all."""

import dataclasses

import jax
import pytest

from maskclip_jax.eval.evaluator import Evaluator, Options
from maskclip_jax.eval.protocols import PROTOCOLS, ProtocolRun, find_protocols
from maskclip_jax.eval.published import published
from maskclip_jax.eval.request import Request
from maskclip_jax.segmenter import Segmenter

WEIGHTS = {
  'ade150': 0.7,
  'ade150_semantic': 0.7,
  'ade847': 0.7,
  'pc59': 0.6,
  'pc459': 0.6,
  'voc20': 0.45,
}


@pytest.fixture(scope='module')
def segmenter():
  return Segmenter.from_preset('ovseg_tiny')


def evaluator(segmenter, name: str, scores: str | None = None) -> Evaluator:
  """With photos of the size of the tiny model."""
  found = PROTOCOLS[name].for_system('ovseg')
  settings = dataclasses.replace(found.settings, short_edge=64, long_edge=160)
  options = Request(name, 'out', batch_size=1, scores=scores).options()
  devices = jax.local_devices()[:1]
  return Evaluator(
    segmenter, ProtocolRun(found.protocol, settings), options, devices=devices
  )


def test_the_benchmarks_of_the_paper():
  assert {p.name for p in find_protocols('ovseg')} == set(WEIGHTS)
  for name, weight in WEIGHTS.items():
    settings = PROTOCOLS[name].for_system('ovseg').settings
    assert settings.scores == {'seen_weight': weight, 'unseen_weight': weight}
    assert settings.tuned


def test_tuned_and_untuned_numbers_have_names_of_their_own(segmenter):
  tuned = evaluator(segmenter, 'voc20')
  assert tuned.name == 'voc20+tuned'
  assert tuned.scores.unseen_weight == 0.45
  untuned = evaluator(segmenter, 'voc20', 'model')
  assert untuned.name == 'voc20+untuned'
  assert untuned.scores == segmenter.preset.scores
  assert tuned.key()['scores'] != untuned.key()['scores']


def test_clip_alone(segmenter):
  """What the official demo does [ovseg 2.8]."""
  alone = evaluator(segmenter, 'pc59', 'seen_weight=1, unseen_weight=1, drop_empty=1')
  assert alone.name == 'pc59+scores:drop_empty=1,seen_weight=1,unseen_weight=1'
  assert alone.scores.unseen_weight == 1.0
  assert alone.scores.drop_empty is True
  assert alone.scores.mask_threshold == segmenter.preset.scores.mask_threshold


def test_papers_that_tuned_are_beside_tuned_numbers():
  model = 'ovseg_swin_b_vit_l14'
  (row,) = published('voc20+tuned/mIoU_gt_or_pred', model)
  assert row.value == 94.5
  assert published('voc20+untuned/mIoU_gt_or_pred', model) == []


def test_scores_that_make_no_sense_are_told():
  with pytest.raises(ValueError, match=r"no score is called 'unseen'.*unseen_weight"):
    Request('voc20', 'out', scores='unseen=1').options()
  with pytest.raises(ValueError, match=r'scores are given as unseen_weight=0\.7'):
    Request('voc20', 'out', scores='unseen_weight=high').options()
  plain = Segmenter.from_preset('masqclip_tiny')
  run = PROTOCOLS['voc20'].for_system('masqclip')
  with pytest.raises(ValueError, match='masqclip combines no scores'):
    Evaluator(plain, run, Options(scores='model'), devices=jax.local_devices()[:1])
