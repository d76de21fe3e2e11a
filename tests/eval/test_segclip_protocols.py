"""Benchmarks with a background: a threshold for SegCLIP, a word for other systems."""

import dataclasses

import golden
import jax
import numpy as np
import pytest

from maskclip_jax import zoo
from maskclip_jax.eval.evaluator import Evaluator, fitting_vocabulary
from maskclip_jax.eval.examples import EvalExample, Truth
from maskclip_jax.eval.judge import Predicted
from maskclip_jax.eval.protocols import PROTOCOLS, ProtocolRun, find_protocols
from maskclip_jax.segmenter import Segmenter

THRESHOLDS = {'voc21': 0.80, 'pc60': 0.25, 'coco_object': 0.65}


def small_run(name: str) -> ProtocolRun:
  """The protocol with photos of the size of a window of the tiny model."""
  found = PROTOCOLS[name].for_system('segclip')
  settings = dataclasses.replace(found.settings, short_edge=64, long_edge=160)
  return ProtocolRun(found.protocol, settings)


def test_the_three_benchmarks_of_the_paper():
  assert [p.name for p in find_protocols('segclip')] == list(THRESHOLDS)
  assert [p.name for p in find_protocols('context60')] == ['pc60']
  preset = zoo.find_preset('segclip_vit_b16')
  for name, threshold in THRESHOLDS.items():
    run = PROTOCOLS[name].for_system('segclip')
    assert run.scores(preset).background_threshold == threshold
    photos = run.preprocessing(preset)
    assert (photos.short_edge, photos.long_edge) == (224, 2048)
    assert photos.resample == 'opencv'
    assert run.postprocessing(preset).semantic_order == 'scores_first'
    words = run.vocabulary().for_system('segclip')
    assert words.prompts()[1][0] == ()
    assert 'a photo of a background.' not in words.prompts()[0]
    words = run.vocabulary().for_system('masqclip')
    assert words.prompts()[0][0] == 'background'


def test_an_evaluation_counts_the_background():
  segmenter = Segmenter.from_preset('segclip_tiny')
  evaluator = Evaluator(segmenter, small_run('voc21'), devices=jax.local_devices()[:1])
  assert not np.asarray(evaluator.bank.embeddings[0]).any()
  assert evaluator.scores.background_threshold == 0.80
  photo = golden.photo('coffee.png', (96, 64))
  truth = np.zeros((64, 96), np.int32)
  truth[:8], truth[8:16] = 3, -1
  source = [EvalExample('1', '1.jpg', photo, Truth(semantic=truth))]
  (item, results), *_ = evaluator.results(source, [0])
  judge = evaluator.judge()
  judge.add(item.example, Predicted.of(results))
  found = judge.result()
  counted, right = truth >= 0, results.semantic == truth
  background = found.per_class['IoU'][0]
  hit = (counted & right & (truth == 0)).sum()
  either = (counted & ((truth == 0) | (results.semantic == 0))).sum()
  assert hit > 0
  np.testing.assert_allclose(background, 100 * hit / either, rtol=1e-6)


def test_other_words_for_the_classes_keep_the_threshold():
  segmenter = Segmenter.from_preset('segclip_tiny')
  run = small_run('voc21')
  words = fitting_vocabulary(segmenter, run)
  by_word = fitting_vocabulary(segmenter, run, run.vocabulary().treated('segclip_word'))
  assert words.prompts()[1][0] == ()
  assert by_word.prompts()[0][0] == 'a photo of a background.'


def test_a_system_that_reads_no_scores_is_refused_the_settings_of_segclip():
  run = PROTOCOLS['voc21'].for_system('segclip')
  with pytest.raises(ValueError, match='combines no scores'):
    Evaluator(Segmenter.from_preset('masqclip_tiny'), run)
