"""What `benchmarks/miniature.py` measures besides the protocols' numbers."""

import collections
import importlib.util
import json
import pathlib
import types

import pytest

from maskclip_jax.data.build import build
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import PROTOCOLS
from maskclip_jax.miniature.words import SHAPES, STUFF, THINGS, Kind
from maskclip_jax.postprocess.panoptic import Segment
from maskclip_jax.results.prediction import Detection, Prediction
from maskclip_jax.text.vocabulary import Vocabulary

FOLDER = pathlib.Path(__file__).parent.parent.parent / 'benchmarks'
VOCABULARY = Vocabulary.named('miniature-116')


@pytest.fixture(scope='module')
def table():
  spec = importlib.util.spec_from_file_location('table', FOLDER / 'miniature.py')
  module = importlib.util.module_from_spec(spec)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(FOLDER)
    spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  build('miniature', None, folder, sizes={'test': 6})
  run = PROTOCOLS['miniature'].for_system('masqclip')
  return ProtocolSource(run, folder, tasks=('instance', 'panoptic'))


class TrueSegmenter:
  """Knows the truth of a source's photos.

  Attributes:
    truths: of the photos, by their bytes.
    score: of a detection, from its kind.
    rename: the class that is said, from the true one.
    preset: its vocabulary, None where words name the masks.
  """

  def __init__(
    self,
    source,
    *,
    score=lambda kind: 0.9,
    rename=lambda label: label,
    vocabulary='object',
  ):
    self.truths = {example.photo.tobytes(): example.truth for example in source}
    self.score, self.rename = score, rename
    self.preset = types.SimpleNamespace(vocabulary=vocabulary)

  def __call__(self, photo, words=None, *, task, top_k=100):
    if task == 'instance':
      assert (words is None) == (self.preset.vocabulary is not None)
    truth = self.truths[photo.tobytes()]
    results = {'panoptic': self._panoptic, 'instance': self._instance}[task](truth)
    return Prediction(
      photo.shape[:2],
      tuple(c.name for c in VOCABULARY.classes),
      VOCABULARY.things,
      **results,
    )

  def _panoptic(self, truth):
    rows = enumerate(map(self.rename, truth.panoptic.classes.tolist()), 1)
    segments = tuple(Segment(id_, c, c < THINGS, 1.0, 1, 0) for id_, c in rows)
    return {'panoptic': truth.panoptic.map + 1, 'segments': segments}

  def _instance(self, truth):
    rows = zip(truth.instance.classes.tolist(), truth.instance.masks, strict=True)
    found = [
      Detection(0, self.score(Kind.of(label)), 1, (0, 0, 1, 1), rle)
      for label, rle in rows
    ]
    return {'instances': tuple(found)}


def test_the_scenes_hold_both_kinds(source):
  counts = collections.Counter(
    Kind.of(label).novel
    for example in source
    for label in example.truth.instance.classes.tolist()
  )
  assert counts[False] > 2
  assert counts[True] > 2


@pytest.fixture(scope='module')
def split(table):
  return table.SPLITS['near']


def test_recall_of_proposals(table, source, split):
  everything = table.found(TrueSegmenter(source), source, split)
  assert everything == dict.fromkeys(split.recalls, 100)
  doubtful = TrueSegmenter(source, score=lambda kind: 0.4 if kind.novel else 0.6)
  shares = table.found(doubtful, source, split)
  assert shares == {**everything, 'novel, likely': 0}
  surer = table.found(doubtful, source, split, likely=1.0)
  assert surer['base'] == 100
  assert surer['base, likely'] == 0


def test_masks_that_words_name_are_found_or_not(table, source, split):
  named = TrueSegmenter(source, vocabulary=None)
  assert table.found(named, source, split) == dict.fromkeys(split.groups, 100)


def test_the_far_split_tells_three_groups_apart(table, source):
  split = table.SPLITS['far']
  of_far = TrueSegmenter(source, score=lambda kind: 0.4 if kind.far else 0.6)
  shares = table.found(of_far, source, split)
  assert shares == {**dict.fromkeys(split.recalls, 100), 'far, likely': 0}
  protocol = PROTOCOLS[split.protocol]
  assert set(split.numbers) <= {
    *protocol.headline,
    'PQst',
  }


def test_parts_of_names(table, source, split):
  assert table.read_parts(TrueSegmenter(source), source, split) == dict.fromkeys(
    split.parts, 100
  )

  def other_shape(label):
    if label >= THINGS:
      return label
    kind = Kind.of(label)
    shape = (kind.shape + 1) % len(SHAPES)
    return Kind(shape, kind.colour, kind.pattern).number

  shares = table.read_parts(TrueSegmenter(source, rename=other_shape), source, split)
  wrong = {'shape, base', 'shape, novel'}
  assert shares == {part: 0 if part in wrong else 100 for part in split.parts}


