"""The search for words: what it finds, what it refuses, and how it counts."""

import dataclasses

import ade_run
import ade_scenes
import colour_model
import numpy as np
import pytest

from maskclip_jax.eval.diagnosis import oracles
from maskclip_jax.eval.diagnosis.overlaps import Regions
from maskclip_jax.eval.judge import Judge, Predicted
from maskclip_jax.eval.predictor import ClassColumns
from maskclip_jax.eval.wording.regions import TrueRegions, encode_regions
from maskclip_jax.eval.wording.report import report
from maskclip_jax.eval.wording.search import Naming, improve
from maskclip_jax.eval.wording.suggest import find_data, suggest
from maskclip_jax.text.vocabulary import Vocabulary


def renamed(**words) -> Vocabulary:
  """ADE20K's classes, of which some have other words."""
  classes = [
    dataclasses.replace(c, words=words.get(c.name, c.words), prompts={})
    for c in Vocabulary.named('ade20k-150').classes
  ]
  return Vocabulary(tuple(classes), 'mine')


def suggested(**choices):
  """What is found where the model knows 'floor', 'car' and the rest by these words
  alone, and starts from others."""
  return suggest(
    ade_run.segmenter(),
    ade_run.run(),
    data_dir=ade_run.data_dir(),
    photos=ade_run.PHOTOS,
    words=renamed(floor=('lorem ipsum',), car=('zebra crossing', 'car')),
    templates=('none',),
    **choices,
  )


@pytest.fixture(scope='module')
def found():
  return suggested()


def test_words_that_the_model_knows_are_found(found):
  changes = {change.before: change.after for change in found.changes}
  assert changes[('lorem ipsum',)] == ('floor',)
  assert all(change.gain.real for change in found.changes)
  assert found.after.chosen > found.before.chosen + 10
  assert found.after.held_out > found.before.held_out + 10
  # Gains are of one change after another, so they add up.
  total = sum((c.gain.held_out for c in found.changes), 0.0)
  assert found.before.held_out + total == pytest.approx(found.after.held_out)


@pytest.mark.slow
def test_the_own_masks_gain_as_well():
  found = suggested(whole=True)
  metric, before, after = found.whole
  assert metric == 'PQ'
  assert after > before + 10
  assert "model's own masks" in report(found)


def test_the_vocabulary_is_read_back_with_the_words(found, tmp_path):
  path = tmp_path / 'words.json'
  found.vocabulary.save(path)
  read = Vocabulary.load(path)
  assert read == found.vocabulary
  floor = read.classes[ade_scenes.FLOOR]
  assert floor.words_for(read.treatment.system) == ('floor',)
  assert [c.name for c in read.classes] == [
    c.name for c in Vocabulary.named('ade20k-150').classes
  ]


def test_the_report_has_a_line_for_each_change(found):
  text = report(found)
  assert f'{len(found.changes)} of 150 classes changed' in text
  assert any('lorem ipsum' in line and 'floor' in line for line in text.splitlines())


def random_regions(seed: int = 0, count: int = 200, classes: int = 5) -> TrueRegions:
  rng = np.random.default_rng(seed)
  vectors = rng.standard_normal((count, 8)).astype(np.float32)
  return TrueRegions(
    vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    rng.integers(0, classes, count),
    rng.integers(1, 900, count),
    np.arange(count) % 10,
  )


def test_a_word_that_suits_one_half_by_chance_is_not_taken():
  regions = random_regions()
  held_out = np.arange(10) % 2 == 1
  naming = Naming(regions, held_out, 5, 'PQ')
  rng = np.random.default_rng(1)
  table = {f'w{n}': rng.standard_normal((1, 8)) for n in range(60)}

  def encode(classes):
    return [np.concatenate([table[word] for word in words]) for words in classes]

  words = [(f'w{n}',) for n in range(5)]
  pool = {n: [f'w{10 + 10 * n + i}' for i in range(10)] for n in range(5)}
  # All is chance here: what is kept has gained on both halves all the same.
  for change in improve(naming, words, pool, encode):
    assert change.gain.chosen > 0
    assert change.gain.held_out > 0
  once = Naming(
    dataclasses.replace(regions, photos=regions.photos * 0), held_out, 5, 'PQ'
  )
  assert not once.in_both.any()
  assert improve(once, words, pool, encode) == []


@pytest.mark.parametrize('metric', ['mIoU', 'PQ'])
def test_true_masks_count_as_the_judge_counts_them(metric):
  """Things of an instance each, without stuff: whose segments the judge may merge."""
  run, segmenter = ade_run.run(), ade_run.segmenter()
  source, bank = (
    ade_run.source(),
    segmenter.text_bank(segmenter.vocabulary('ade20k-150')),
  )
  regions = encode_regions(
    segmenter, source, range(len(source)), run.preprocessing(segmenter.preset)
  )
  words = dataclasses.replace(ClassColumns.of(bank), thing=np.ones(256, bool))
  judge = Judge(run, np.ones(150, bool))
  logits = 100 * regions.vectors @ np.asarray(bank.embeddings).T
  for place, example in enumerate(source):
    one = Regions.of(example.truth)
    named = oracles.named_regions(logits[regions.photos == place], one, words)
    judge.add(oracles.judged_regions(example, one), Predicted.of(named))
  labels = np.where(words.valid & ~words.void, logits, -np.inf).argmax(1)
  naming = Naming(regions, np.ones(len(source), bool), 150, metric)
  values = judge.result().values
  wanted = values['mIoU_gt' if metric == 'mIoU' else 'PQ']
  assert 20 < wanted < 99
  assert naming.quality(labels).held_out == pytest.approx(wanted, abs=1e-6)


def test_vectors_that_are_not_finite_are_refused():
  segmenter = colour_model.segmenter()
  segmenter.model.vectors[...] = segmenter.model.vectors[...] * np.nan
  run, source = ade_run.run(), ade_run.source()
  with pytest.raises(ValueError, match='not finite: the weights'):
    encode_regions(segmenter, source, [0], run.preprocessing(segmenter.preset))


def test_data_by_name():
  assert find_data('ade150').views['panoptic'].name == 'ade20k_150/panoptic'
  assert find_data('miniature').protocol.split == 'test'
  assert find_data('voc2012/20', split='train').protocol.split == 'train'
  assert find_data('coco').main_view.name == 'coco/panoptic'


@pytest.mark.parametrize(
  ('changes', 'part'),
  [
    ({'photos': 1}, 'at least 2'),
    ({'templates': ('vild',)}, 'vild_14'),
    ({'candidates': Vocabulary.parse('flor, ground; car')}, "mean 'floor'"),
    ({'words': Vocabulary.parse('cat; dog')}, '150'),
  ],
)
def test_mistakes_are_refused(changes, part):
  with pytest.raises(ValueError, match=part):
    suggest(ade_run.segmenter(), ade_run.run(), data_dir=ade_run.data_dir(), **changes)


def test_data_without_masks_is_refused():
  with pytest.raises(ValueError, match='has no masks'):
    find_data('coco/captions')
