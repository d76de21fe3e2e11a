"""Bundles: written whole or not at all, read with numpy alone, damage in one line."""

import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import golden
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax import zoo
from maskclip_jax.checkpoints import bundle, params, restore
from maskclip_jax.checkpoints.detect import open_clip
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.mapping import rules
from maskclip_jax.systems.clip.checkpoint import OPENAI

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = {'system': 'clip', 'config': {'patch_size': 16}}
TENSORS = {
  'clip/text/proj/kernel': np.arange(6, dtype=np.float32).reshape(2, 3),
  'clip/visual/proj/kernel': np.ones((3, 2), np.float32).T,
  'scale': np.asarray(2.5, np.float32),
}


@pytest.fixture
def saved(tmp_path):
  source = {'files': [{'name': 'x.pth'}]}
  bundle.save(tmp_path / 'b', CONFIG, TENSORS, source=source, card='# Card\n')
  return tmp_path / 'b'


def left_in(directory) -> list[str]:
  return sorted(p.name for p in directory.iterdir())


def test_round_trip(saved):
  opened = bundle.load(saved)
  assert opened.config == CONFIG
  assert opened.source == {'files': [{'name': 'x.pth'}]}
  assert opened.library_version
  assert opened.parameters.keys() == TENSORS.keys()
  for path, array in TENSORS.items():
    np.testing.assert_array_equal(opened.parameters[path], array)
  assert (saved / 'MODEL_CARD.md').read_text() == '# Card\n'
  assert left_in(saved.parent) == ['b']


def test_reading_takes_numpy_alone(saved):
  code = (
    'import sys; from maskclip_jax.checkpoints import bundle; '
    f'b = bundle.load({str(saved)!r}); print(sum(a.sum() for a in '
    'b.parameters.values())); print({"jax", "flax", "torch"} & set(sys.modules))'
  )
  run = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert run.stdout.splitlines() == ['23.5', 'set()']


def test_fingerprints_follow_content_names_and_shapes():
  whole, text = bundle.fingerprints(TENSORS)
  assert (whole, text) == bundle.fingerprints(dict(reversed(TENSORS.items())))
  path = 'clip/visual/proj/kernel'
  for changed in (
    TENSORS | {path: TENSORS[path] * 2},
    TENSORS | {path: TENSORS[path].reshape(3, 2)},
    TENSORS | {path: TENSORS[path].astype(np.float64)},
    TENSORS | {'more': np.zeros(1, np.float32)},
  ):
    other, same_text = bundle.fingerprints(changed)
    assert other != whole
    assert same_text == text
  assert bundle.fingerprints({'scale': TENSORS['scale']})[1] is None


def test_one_text_tower_has_one_fingerprint_in_every_system():
  alone = {p.removeprefix('clip/'): a for p, a in TENSORS.items()}
  assert bundle.fingerprints(alone)[0] != bundle.fingerprints(TENSORS)[0]
  assert bundle.fingerprints(alone)[1] == bundle.fingerprints(TENSORS)[1]
  changed = TENSORS | {'clip/text/proj/kernel': np.zeros((2, 3), np.float32)}
  assert bundle.fingerprints(changed)[1] != bundle.fingerprints(TENSORS)[1]


def test_a_bundle_is_replaced_by_a_newer_one(saved):
  (saved / 'notes.txt').write_text('mine')
  bundle.save(saved, CONFIG, {'scale': np.zeros((), np.float32)})
  assert list(bundle.load(saved).parameters) == ['scale']
  assert left_in(saved.parent) == ['b']


def test_parents_are_made_and_empty_directories_used(tmp_path):
  (tmp_path / 'empty').mkdir()
  for target in (tmp_path / 'empty', tmp_path / 'a' / 'b' / 'c'):
    bundle.save(target, CONFIG, TENSORS)
    assert bundle.is_bundle(target)


def test_a_directory_that_is_no_bundle_is_never_overwritten(tmp_path):
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'cat.jpg').touch()
  with pytest.raises(ValueError, match=r'photos exists and is not a bundle'):
    bundle.save(tmp_path / 'photos', CONFIG, TENSORS)
  assert left_in(tmp_path / 'photos') == ['cat.jpg']
  with pytest.raises(ValueError, match=r'cat\.jpg is a file'):
    bundle.save(tmp_path / 'photos' / 'cat.jpg', CONFIG, TENSORS)
  with pytest.raises(OSError, match=r'cannot write .*cat\.jpg is a file'):
    bundle.save(tmp_path / 'photos' / 'cat.jpg' / 'b', CONFIG, TENSORS)


