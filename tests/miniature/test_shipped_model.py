"""The model that comes with the package: its recorded numbers, what words change."""

import json
import pathlib

import pytest

import maskclip_jax
from maskclip_jax import zoo
from maskclip_jax.__main__ import main
from maskclip_jax.data.build import build
from maskclip_jax.photos import read_photo

((NAME, BUNDLE),) = zoo.shipped().items()
# Of `eval --limit 20`, by the program that made benchmarks/ledger.
RECORDED = pathlib.Path(__file__).parent.parent / 'goldens' / 'shipped_model.json'
SCENES = sorted(BUNDLE.with_name('scenes').glob('*.jpg'))


@pytest.fixture(scope='module')
def segmenter():
  return maskclip_jax.load(NAME)


@pytest.mark.slow
def test_recorded_numbers_on_twenty_scenes(tmp_path):
  build('miniature', None, tmp_path / 'data', sizes={'test': 20})
  data, out = f'--data_dir={tmp_path / "data"}', tmp_path / 'out'
  assert main(['eval', '--model', NAME, data, '--evals=miniature', f'--out={out}']) == 0
  numbers = json.loads(next(out.rglob('results.json')).read_text())['numbers']
  numbers = {key.replace('+20 of 250', ''): value for key, value in numbers.items()}
  recorded = json.loads(RECORDED.read_text())['numbers']
  assert len(recorded) > 40
  for key, value in recorded.items():
    # A mask's border may move by a pixel on another machine; a lost segment is 1.
    assert numbers[key] == pytest.approx(value, abs=0.3), key


def words_of(prediction) -> list[str]:
  return [prediction.names[segment.class_index] for segment in prediction.segments]


def test_things_are_found_in_its_scenes(segmenter):
  assert len(SCENES) >= 4
  for scene in SCENES:
    found = segmenter(read_photo(scene), 'miniature-things', task='panoptic')
    assert found.segments, scene.name


def test_a_result_follows_the_words(segmenter):
  # A blue disk and a dotted pink bar, on water and tiles.
  photo = read_photo(SCENES[1])

  def found(words):
    return sorted(words_of(segmenter(photo, words, task='panoptic')))

  assert found('miniature-116') == ['blue disk', 'dotted pink bar', 'tiles', 'water']
  assert found('disk; bar; star') == ['bar', 'disk']


def test_it_is_small(segmenter):
  size = sum(path.stat().st_size for path in BUNDLE.rglob('*') if path.is_file())
  assert size < 12e6
  assert segmenter.preset == zoo.find_preset(NAME)
