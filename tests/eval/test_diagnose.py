"""Oracles, findings and the report, on a model whose mistakes are known."""

import dataclasses
import functools
import html.parser

import ade_run
import ade_scenes
import jax
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskclip_jax.eval.diagnosis import findings, oracles
from maskclip_jax.eval.diagnosis.diagnose import (
  AS_IS,
  ORACLE_MASKS,
  ORACLE_NAMES,
  TRUE_WORDS,
  diagnose,
  image_quality,
)
from maskclip_jax.eval.diagnosis.overlaps import Regions, overlap, shared_pixels
from maskclip_jax.eval.diagnosis.report import (
  conclusion,
  report,
  truth_results,
  write_report,
)
from maskclip_jax.eval.examples import Truth
from maskclip_jax.eval.judge import Judge, Predicted
from maskclip_jax.eval.metrics.instance import TrueObjects
from maskclip_jax.eval.metrics.panoptic import Segments
from maskclip_jax.eval.predictor import ClassColumns, ImageOutputs, Variant
from maskclip_jax.ops.resize import resize
from maskclip_jax.postprocess import Results
from maskclip_jax.postprocess.tiles import Geometry, PackedMasks


@pytest.fixture(scope='module')
def diagnosis():
  return diagnose(ade_run.evaluator(), ade_run.source(), pictures=2)


def test_perfect_names_help_the_class_that_is_mistaken(diagnosis):
  iou = {name: m.per_class['IoU'] for name, m in diagnosis.metrics.items()}
  bed, wall = ade_scenes.BED, ade_scenes.WALL
  assert iou[AS_IS][bed] == 0
  assert iou[ORACLE_NAMES][bed] > 90
  # The right word was there, and the model did not want it.
  assert iou[TRUE_WORDS][bed] < 50
  # True masks do not change what the model calls a bed.
  assert iou[ORACLE_MASKS][bed] == 0
  assert iou[ORACLE_MASKS][wall] >= iou[AS_IS][wall]
  pq = {name: m.values['PQ'] for name, m in diagnosis.metrics.items()}
  assert pq[ORACLE_NAMES] > pq[AS_IS]
  assert pq[ORACLE_MASKS] > pq[AS_IS]


def test_the_confusion_is_found_and_costed(diagnosis):
  first = diagnosis.confusions[0]
  assert (first.true, first.predicted) == (ade_scenes.BED, ade_scenes.CAR)
  assert first.share > 90
  assert diagnosis.wrong_names[0][:2] == (ade_scenes.BED, ade_scenes.CAR)


def test_true_regions_are_counted_once(diagnosis):
  regions = [Regions.of(example.truth) for example in ade_run.source()]
  total = sum(map(len, regions))
  assert diagnosis.fates.counts.sum() == total
  assert (diagnosis.fates.recall[:, 0] >= diagnosis.fates.recall[:, -1]).all()
  assert diagnosis.examples == ade_run.PHOTOS


def test_pictures_are_the_extremes(diagnosis):
  best, worst = ([s.score for s in x] for x in (diagnosis.best, diagnosis.worst))
  assert len(best) == len(worst) == 2
  assert best == sorted(best, reverse=True)
  assert worst == sorted(worst)
  assert max(worst) <= min(best)


class Page(html.parser.HTMLParser):
  """Collects what a page refers to, and checks that tags close."""

  VOID = ('meta', 'img', 'rect', 'path', 'circle', 'polyline', 'br')

  def __init__(self):
    super().__init__()
    self.links, self.open, self.pictures = [], [], 0

  def handle_starttag(self, tag, attrs):
    values = dict(attrs)
    source = values.get('src') or values.get('href')
    self.pictures += tag == 'img'
    if source is not None and not source.startswith('data:'):
      self.links.append(source)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag


def test_the_report_is_one_page_that_needs_nothing_else(diagnosis, tmp_path):
  path = write_report(diagnosis, tmp_path)
  text = path.read_text()
  page = Page()
  page.feed(text)
  assert page.open == []
  assert page.links == []
  assert 'http' not in text.replace('http-equiv', '')
  assert page.pictures == 2 * 4
  assert conclusion(diagnosis) in text.replace('&#x27;', "'")
  assert '<td>bed</td><td>car</td>' in text
  assert [p.name for p in tmp_path.iterdir()] == ['report.html']


def test_names_are_text_in_the_report(diagnosis):
  names = ('<script>alert(1)</script>', *diagnosis.class_names[1:])
  text = report(dataclasses.replace(diagnosis, class_names=names))
  assert '<script>' not in text