@pytest.mark.skipif(not pathlib.Path('/proc/self').exists(), reason='needs /proc')
def test_a_place_that_cannot_be_written_is_one_line():
  with pytest.raises(OSError, match=r'^cannot write /proc/deep/bundle: [^\n]+$'):
    bundle.save('/proc/deep/bundle', CONFIG, TENSORS)


def test_a_full_disk_leaves_nothing_and_the_old_bundle_in_place(saved):
  """A limit on the size of files stands in for the disk."""
  code = textwrap.dedent(f"""
    import resource
    import numpy as np
    from maskclip_jax.checkpoints import bundle
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    for target in ({str(saved)!r}, {str(saved.parent / 'new' / 'place')!r}):
      try:
        bundle.save(target, {{}}, {{'a': np.zeros(100_000, np.float32)}})
      except OSError as error:
        print(error)
  """)
  run = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  lines = run.stdout.splitlines()
  assert len(lines) == 2
  refusal = re.compile('cannot write .*: File too large; choose .*')
  assert all(refusal.fullmatch(line) for line in lines)
  assert left_in(saved.parent) == ['b']
  assert bundle.load(saved).parameters.keys() == TENSORS.keys()


def test_an_interruption_leaves_nothing(tmp_path):
  class Interrupting(dict):
    def __getitem__(self, path):
      if path == 'scale' and list(tmp_path.glob('.b.*.part')):
        raise KeyboardInterrupt
      return super().__getitem__(path)

  with pytest.raises(KeyboardInterrupt):
    bundle.save(tmp_path / 'b', CONFIG, Interrupting(TENSORS))
  assert left_in(tmp_path) == []


def test_missing_pieces(saved):
  with pytest.raises(FileNotFoundError, match=r'none does not exist$'):
    bundle.load(saved.parent / 'none')
  with pytest.raises(ValueError, match=r'config\.json is a file: give the directory'):
    bundle.load(saved / 'config.json')
  for name in ('model.safetensors', 'config.json'):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f'is not a bundle: it has no {name}'):
      bundle.load(saved)


def test_damaged_files(saved):
  path = saved / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match=r'model\.safetensors is cut short'):
    bundle.load(saved)
  for text, words in (
    ('{', 'is not valid JSON'),
    ('[]', 'is not the config of a bundle'),
    ('{"model_type": "clip"}', 'is not the config of a bundle'),
  ):
    (saved / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=rf'config\.json {words}'):
      bundle.load(saved)


def test_another_format_version(saved):
  content = json.loads((saved / 'config.json').read_text())
  (saved / 'config.json').write_text(json.dumps(content | {'format_version': 2}))
  with pytest.raises(ValueError, match=r'format version 2; maskclip_jax .* version 1'):
    bundle.load(saved)


def test_tensors_of_another_bundle(saved):
  write_tensors(saved / 'model.safetensors', TENSORS, {'fingerprint': '0' * 64})
  with pytest.raises(ValueError, match='do not belong together'):
    bundle.load(saved)


@pytest.fixture(scope='module')
def clip_bundle(tmp_path_factory):
  directory = tmp_path_factory.mktemp('clip') / 'bundle'
  preset = zoo.presets()['clip_vit_tiny']
  expected = params.flatten(params.abstract_model(preset.system, preset.config))
  flat = rules.convert(golden.weights('clip'), OPENAI, expected)
  bundle.save(directory, preset.to_dict(), flat)
  return directory, flat


def test_a_model_comes_back_from_its_bundle(clip_bundle):
  directory, flat = clip_bundle
  loaded, preset, opened = restore.load_model(directory, dtype=jnp.bfloat16)
  assert preset == zoo.presets()['clip_vit_tiny']
  assert opened.text_fingerprint
  assert loaded.visual.proj.dtype == jnp.bfloat16
  again = params.flatten(loaded)
  assert again.keys() == flat.keys()
  for path, value in flat.items():
    assert again[path].dtype == jnp.float32
    np.testing.assert_array_equal(again[path], value)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('vision_layers', 4, r'config\.json does not fit model\.saf.* is 3, not 4'),
    ('text_width', 128, r'does not fit model\.saf.*text_width is 64, not 128'),
    ('colour', 'red', r'config\.json: preset\.config\.colour is not a field'),
    (
      'image_size',
      65,
      r'config\.json: preset\.config: image_size 65 is not a multiple',
    ),
  ],
)
def test_a_config_that_does_not_fit(clip_bundle, tmp_path, field, value, words):
  directory = shutil.copytree(clip_bundle[0], tmp_path / 'b')
  content = json.loads((directory / 'config.json').read_text())
  content['preset']['config'][field] = value
  (directory / 'config.json').write_text(json.dumps(content))
  with pytest.raises(ValueError, match=words):
    restore.load_model(directory)


