"""The models that come with the package: recorded numbers, what words change."""

import json
import pathlib

import pytest

import maskclip_jax
from maskclip_jax import zoo
from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import restore
from maskclip_jax.data.build import build
from maskclip_jax.photos import read_photo

MODELS = zoo.shipped()
# Of `eval --limit 20`, by the program that made benchmarks/ledger.
RECORDED = pathlib.Path(__file__).parent.parent / 'goldens' / 'shipped_models.json'
SCENES = sorted(MODELS['masqclip_miniature_192'].with_name('scenes').glob('*.jpg'))


@pytest.fixture(scope='module', params=MODELS)
def segmenter(request):
  return maskclip_jax.load(request.param)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  build('miniature', None, folder, sizes={'test': 20})
  return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_recorded_numbers_on_twenty_scenes(name, data_dir, tmp_path):
  places = f'--data_dir={data_dir}', f'--out={tmp_path}'
  assert main(['eval', '--model', name, *places, '--evals=miniature']) == 0
  numbers = json.loads(next(tmp_path.rglob('results.json')).read_text())['numbers']
  numbers = {key.replace('+20 of 250', ''): value for key, value in numbers.items()}
  recorded = json.loads(RECORDED.read_text())[name]
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
  words = 'stuff:water; blue disk; dotted pink bar'
  assert found(words) == ['blue disk', 'dotted pink bar', 'water']
  # Neither is there. A crop is named by what it is most like; mask tokens have learned
  # what is nothing of it.
  assert (found('green star; red bar') == []) == (segmenter.preset.system == 'masqclip')


@pytest.mark.parametrize('name', MODELS)
def test_it_is_small(name):
  files = [path for path in MODELS[name].rglob('*') if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 12e6
  _, preset = restore.open_bundle(MODELS[name])
  assert preset == zoo.find_preset(name)