def test_a_diagnosis_of_augmented_runs_is_refused():
  evaluator = ade_run.evaluator('ade150_semantic', variants=(Variant(flip=True),))
  with pytest.raises(ValueError, match='without flipping'):
    diagnose(evaluator, ade_run.source('ade150_semantic'))


# --- the parts ------------------------------------------------------------------------


def random_outputs(geometry, queries=11, seed=0):
  rng = np.random.default_rng(seed)
  coarse = rng.standard_normal((queries, geometry.mask[0], geometry.mask[1]))
  return ImageOutputs(
    jax.numpy.asarray(coarse, jax.numpy.float32), None, None, geometry
  )


@pytest.mark.parametrize(
  'geometry',
  [
    Geometry((16, 24), (64, 96), (60, 90), (100, 150)),
    Geometry((16, 24), (64, 96), (64, 96), (20, 30)),
    Geometry((8, 8), (32, 32), (1, 32), (1, 40)),
  ],
)
def test_shared_pixels_are_those_of_the_full_masks(geometry):
  outputs = random_outputs(geometry)
  rng = np.random.default_rng(1)
  rows = rng.integers(-1, 40, geometry.original)
  regions = Regions(rows, np.arange(40), np.bincount(rows.ravel() + 1)[1:])
  padded = resize(outputs.mask_logits, geometry.padded)
  full = resize(padded[:, : geometry.image[0], : geometry.image[1]], geometry.original)
  inside = np.asarray(full) > 0
  expected = [[(inside[q] & (rows == n)).sum() for n in range(40)] for q in range(11)]
  found = shared_pixels(outputs, regions, tile=32)
  # Two orders of the same products may round a logit of zero to either side.
  assert np.abs(found - expected).sum() <= 2
  iou = overlap(outputs, regions, tile=32)
  judged = inside[0] & (rows >= 0)
  union = judged.sum() + regions.areas[3] - found[0, 3]
  assert iou[0, 3] == pytest.approx(found[0, 3] / union, abs=1e-2)


def test_regions_of_every_kind_of_truth():
  rows = np.array([[0, 0, 1], [1, -1, 2]])
  crowd = np.array([False, False, True])
  segments = Segments(rows, np.array([5, 6, 7]), crowd)
  found = Regions.of(Truth(panoptic=segments))
  np.testing.assert_array_equal(found.map, [[0, 0, 1], [1, -1, -1]])
  np.testing.assert_array_equal(found.classes, [5, 6])
  found = Regions.of(Truth(semantic=np.array([[4, 4, -1], [2, 2, 2]])))
  np.testing.assert_array_equal(found.classes, [2, 4])
  np.testing.assert_array_equal(found.areas, [3, 2])
  large, small = np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
  small[1:3, 1:3] = 1
  masks = [coco_mask.encode(np.asfortranarray(m)) for m in (small, large)]
  objects = TrueObjects(
    masks, np.array([1, 2]), np.zeros(2, bool), np.array([4.0, 16.0])
  )
  found = Regions.of(Truth(instance=objects))
  np.testing.assert_array_equal(found.areas, [4, 12])
  nothing = TrueObjects([], np.zeros(0, int), np.zeros(0, bool), np.zeros(0))
  assert len(Regions.of(Truth(instance=nothing))) == 0


def words(columns=150, padding=42):
  valid = np.arange(columns + padding) < columns + 1
  void = np.arange(columns + padding) == columns
  thing = np.zeros(columns + padding, bool)
  thing[:columns] = ade_run.evaluator().vocabulary.things
  return ClassColumns(valid, thing, void)


def test_true_regions_with_true_names_are_perfect():
  """The oracles agree with the metrics on what perfect is."""
  judge = Judge(ade_run.run(), ade_run.evaluator().vocabulary.things)
  for example in ade_run.source():
    regions = Regions.of(example.truth)
    logits = np.full((len(regions), 192), -50.0, np.float32)
    logits[np.arange(len(regions)), regions.classes] = 50
    results = oracles.named_regions(logits, regions, words())
    judge.add(oracles.judged_regions(example, regions), Predicted.of(results))
  values = judge.result().values
  assert values['mIoU_gt_or_pred'] == pytest.approx(100)
  assert values['AP'] == pytest.approx(100)
  # PQ counts a stuff segment that is wholly covered, and stated areas [masqclip 9.2].
  assert values['PQ'] > 95


def test_only_present_words_and_void_are_left():
  left = oracles.present_words(words(), np.array([3, 9]))
  assert np.flatnonzero(left.valid).tolist() == [3, 9, 150]