@pytest.fixture(scope='module')
def baseline(tmp_path_factory):
  """A bundle of two parts; its tensors are zeros."""
  preset = zoo.find_preset('clip_baseline_tiny')
  shapes = params.flatten(params.abstract_model(preset.system, preset.config))
  flat = {path: np.zeros(x.shape, np.float32) for path, x in shapes.items()}
  directory = tmp_path_factory.mktemp('baseline') / 'b'
  bundle.save(directory, preset.to_dict(), flat)
  return directory


@pytest.mark.parametrize(
  ('where', 'value', 'words'),
  [
    (
      'config.proposals.queries',
      None,
      'config.proposals.queries must be int, not None',
    ),
    ('config.proposals.queries', 10**9, 'queries is 10, not 1000000000'),
    ('config.proposals.decoder_layers', 10**9, 'decoder_layers is .*, not 1000000000'),
    ('config.proposals.hidden', 10**30, 'hidden is 1000.*, which is no size'),
    ('config.proposals.heads', 0, 'heads must be at least 1, not 0'),
    ('config.clip.vision_layers', 10**9, 'vision_layers is 3, not 1000000000'),
    ('config.clip.context_length', 'x' * 10**6, r"must be int, not 'x+\.\.\.'$"),
    ('config', None, 'preset.config must be a table of fields, not None'),
    ('postprocessing', None, 'postprocessing must be a table of fields, not None'),
    ('postprocessing.top_k', float('nan'), 'top_k must be int, not nan'),
    ('preprocessing.short_edge', 10**9, 'and that at most 16384'),
    ('system', 'y' * 10**6, r"no system is called 'y+\.\.\.': known"),
    ('system', ['clip'], r"preset.system must be str, not \['clip'\]"),
    ('system', 'maskclip', 'config'),
    ('z' * 10**6, 1, r'preset\.z{80} is not a field'),
  ],
)
def test_a_config_that_cannot_be_is_refused_at_the_door(
  baseline, tmp_path, where, value, words
):
  directory = shutil.copytree(baseline, tmp_path / 'b')
  content = json.loads((directory / 'config.json').read_text())
  *inside, last = where.split('.')
  functools.reduce(dict.__getitem__, inside, content['preset'])[last] = value
  (directory / 'config.json').write_text(json.dumps(content))
  for reader in (restore.load_model, lambda path: open_clip(path, ['clip'])):
    with pytest.raises(ValueError, match=words) as refused:
      reader(directory)
    assert 'config.json' in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_config_nested_too_deep_is_one_line(saved):
  deep = '[' * 100_000 + ']' * 100_000
  text = (saved / 'config.json').read_text().replace('"clip"', deep, 1)
  (saved / 'config.json').write_text(text)
  with pytest.raises(ValueError, match=r'config\.json is not valid JSON: nested too'):
    bundle.load(saved)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads the peak as Linux counts it')
def test_loading_takes_little_more_memory_than_the_model(tmp_path):
  """200 MB in twenty tensors: the peak is the model and about one tensor."""
  code = textwrap.dedent(f"""
    import resource
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from maskclip_jax.checkpoints import bundle, params

    SIDE, LAYERS = 1600, 20

    class Model(nnx.Module):
      def __init__(self):
        self.layers = nnx.List(
          [nnx.Param(jnp.zeros((SIDE, SIDE))) for _ in range(LAYERS)]
        )

    def peak():
      return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    class Tensors(dict):
      def __getitem__(self, path):
        return np.full((SIDE, SIDE), len(path), np.float32)

    names = dict.fromkeys(f'layers/{{i}}' for i in range(LAYERS))
    before = peak()
    bundle.save({str(tmp_path / 'b')!r}, {{}}, Tensors(names))
    jnp.zeros(1).block_until_ready()
    saved = peak()
    model = params.load_into(
      params.abstract(Model), bundle.load({str(tmp_path / 'b')!r}).parameters
    )
    total = sum(leaf.nbytes for leaf in params.flatten(model).values())
    print(total, saved - before, peak() - saved)
  """)
  run = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  total, saving, loading = map(int, run.stdout.split())
  print(f'{total / 1e6:.0f} MB: saving {saving / 1e6:.0f}, loading {loading / 1e6:.0f}')
  assert total > 200e6
  assert saving < 0.5 * total
  assert loading < 1.25 * total
