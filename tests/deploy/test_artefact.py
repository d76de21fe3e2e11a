"""Artefacts: programs that run where this package is not."""

import errno
import json
import pathlib
import re
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from maskclip_jax import photos
from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.deploy import artefact, programs, run_artefact, stablehlo
from maskclip_jax.deploy.words import Words
from maskclip_jax.ops.deformable import portable, sample_pyramid
from maskclip_jax.resizing import shortest_edge
from maskclip_jax.segmenter import Segmenter, load
from maskclip_jax.text import tokenizer

SCENES = pathlib.Path(artefact.__file__).parents[1] / 'miniature' / 'scenes'
EVERYWHERE = ('cpu', 'cuda', 'tpu')
# Runs the artefact's own script, and its text program, without this package.
BARE = """
import runpy, sys
import numpy as np
script, first, second, words, *missing = sys.argv[1:]
for name in missing:
  sys.modules[name] = None  # cannot be imported
sys.argv = [script, first, '--out', 'first.npz']
found = runpy.run_path(script, run_name='__main__')
sys.argv = [script, second, '--words', words, '--out', 'second.npz']
runpy.run_path(script, run_name='__main__')
encode = found['load_program'](found['read_manifest']()['programs']['text'])
np.save('vectors.npy', encode({'tokens': np.load('tokens.npy')})['vectors'])
"""
# The block of the document that needs nothing but what it imports.
LEAST = re.search(
  r'\*\*The least that runs it\*\*.*?```python\n(.*?)```',
  (pathlib.Path(__file__).parents[2] / 'docs' / 'deployment.md').read_text(),
  re.DOTALL,
)[1]


@pytest.fixture(scope='module')
def miniature():
  return load('clip_baseline_miniature')


def test_the_script_resizes_by_the_librarys_rule():
  random = np.random.default_rng(0)
  for size in [(622, 1244), (1, 9), *random.integers(1, 3000, (500, 2)).tolist()]:
    rule = {'short_edge': 800, 'long_edge': 1333}
    expected = shortest_edge(tuple(size), 800, 1333)
    assert run_artefact.network_size(tuple(size), rule) == expected


def test_sampling_lowers_for_several_platforms_at_once():
  random = np.random.default_rng(0)
  values = random.normal(size=(1, 20, 2, 4)).astype(np.float32)
  points = random.uniform(-1, 5, (1, 3, 2, 1, 2, 2)).astype(np.float32)
  weights = random.uniform(size=(1, 3, 2, 1, 2)).astype(np.float32)
  sample = lambda *arrays: sample_pyramid(arrays[0], [(4, 5)], *arrays[1:])
  with portable():
    program = jax.export.export(jax.jit(sample), platforms=EVERYWHERE)
    exported = program(values, points, weights)
  assert exported.platforms == EVERYWHERE
  # The same sums in the same order, compiled once more.
  np.testing.assert_allclose(
    exported.call(values, points, weights),
    sample(values, points, weights),
    rtol=1e-6,
    atol=1e-6,
  )