def test_things_named_as_stuff_are_covered_and_wrong(table, source, split):
  def ground(label):
    return THINGS + label % len(STUFF)

  shares = table.read_parts(TrueSegmenter(source, rename=ground), source, split)
  assert shares == {
    part: 100 if part.startswith('covered') else 0 for part in split.parts
  }


def test_a_table_shows_mean_and_spread_of_the_seeds_at_hand(table):
  seeds = [{'a/x': 1.0, 'a/y': 2.0}, {'a/x': 3.0}]
  lines = table.rows(seeds, {'a': 'System A', 'b': 'System B'}, ('x', 'y', 'z'))
  assert lines[-1] == '| System A | 2.0 ± 1.4 | 2.0 | - |'
  assert not any('System B' in line for line in lines)
  lines = table.rows([*seeds, {'b/x': 5.0}], {'a': 'A', 'b': 'B'}, ('x',))
  assert lines[-2:] == ['| A (2 seeds) | 2.0 ± 1.4 |', '| B | 5.0 |']


def test_what_is_recorded_grows_by_seeds_and_systems(table, tmp_path, monkeypatch):
  def trained(name, seed, **systems):
    for system, number in systems.items():
      run = tmp_path / name / system
      (run / 'checkpoints').mkdir(parents=True)
      (run / 'config.json').write_text(json.dumps({'seed': seed}))
      (run / 'number').write_text(str(number))
    # A system that was put together from others was not trained and has no seed.
    (tmp_path / name / 'joined').mkdir(exist_ok=True)
    (tmp_path / name / 'joined' / 'config.json').write_text('{}')
    return tmp_path / name

  def numbers_of(directory, *_):
    numbers = directory.glob('*/number')
    return {f'{n.parent.name}/base': float(n.read_text()) for n in numbers}

  def record(*directories):
    arguments = [
      *map(str, directories),
      '--data_dir',
      '.',
      '--scale',
      '0.4',
      '--record',
    ]
    monkeypatch.setattr('sys.argv', ['miniature.py', *arguments])
    table.main()
    return json.loads((tmp_path / 'results' / 'miniature_0.4.json').read_text())

  monkeypatch.setattr(table, 'ROOT', tmp_path)
  monkeypatch.setattr(table, 'numbers_of', numbers_of)
  (tmp_path / 'results').mkdir()
  place = f'<!-- table of benchmarks/miniature.py --scale 0.4 -->\n{table.pages.END}'
  (tmp_path / 'miniature.md').write_text(place)
  assert record(trained('second', 1, teacher=3.0))['seeds'] == [{}, {'teacher/base': 3}]
  assert 'Seeds: 1.' in (tmp_path / 'miniature.md').read_text()
  first = trained('first', 0, teacher=1.0)
  others = trained('others', 0, longer=5.0)
  seeds = record(first, others, trained('again', 1, teacher=4.0))['seeds']
  assert seeds == [{'teacher/base': 1, 'longer/base': 5}, {'teacher/base': 4}]
  page = (tmp_path / 'miniature.md').read_text()
  assert '| teacher | 2.5 ± 2.1 |' in page
  assert '| longer | 5.0 |' in page

  trained('first', 2, student_1=1.0)
  with pytest.raises(ValueError, match=r'seeds \[0, 2\]: one directory is one seed'):
    record(first)
  with pytest.raises(ValueError, match='has no runs'):
    record(tmp_path)


def test_the_pages_have_places_for_their_tables(table):
  assert table.mark(1) == 'benchmarks/miniature.py'
  for split in table.SPLITS.values():
    page = split.page.read_text()
    for scale in (1, 0.4):
      assert f'<!-- table of {table.mark(scale)} -->' in page


def test_a_measurement_is_made_once(table, tmp_path, monkeypatch):
  (tmp_path / 'judged').mkdir()
  (tmp_path / 'teacher').mkdir()
  (tmp_path / 'teacher' / 'config.json').touch()
  monkeypatch.setattr(table.maskclip_jax, 'load', lambda place: place.name)
  places = {name: tmp_path / name for name in ('teacher', 'student')}
  made = []

  def measure(segmenter):
    made.append(segmenter)
    return {'base': 1.0}

  for _ in range(2):
    rows = table.kept(tmp_path, 'recall.json', places, measure)
    assert rows == {'teacher': {'base': 1.0}}
  assert made == ['teacher']