def test_oracle_names_follow_the_overlap():
  regions = Regions(np.zeros((1, 1), int), np.array([8, 2]), np.array([5, 5]))
  iou = np.array([[0.2, 0.7], [0.6, 0.1], [0.0, 0.0]], np.float32)
  scores = oracles.named_by_truth(iou, regions, words())
  p = np.asarray(scores.probabilities)
  assert p[0].argmax() == 2
  assert p[1].argmax() == 8
  np.testing.assert_allclose(p.sum(1), [0.7, 0.6, 0.0])


def test_small_regions_keep_a_cell():
  rows = np.full((64, 64), 0)
  rows[10:12, 10:11] = 1
  regions = Regions(rows, np.array([0, 1]), np.array([4094, 2]))
  geometry = Geometry((16, 16), (64, 64), (64, 64), (64, 64))
  masks = oracles.region_masks(regions, geometry)
  assert masks.shape == (2, 16, 16)
  assert (masks[1] > 0).sum() == 1
  assert masks[1, 2, 2] > 0
  assert (masks[0] > 0).all()


def test_costs_are_what_the_mean_would_gain():
  rng = np.random.default_rng(0)
  confusion = rng.integers(0, 50, (7, 7))
  confusion[np.arange(6), np.arange(6)] += 200
  confusion[:, 4] = 0  # A class that never occurs, but is predicted.

  def mean_iou(counts):
    true = counts.sum(0)[:-1]
    predicted, hits = counts[:-1, :-1].sum(1), np.diag(counts)[:-1]
    present = true > 0
    return 100 * (hits / (true + predicted - hits))[present].mean()

  found = findings.costly_confusions(confusion, most=100, tried=100)
  assert [c.cost for c in found] == sorted((c.cost for c in found), reverse=True)
  for one in found:
    better = confusion.copy()
    pixels = better[one.predicted, one.true]
    better[one.predicted, one.true] = 0
    better[one.true, one.true] += pixels
    gain = mean_iou(better) - mean_iou(confusion)
    assert one.cost == pytest.approx(gain), one
    assert one.share == pytest.approx(100 * pixels / confusion[:, one.true].sum())


def test_calibration_of_scores_that_mean_what_they_say():
  rng = np.random.default_rng(0)
  calibration = findings.Calibration()
  regions = Regions(np.zeros((1, 1), int), np.array([3]), np.array([1]))
  scores = rng.random(20000).astype(np.float32)
  labels = np.where(rng.random(20000) < scores, 3, 4)
  calibration.add(regions, np.ones((20000, 1), np.float32), labels, scores)
  # Twenty thousand draws: a standard error of about 0.01 per bin.
  assert calibration.error() < 0.02
  over = findings.Calibration()
  over.add(regions, np.zeros((10, 1), np.float32), labels[:10], np.full(10, 0.95))
  assert over.error() == pytest.approx(0.95)
  assert np.isnan(findings.Calibration().error())


def test_quality_of_one_photo():
  semantic = np.array([[0, 0, 1, -1]])
  truth = Truth(semantic=semantic)
  assert image_quality(truth, Results(semantic=np.array([[0, 0, 1, 5]]))) == 100
  assert image_quality(truth, Results(semantic=np.array([[0, 0, 0, 0]]))) == (
    pytest.approx(100 * (2 / 3) / 2)
  )
  assert np.isnan(image_quality(Truth(semantic=semantic * 0 - 1), Results(semantic)))
  plane = np.ones((1, 4, 4), np.uint8)
  mask = coco_mask.encode(np.asfortranarray(plane[0]))
  objects = TrueObjects([mask], np.array([2]), np.array([False]), np.array([16.0]))
  found = functools.partial(
    oracles.Instances,
    np.array([0.5], np.float32),
    queries=np.array([0]),
    areas=np.array([16]),
    masks=PackedMasks(plane, 1),
    rows=np.array([0]),
  )
  truth = Truth(instance=objects)
  right = Results(instances=found(classes=np.array([2])))
  wrong = Results(instances=found(classes=np.array([1])))
  assert image_quality(truth, right) == 100
  assert image_quality(truth, wrong) == 0


def test_truth_is_drawn_as_regions(diagnosis):
  example = ade_run.source()[0]
  drawn = truth_results(example.truth, diagnosis)
  regions = Regions.of(example.truth)
  np.testing.assert_array_equal(drawn.panoptic, regions.map + 1)
  assert [s.class_index for s in drawn.segments] == regions.classes.tolist()