def test_words_are_a_file_of_arrays(miniature, tmp_path):
  Words.of(miniature, 'star; disk, coin; stuff:sand', 64).save(tmp_path / 'w.npz')
  words = dict(np.load(tmp_path / 'w.npz'))  # nothing in it is pickled
  assert words['names'].tolist() == ['star', 'disk', 'sand']
  assert words['things'].tolist() == [True, True, False]
  assert words['embeddings'].shape == (64, 64)
  assert set(words) <= {*programs.WORDS, 'names', 'things'}


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--canvas', '100x128'], 'multiples of 32: not 100x128'),
    (['--canvas', 'big'], "given as 640x960, height first, not as 'big'"),
    (['--platforms', 'cpu,gpu'], 'there is no gpu'),
    (['--platforms', 'cpu,'], "there is no ''"),
    (['--batch', '0'], 'batch must be at least 1'),
    (['--batch', 'many'], "a number or 'any', not 'many'"),
    (['--result_canvas', '64x64,9x9'], "not as '64x64,9x9'"),
    (['--result_canvas', '0x5'], 'result_canvas must be at least 1'),
    (['--words', ';'], 'vocabulary'),
    (['--words', 'a; b; c', '--bucket', '2'], 'export with a larger --bucket'),
    (['--dtype', 'float16'], 'float32'),
  ],
)
def test_bad_exports_leave_nothing(flags, message, tmp_path, capsys):
  command = ['export', '--model', 'clip_baseline_miniature', '--format', 'stablehlo']
  assert main([*command, '--to', str(tmp_path / 'a'), *flags]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert len(error.splitlines()) == 1
  assert not list(tmp_path.iterdir())


def test_what_is_not_an_artefact_is_not_replaced(miniature, tmp_path):
  (tmp_path / 'mine.txt').write_text('mine')
  with pytest.raises(ValueError, match='is not an artefact'):
    artefact.export_artefact(miniature, tmp_path)
  with pytest.raises(ValueError, match='is a file'):
    artefact.export_artefact(miniature, tmp_path / 'mine.txt')
  assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']


def test_the_script_says_what_does_not_fit(miniature, tmp_path):
  words = Words.of(miniature, 'star; disk', 64)
  words.save(tmp_path / 'words.npz')
  program = programs.photo_program(miniature, words.arrays, (64, 64), (64, 64))
  shapes = {name: {'shape': list(a.shape)} for name, a in program.inputs.items()}
  entry = {'canvas': [64, 64], 'result_canvas': [64, 64], 'batch': 1, 'inputs': shapes}
  names, things, arrays = run_artefact.read_words(tmp_path / 'words.npz')
  assert (names.tolist(), things.tolist()) == (['star', 'disk'], [True, True])
  others = set(program.inputs) - set(arrays)
  run_artefact.check(arrays, others, entry, 'words.npz')
  Words.of(miniature, 'star; disk', 128).save(tmp_path / 'words.npz')
  _, _, arrays = run_artefact.read_words(tmp_path / 'words.npz')
  with pytest.raises(SystemExit, match='the --bucket of this artefact'):
    run_artefact.check(arrays, others, entry, 'words.npz')
  with pytest.raises(SystemExit, match='not a photo that can be read'):
    run_artefact.read_photo(tmp_path / 'words.npz')
  rule = {'short_edge': 64, 'long_edge': 128, 'resample': 'pillow'}
  manifest = {'preprocessing': rule, 'numbers': {}, 'programs': {'photo': [entry]}}
  with pytest.raises(SystemExit, match='as 64x128, which fits no canvas of 64x64'):
    run_artefact.prepare(Image.new('RGB', (200, 100)), manifest)
  # Ids of the photo's own size where their canvas holds it, else of the network's.
  for side, expected in ((32, (32, 32)), (100, (64, 64))):
    _, inputs, size = run_artefact.prepare(Image.new('RGB', (side, side)), manifest)
    assert tuple(size) == expected
    assert inputs['pixels'].shape == (1, 64, 64, 3)


@pytest.mark.parametrize('name', ['manifest.json', 'photo', 'weights', 'words.npz'])
@pytest.mark.parametrize('content', [None, b'', b'[1]', b'\xff' * 99])
def test_spoilt_files_of_an_artefact_are_one_line(name, content, tmp_path):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  entry = {'file': name, 'weights': name, 'weights_sha256': ''}
  read = {
    'manifest.json': lambda: run_artefact.read_manifest(tmp_path),
    'photo': lambda: run_artefact.load_program(entry | {'weights': None}, tmp_path),
    'weights': lambda: run_artefact.load_program(entry, tmp_path),
    'words.npz': lambda: run_artefact.read_words(path),
  }[name]
  with pytest.raises(SystemExit, match=re.escape(f'{path} cannot be read: ')) as found:
    read()
  assert len(str(found.value).splitlines()) == 1


def test_the_script_reads_photos_as_the_library_does(tmp_path):
  path = tmp_path / 'photo.png'
  Image.new('RGBA', (4, 3), (10, 20, 30, 0)).save(path)
  np.testing.assert_array_equal(run_artefact.read_photo(path), photos.read_photo(path))
  Image.fromarray(np.full((3, 4), 300, np.uint16)).save(path)
  for pixels in (np.full((3, 4), 300, np.uint16), np.full((3, 4, 3), 300, np.uint16)):
    cv2.imwrite(str(path), pixels)
    with pytest.raises(SystemExit, match='more than 8 bits a channel'):
      run_artefact.read_photo(path)
  Image.new('RGB', (64, 64)).save(path)
  content = path.read_bytes()
  for damaged in (content[:60], content[:40] + b'no' + content[42:], b''):
    path.write_bytes(damaged)
    with pytest.raises(SystemExit, match='is not a photo that can be read'):
      run_artefact.read_photo(path)


def test_the_script_reads_weights_of_every_type(tmp_path):
  path = tmp_path / 'weights.safetensors'
  arrays = {
    name: np.arange(6).reshape(2, 3).astype(name)
    for name in ('bfloat16', 'bool', 'float32', 'int32', 'int64')
  }
  write_tensors(path, arrays)
  found = run_artefact.read_weights(path)
  assert {name: array.dtype for name, array in found.items()} == {
    name: np.dtype(name) for name in arrays
  }
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array)


