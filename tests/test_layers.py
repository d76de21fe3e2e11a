"""The dependency direction between the packages, read from their imports."""

import ast
import builtins
import dis
import pathlib
import subprocess
import sys
import types

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'maskclip_jax'
NAME = PACKAGE.name

# What every part may import of ours, the ground floor: single modules that know nothing
# of segmentation.
GROUND = {
  'atomic',
  'batches',
  'compilations',
  'jax_settings',
  'locks',
  'names',
  'places',
  'plain',
  'processes',
  'resizing',
}
# What each part may import besides. Modules at the top level that are not named here
# are entry points and may import anything.
ALLOWED = {
  'mapping': {'mapping'},
  'ops': {'ops'},
  'text': {'text'},
  'photos': set(),
  'nn': {'nn', 'ops'},
  'losses': {'losses', 'ops'},
  'postprocess': {'ops', 'postprocess'},
  'data': {'data', 'photos', 'text'},
  'miniature': {'data', 'miniature', 'text'},
  'results': {'_version', 'postprocess', 'results'},
  'systems': {'mapping', 'nn', 'ops', 'postprocess', 'systems'},
  'zoo': {'systems'},
  'checkpoints': {
    '_version',
    'checkpoints',
    'mapping',
    'nn',
    'systems',
    'text',
    'zoo',
  },
  'plan': {'photos', 'postprocess', 'systems', 'text'},
  'text_towers': {'checkpoints', 'systems', 'text'},
  'stream': {'photos', 'plan', 'results', 'systems'},
  'deploy': {
    '_version',
    'checkpoints',
    'deploy',
    'ops',
    'photos',
    'plan',
    'postprocess',
    'results',
    'segmenter',
    'systems',
    'text',
    'zoo',
  },
  'segmenter': {
    'checkpoints',
    'photos',
    'plan',
    'postprocess',
    'results',
    'stream',
    'systems',
    'text',
    'text_towers',
    'zoo',
  },
  'mining': {
    '_version',
    'checkpoints',
    'data',
    'eval',
    'mining',
    'ops',
    'photos',
    'postprocess',
    'results',
    'segmenter',
    'systems',
    'text',
  },
  'eval': {
    '_version',
    'checkpoints',
    'data',
    'eval',
    'nn',
    'ops',
    'photos',
    'postprocess',
    'results',
    'segmenter',
    'systems',
    'text',
    'zoo',
  },
}
HEAVY = {'tensorflow', 'torch', 'orbax', 'grain', 'tensorflow_datasets'}


def modules(path: pathlib.Path):
  """Every absolute module name a file imports, wherever the import stands."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative imports hide the layer'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def part_of(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


@pytest.mark.parametrize(
  'path',
  sorted(PACKAGE.rglob('*.py')),
  ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_imports_point_downwards(path):
  part = part_of(path)
  ours = {n.split('.')[1] for n in modules(path) if n.startswith(f'{NAME}.')}
  if part in ALLOWED:
    above = ours - ALLOWED[part] - GROUND
    assert not above, f'{part} must not import {above}'
  if part in GROUND:
    assert ours <= GROUND, f'{part} is ground floor and must not import {ours}'
  assert '__main__' not in ours
  assert 'cli' not in ours or part in ('cli', '__main__')
  assert 'integrations' not in ours or part == 'integrations'
  if part == 'data':
    assert not any(n.split('.')[0] == 'jax' for n in modules(path))
  if part in ('ops', 'losses', 'postprocess'):
    assert not any(n.split('.')[0] in ('flax', 'pathlib') for n in modules(path))


def codes(code: types.CodeType):
  """A module's code and that of everything in it."""
  yield code
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from codes(constant)


def test_every_name_is_defined():
  """The linter cannot tell an import that was forgotten from a shape's letters."""
  places = PACKAGE, *(PACKAGE.parent / name for name in ('benchmarks', 'configs'))
  own = {*dir(builtins), '__annotations__', '__file__', '__path__'}
  for path in (path for place in places for path in place.rglob('*.py')):
    found = [
      (step.opname, step.argval)
      for code in codes(compile(path.read_text(), str(path), 'exec'))
      for step in dis.get_instructions(code)
    ]
    defined = {name for way, name in found if way in ('STORE_NAME', 'STORE_GLOBAL')}
    read = {name for way, name in found if way in ('LOAD_NAME', 'LOAD_GLOBAL')}
    assert not read - defined - own, path


@pytest.mark.parametrize('module', [NAME, f'{NAME}.segmenter', f'{NAME}.data'])
def test_importing_is_light(module):
  code = f'import {module}, sys; print(*{{m.split(".")[0] for m in sys.modules}})'
  loaded = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout.split()
  assert not HEAVY & set(loaded)
  if module == NAME:
    assert 'jax' not in loaded


def test_the_facade_offers_what_it_lists():
  import maskclip_jax

  for name in maskclip_jax.__all__:
    assert getattr(maskclip_jax, name) is not None
  with pytest.raises(AttributeError, match='no attribute'):
    _ = maskclip_jax.nothing
