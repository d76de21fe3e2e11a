"""The command line as a person uses it: results, and one line for every mistake."""

import json
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import seeded
from PIL import Image

from maskclip_jax import zoo
from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.cli.model import default_cache, watch_compilation

WORDS = 'cat; sofa, couch; stuff:floor'


def photo(path, size=(90, 60)):
  coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
  return path


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A bundle of a tiny MasQCLIP."""
  directory = tmp_path_factory.mktemp('models') / 'tiny'
  preset = zoo.find_preset('masqclip_tiny')
  flat = params.flatten(random_model(preset.system, preset.config))
  bundle.save(directory, preset.to_dict(), flat)
  return str(directory)


@pytest.fixture
def run(model, tmp_path, capsys):
  """Runs `predict` in this process: (status, stdout, stderr, files written)."""

  def call(*photos, vocabulary=WORDS, out=tmp_path / 'out', use=model, **flags):
    words = [] if vocabulary is None else ['--vocabulary', vocabulary]
    extra = [x for k, v in flags.items() for x in (f'--{k}', str(v))]
    status = main(
      [
        'predict',
        *map(str, photos),
        '--model',
        use,
        *words,
        '--out',
        str(out),
        '--no_cache',
        *extra,
      ]
    )
    text = capsys.readouterr()
    written = sorted(p.name for p in out.glob('*')) if out.is_dir() else []
    return status, text.out, text.err, written

  return call


def assert_one_line_and_nothing_written(result, *parts):
  status, _, err, written = result
  lines = [line for line in err.splitlines() if 'note:' not in line]
  assert status == 2, err
  assert len(lines) == 1, err
  assert lines[0].startswith('maskclip_jax: ')
  for part in parts:
    assert part in lines[0]
  assert written == []


def test_every_task_writes_its_files(run, tmp_path):
  status, out, err, written = run(
    photo(tmp_path / 'a.jpg'), task='panoptic,semantic,instance', object_threshold=0
  )
  assert status == 0
  assert 'no photographs' not in err
  assert written == [
    'a.instance.png',
    'a.json',
    'a.overlay.png',
    'a.panoptic.json',
    'a.panoptic.png',
    'a.semantic.png',
  ]
  assert 'photos in' in out
  content = json.loads((tmp_path / 'out' / 'a.json').read_text())
  names = [category['name'] for category in content['categories']]
  assert names == ['cat', 'sofa', 'floor']
  for annotation in content['annotations']:
    assert set(annotation) >= {'category_id', 'score', 'segmentation', 'bbox', 'area'}


def test_the_best_region_of_each_word_and_nothing_else(run, tmp_path):
  path = photo(tmp_path / 'p.png')
  flags = {'task': 'semantic', 'region_threshold': 0.5}
  status, *_, written = run(path, vocabulary='cat', **flags)
  assert status == 0
  assert written == ['p.json', 'p.overlay.png', 'p.semantic.png']
  classes = np.asarray(Image.open(tmp_path / 'out' / 'p.semantic.png'))
  # The word, what is not the word, and pixels in no region.
  assert set(np.unique(classes)) <= {0, 1, 255}
  content = json.loads((tmp_path / 'out' / 'p.json').read_text())
  assert [row['name'] for row in content['categories']] == ['cat', 'others']
  assert sum(row['area'] for row in content['semantic']) == (classes < 255).sum()
  result = run(path, out=tmp_path / 'no', region_threshold=0.5)
  assert_one_line_and_nothing_written(result, "for the task 'semantic' alone")
  result = run(path, out=tmp_path / 'no', task='semantic', region_threshold=1)
  assert_one_line_and_nothing_written(result, 'must be between 0 and 1, not 1')


def test_a_folder_a_glob_and_files_of_the_same_name(run, tmp_path):
  (tmp_path / 'photos').mkdir()
  photo(tmp_path / 'photos' / 'a.png')
  photo(tmp_path / 'photos' / 'a.jpg')
  photo(tmp_path / 'photos' / 'b.png')
  status, _, _, written = run(tmp_path / 'photos', task='semantic')
  assert status == 0
  stems = {name.removesuffix('.json') for name in written if name.endswith('.json')}
  assert stems == {'a.png', 'a.jpg', 'b', 'predictions'}
  status, _, _, written = run(
    str(tmp_path / 'photos' / 'b*'), out=tmp_path / 'glob', task='semantic'
  )
  assert status == 0
  assert 'b.semantic.png' in written


def test_the_orientation_of_the_camera_is_honoured(run, tmp_path):
  image = Image.open(photo(tmp_path / 'a.png', (60, 90)))
  exif = image.getexif()
  exif[0x0112] = 6  # Rotated by a quarter turn.
  image.save(tmp_path / 'turned.jpg', exif=exif)
  run(tmp_path / 'turned.jpg', task='semantic')
  result = Image.open(tmp_path / 'out' / 'turned.semantic.png')
  assert result.size == (90, 60)


def test_every_kind_of_image_file(run, tmp_path):
  image = Image.open(photo(tmp_path / 'a.png'))
  photos = tmp_path / 'photos'
  photos.mkdir()
  for mode in ('L', 'LA', 'P', 'RGBA', '1'):
    image.convert(mode).save(photos / f'{mode}.png')
  image.convert('CMYK').save(photos / 'CMYK.tif')
  grey = np.asarray(image.convert('L')).astype(np.uint16) * 257
  Image.fromarray(grey).save(photos / 'I16.png')
  status, out, err, written = run(photos, task='semantic')
  assert status == 0, err
  assert '7 photos in' in out
  for path in photos.iterdir():
    assert f'{path.stem}.semantic.png' in written


def test_a_photo_of_twelve_bits_is_told_and_can_be_set(run, tmp_path):
  grey = np.asarray(Image.open(photo(tmp_path / 'a.png')).convert('L'))
  path = tmp_path / 'deep.png'
  Image.fromarray(grey.astype(np.uint16) * 16).save(path)
  status, _, err, _ = run(path, task='semantic')
  assert status == 0
  assert 'note: ' in err
  assert 'deep.png has integers up to' in err
  assert '4095 was taken for white' in err
  status, _, err, _ = run(path, task='semantic', white=4095)
  assert status == 0
  assert 'white' not in err


def test_a_bad_photo_among_good_ones(run, tmp_path):
  photo(tmp_path / 'a.png')
  (tmp_path / 'b.png').write_text('text')
  status, out, err, written = run(
    tmp_path / 'a.png', tmp_path / 'b.png', task='semantic'
  )
  assert status == 2
  assert 'b.png is not an image' in err
  assert '1 of 2 photos' in out
  assert 'a.semantic.png' in written


def test_missing_photo(run, tmp_path):
  assert_one_line_and_nothing_written(run(tmp_path / 'no.jpg'), 'no.jpg', 'not exist')


def test_empty_folder_and_pattern(run, tmp_path):
  (tmp_path / 'empty').mkdir()
  assert_one_line_and_nothing_written(run(tmp_path / 'empty'), 'holds no image')
  assert_one_line_and_nothing_written(run(tmp_path / '*.jpg'), 'no file matches')


def test_truncated_jpeg(run, tmp_path):
  path = photo(tmp_path / 'a.jpg', (400, 300))
  path.write_bytes(path.read_bytes()[:2000])
  assert_one_line_and_nothing_written(run(path), 'a.jpg is damaged', 'again')


def test_text_named_png(run, tmp_path):
  path = tmp_path / 'a.png'
  path.write_text('hello')
  assert_one_line_and_nothing_written(run(path), 'not an image')


@pytest.mark.parametrize(
  ('vocabulary', 'message'),
  [
    ('', 'vocabulary is empty'),
    ('cat; dog; cat', 'cat'),
    (None, 'name what to look for'),
    ('ade20k-151', 'ade20k-150'),
    ('words.txt', 'words.txt'),
  ],
)
def test_bad_words(run, tmp_path, vocabulary, message):
  result = run(photo(tmp_path / 'a.png'), vocabulary=vocabulary)
  assert_one_line_and_nothing_written(result, message)


def test_unwritable_output(run, tmp_path):
  (tmp_path / 'file').write_text('')
  out = tmp_path / 'file' / 'out'
  result = run(photo(tmp_path / 'a.png'), out=out)
  assert_one_line_and_nothing_written(result, 'choose another place')


def test_bad_flags(run, tmp_path):
  path = photo(tmp_path / 'a.png')
  for flags, part in (
    ({'task': 'boxes'}, 'boxes'),
    ({'object_threshold': 3}, 'object_threshold'),
    ({'dtype': 'float16'}, 'float32'),
    ({'use': str(tmp_path / 'nothing')}, 'there is no model'),
    ({'use': str(path)}, f'convert {path} --to DIR'),
    ({'use': str(tmp_path)}, 'not a bundle'),
  ):
    assert_one_line_and_nothing_written(run(path, **flags), part)


def test_a_damaged_bundle(run, model, tmp_path):
  broken = tmp_path / 'broken'
  broken.mkdir()
  for name in ('config.json', 'MODEL_CARD.md'):
    (broken / name).write_bytes((bundle.pathlib.Path(model) / name).read_bytes())
  weights = (bundle.pathlib.Path(model) / 'model.safetensors').read_bytes()
  (broken / 'model.safetensors').write_bytes(weights[: len(weights) // 2])
  result = run(photo(tmp_path / 'a.png'), use=str(broken))
  assert_one_line_and_nothing_written(result, 'model.safetensors')


class _Bomb:
  def __reduce__(self):
    return (print, ('code was executed',))


@pytest.mark.parametrize('case', ['pickle', 'other', 'missing', 'none', 'flag'])
def test_convert_refuses(case, tmp_path, capsys):
  source, flags = tmp_path / 'x.safetensors', []
  if case == 'pickle':
    source = tmp_path / 'x.pth'
    source.write_bytes(pickle.dumps({'model': _Bomb()}))
  elif case == 'other':
    safetensors.numpy.save_file({'fc.weight': np.ones((2, 2))}, source)
  elif case == 'missing':
    weights = seeded.clip_state_dict('tiny')
    del weights['visual.proj']
    safetensors.numpy.save_file(weights, source)
    flags = ['--system', 'clip']
  elif case == 'flag':
    safetensors.numpy.save_file(seeded.clip_state_dict('tiny'), source)
    flags = ['--system', 'masqclip']
  status = main(['convert', str(source), '--to', str(tmp_path / 'bundle'), *flags])
  text = capsys.readouterr()
  assert status == 2
  assert len(text.err.splitlines()) == 1, text.err
  assert 'code was executed' not in text.out
  assert not (tmp_path / 'bundle').exists()
  if case == 'missing':
    assert 'visual.proj' in text.err


def test_convert_then_export_gives_the_same_bytes(tmp_path, capsys):
  weights = seeded.clip_state_dict('tiny')
  source, again = tmp_path / 'clip.safetensors', tmp_path / 'again.safetensors'
  safetensors.numpy.save_file(weights, source)
  assert main(['convert', str(source), '--to', str(tmp_path / 'b')]) == 0, (
    capsys.readouterr().err
  )
  assert main(['export', '--model', str(tmp_path / 'b'), '--to', str(again)]) == 0, (
    capsys.readouterr().err
  )
  returned = safetensors.numpy.load_file(again)
  assert set(returned) == set(weights)
  for key, array in weights.items():
    assert returned[key].tobytes() == array.tobytes()


def test_export_takes_names_and_runs(tmp_path, capsys, model):
  """As its help says: a name of the zoo, and the directory of a finished run."""
  shipped = ['export', '--model', 'clip_baseline_miniature', '--format', 'bundle']
  assert main([*shipped, '--to', str(tmp_path / 'half'), '--dtype', 'float16']) == 0
  assert bundle.is_bundle(tmp_path / 'half')
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'bundle').symlink_to(model)
  official = tmp_path / 'official.safetensors'
  command = ['export', '--model', str(tmp_path / 'run'), '--to', str(official)]
  assert main(command) == 0, capsys.readouterr().err
  assert official.is_file()
  assert main([*shipped[:2], 'nothing', '--to', str(official)]) == 2
  assert "no model 'nothing'" in capsys.readouterr().err


def test_the_shipped_model_says_what_it_does_not_know(run, tmp_path, capsys):
  one = photo(tmp_path / 'a.png')
  words = {'vocabulary': 'star; disk', 'use': 'clip_baseline_miniature'}
  _, _, told, _ = run(one, **words, task='semantic')
  (line,) = [line for line in told.splitlines() if 'no photographs' in line]
  assert zoo.cards()[zoo.FOR_PHOTOGRAPHS].url in line
  silent = [
    '--model',
    words['use'],
    '--vocabulary',
    'star; disk',
    '--task',
    'semantic',
    '--no_cache',
    '--quiet',
  ]
  main(['predict', str(one), *silent, '--out', str(tmp_path / 'quiet')])
  assert capsys.readouterr() == ('', '')


def test_models_list(capsys):
  assert main(['models', 'list']) == 0
  assert 'MasQCLIP' in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_start_compiles_nothing(model, tmp_path):
  """In processes of their own, as a person starts it twice."""
  command = [sys.executable, '-m', 'maskclip_jax', 'predict']
  command += [str(photo(tmp_path / 'a.png')), '--model', model, '--vocabulary', WORDS]
  command += ['--out', str(tmp_path / 'o'), '--cache_dir', str(tmp_path / 'cache')]
  outputs = [
    subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout
    for more in ([], ['--again'])
  ]
  assert 'compiling 0 programs' not in outputs[0]
  assert 'compiling 0 programs' in outputs[1]


def test_the_environment_names_the_cache_unless_a_flag_does(tmp_path, monkeypatch):
  told = {}
  monkeypatch.setattr(jax.config, 'update', told.__setitem__)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'theirs')
  watch_compilation(default_cache())
  assert 'jax_compilation_cache_dir' not in told
  watch_compilation(tmp_path)
  assert told['jax_compilation_cache_dir'] == str(tmp_path / 'compiled')
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  watch_compilation(default_cache())
  assert told['jax_compilation_cache_dir'] == str(default_cache() / 'compiled')


def test_both_modes_of_nnx():
  """The whole path in tree mode has the result of the default mode."""
  code = (
    'import numpy as np; from maskclip_jax.segmenter import Segmenter;'
    's = Segmenter.from_preset("maskclip_tiny");'
    'x = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3);'
    'found = s(x, "cat; dog", "semantic").semantic.tolist()'
  )
  tree = {'NNX_GRAPH_MODE': 'false', 'NNX_GRAPH_UPDATES': 'false'}
  result = subprocess.run(
    [sys.executable, '-c', f'{code}; print(found)'],
    capture_output=True,
    text=True,
    env={**os.environ, **tree},
    check=True,
  )
  default = {}
  exec(code, default)
  assert json.loads(result.stdout) == default['found']


def test_scores_are_read_from_one_flag(tmp_path, capsys):
  """Systems that ask CLIP besides take them; a wrong name is one line."""
  command = [
    'predict',
    str(photo(tmp_path / 'photo.png')),
    '--model',
    'ovseg_tiny',
    '--random_weights',
    '0',
  ]
  command += ['--vocabulary', 'cat; dog', '--task', 'semantic', '--no_cache']
  command += ['--out', str(tmp_path / 'out')]
  assert main([*command, '--scores', 'unseen=1']) == 2
  assert "no score is called 'unseen'" in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
  assert main([*command, '--scores', 'unseen_weight=1,drop_empty=1']) == 0
  assert (tmp_path / 'out' / 'photo.semantic.png').exists()