def test_the_script_writes_its_result_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'result.npz'
  run_artefact.save(path, {'names': np.array(['cat'])})
  before = path.read_bytes()

  def full(file, **arrays):
    file.write(b'half')
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(np, 'savez', full)
  with pytest.raises(SystemExit, match=r'result.npz cannot be written: No space left'):
    run_artefact.save(path, {})
  assert [file.name for file in tmp_path.iterdir()] == ['result.npz']
  assert path.read_bytes() == before


def test_the_script_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnxruntime', None)
  with pytest.raises(SystemExit, match='needs onnxruntime: pip install onnxruntime'):
    run_artefact.load_program({'file': 'photo.onnx', 'weights': None}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
  'preset',
  ['fcclip', 'mask2former', 'masqclip', 'ovseg', 'segclip'],
)
def test_every_system_is_one_program_for_three_platforms(preset, tmp_path):
  segmenter = Segmenter.from_preset(f'{preset}_tiny')
  closed = segmenter.preset.vocabulary is not None
  words = Words.of(segmenter, None if closed else 'cat; stuff:floor', 64)
  program = programs.photo_program(segmenter, words.arrays, (64, 96), (64, 96), None)
  stablehlo.write(program, tmp_path / 'photo.stablehlo', EVERYWHERE, None)
  read = jax.export.deserialize((tmp_path / 'photo.stablehlo').read_bytes())
  assert read.platforms == EVERYWHERE
  # Any number of photos is a call.
  assert sum('[n,' in str(a) for a in read.in_avals) == len(program.free) == 3


def test_one_platform_takes_any_number_of_photos_too(tmp_path):
  """The kernel that TPUs sample by alone does not."""
  segmenter = Segmenter.from_preset('proposals_tiny')
  words = Words.of(segmenter, None, 64)
  program = programs.photo_program(segmenter, words.arrays, (64, 96), (64, 96), None)
  stablehlo.write(program, tmp_path / 'photo', ('tpu',), None)
  read = jax.export.deserialize((tmp_path / 'photo').read_bytes())
  assert read.platforms == ('tpu',)
  assert sum('[n,' in str(a) for a in read.in_avals) == 3


@pytest.mark.slow
def test_any_number_of_photos_is_a_call(tmp_path):
  """Of all systems this one compiles fastest, and shares windows among photos."""
  segmenter = Segmenter.from_preset('segclip_tiny')
  words = Words.of(segmenter, 'cat; stuff:floor', 64)
  program = programs.photo_program(segmenter, words.arrays, (64, 96), (64, 96), None)
  stablehlo.write(program, tmp_path / 'photo', ('cpu',), None)
  call = jax.jit(jax.export.deserialize((tmp_path / 'photo').read_bytes()).call)
  photos = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
  sizes = np.array([[64, 96], [64, 64], [40, 96]], np.int32)
  batch = {'pixels': photos, 'image_hw': sizes, 'result_hw': sizes}
  together = call(program.inputs | batch)
  for number in range(3):
    rows = {name: a[number : number + 1] for name, a in batch.items()}
    alone = call(program.inputs | rows)
    np.testing.assert_array_equal(together['semantic'][number], alone['semantic'][0])
    np.testing.assert_allclose(
      together['class_probabilities'][number],
      alone['class_probabilities'][0],
      atol=1e-5,  # float32 sums in another order
    )


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['stablehlo', 'onnx'])
def test_a_stranger_segments_a_photo(kind, miniature, tmp_path):
  """Ids and numbers are the bundle's, for words and sizes that came later."""
  missing = ['maskclip_jax', 'flax', 'jaxtyping']
  if kind == 'onnx':
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    missing += ['jax', 'onnx']
  place = tmp_path / 'artefact'
  command = ['export', '--model', 'clip_baseline_miniature']
  flags = ['--format', kind, '--to', str(place), '--canvas', '128x160']
  flags += ['--result_canvas', '256x256']
  assert main([*command, *flags, '--words', 'miniature-116']) == 0
  words, more = tmp_path / 'more.npz', 'star; disk; bar; stuff:sand; stuff:water'
  flags = ['--format', 'words', '--words', more, '--to', str(words)]
  assert main([*command, *flags]) == 0
  scene, wide = SCENES / 'scene_1.jpg', tmp_path / 'wide.png'
  Image.open(SCENES / 'scene_2.jpg').crop((0, 20, 240, 220)).save(wide)
  prompts = ['a star', 'yellow sand']
  length = miniature.preset.config.clip.context_length
  np.save(tmp_path / 'tokens.npy', tokenizer.tokenize(prompts, length))
  subprocess.run(
    [sys.executable, '-c', BARE, place / artefact.RUNNER, scene, wide, words, *missing],
    cwd=tmp_path,
    check=True,
  )
  if kind == 'stablehlo':
    without = f'import sys\nsys.modules |= dict.fromkeys({missing})\n'
    (tmp_path / 'ARTEFACT').symlink_to(place)
    (tmp_path / 'photo.jpg').symlink_to(scene)
    code = f'{without}{LEAST}\nnp.save("least.npy", semantic)'
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(
      np.load(tmp_path / 'least.npy'), np.load(tmp_path / 'first.npz')['semantic']
    )
  for photo, vocabulary, name in (
    (scene, 'miniature-116', 'first'),
    (wide, more, 'second'),
  ):
    found = np.load(tmp_path / f'{name}.npz')
    expected = miniature(photo, vocabulary, 'semantic, panoptic')
    np.testing.assert_array_equal(found['semantic'], expected.semantic)
    np.testing.assert_array_equal(found['panoptic'], expected.panoptic)
    classes = found['segment_classes'][: len(expected.segments)]
    assert classes.tolist() == [s.class_index for s in expected.segments]
    assert expected.segments
    assert tuple(found['names'].tolist()) == expected.names
  manifest = json.loads((place / artefact.MANIFEST).read_text())
  (entry,) = manifest['programs']['photo']
  assert entry['parity']['semantic_pixels'] == 0
  assert entry['parity']['panoptic_pixels'] == 0
  assert (place / artefact.CARD).read_text()
  # float32 sums in another order; logits reach about 30.
  assert entry['parity']['mask_logits'] < 3e-4
  assert entry['parity']['class_probabilities'] < 1e-5
  np.testing.assert_allclose(
    np.load(tmp_path / 'vectors.npy'), miniature.encode_text(prompts), atol=1e-5
  )


@pytest.mark.slow
def test_a_saved_model_says_the_same(tmp_path):
  """What the manifest records was computed by TensorFlow."""
  pytest.importorskip('tensorflow')
  pytest.importorskip('orbax.export')
  segmenter = Segmenter.from_preset('masqclip_tiny')
  config = artefact.ArtefactConfig(
    canvases=((64, 96),), result_canvas=(64, 96), bucket=64, format='savedmodel'
  )
  artefact.export_artefact(segmenter, tmp_path / 'a', config, words='cat; stuff:floor')
  manifest = json.loads((tmp_path / 'a' / artefact.MANIFEST).read_text())
  (entry,) = manifest['programs']['photo']
  assert (tmp_path / 'a' / entry['file'] / 'saved_model.pb').is_file()
  # float32 sums in another order.
  assert entry['parity']['mask_logits'] < 1e-4
  assert entry['parity']['class_probabilities'] < 1e-5
  text = manifest['programs']['text']
  length = text['inputs']['tokens']['shape'][1]
  tokens = np.zeros((3, length), np.int32)
  tokens[:, :2] = [[1, 3], [1, 4], [1, 5]]
  found = run_artefact.load_program(text, tmp_path / 'a')({'tokens': tokens})
  program = programs.text_program(segmenter)
  expected = program.function(program.weights, {'tokens': tokens})
  np.testing.assert_allclose(found['vectors'], expected['vectors'], atol=1e-5)


@pytest.mark.parametrize(
  ('kind', 'package', 'extra'),
  [('savedmodel', 'tensorflow', 'tf'), ('onnx', 'onnxruntime', 'onnx')],
)
def test_a_format_says_what_it_needs(kind, package, extra, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ValueError, match=rf'pip install .maskclip_jax\[{extra}\]'):
    artefact.ArtefactConfig(format=kind)
