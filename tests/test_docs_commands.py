"""Every block of commands in README and documents runs as it is printed.

The checkout's folders are links in a directory of its own, where `MODEL` is a tiny
MasQCLIP, its official files lie beside it, `DOWNLOADS` is a made-up COCO of which
`PHOTOS`, `MASKS` and `labels.json` are a part, and `photo.jpg` and the photo of
`CAPTIONED` are scenes. What cannot run there is named with the reason, and is read as
far as that goes.
"""

import importlib.util
import json
import pathlib
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from unittest import mock

import golden
import pytest
import raw_coco
import raw_files
import raw_tools
import tiny_stages
from safetensors.numpy import load_file

from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.export_official import export_official
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.cli import serve, train
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.train import config_files

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
PROGRAM = ['python', '-m', 'maskclip_jax']
# Commands that end with a line about what is not here, and what that line has.
MISSING = {
  ('convert', 'siglip2-so400m-patch14-224'): "no model 'mask2former-swin-large",
  ('convert', 'maskclippp.pth'): "no model 'maskclippp.pth'",
  ('eval', 'ade150,pc59'): 'ade20k_150',
  ('eval', 'ade150'): 'ade20k_150|WORDS/ade.json',
  ('eval', 'RUNS'): 'RUNS',
  ('mine', 'spacy:en_core_web_sm'): 'spaCy|coco is not built',
  ('mine', 'miniature/captions'): 'miniature',
  ('predict', 'OVSEG'): "no model 'OVSEG'",
  ('words', 'ade150'): 'ade20k_150',
  ('words', 'WORDS/ade.json'): 'WORDS/ade.json',
}
for package, kind in (('tensorflow', 'savedmodel'), ('onnxruntime', 'onnx')):
  if importlib.util.find_spec(package) is None:
    MISSING['export', kind] = 'pip install'
# Draws thousands of scenes: tests/miniature builds a few.
LONG = [['data', 'build', 'miniature'], ['data', 'check', 'miniature']]
# Datasets of few photos have another count than the published ones.
FOUND = {'data': {0, 1}}


def documents() -> list[str]:
  pages = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *ROOT.glob('docs/*.md')]
  return sorted(
    page.relative_to(ROOT).as_posix()
    for page in pages
    if {'sh', 'python'} & {kind for kind, _ in BLOCK.findall(page.read_text())}
  )


def commands(block: str) -> list[list[str]]:
  """The words of each command; a backslash goes on, # begins a comment."""
  lines = block.replace('\\\n', ' ').splitlines()
  return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> pathlib.Path:
  """Where the commands run."""
  place = tmp_path_factory.mktemp('docs')
  for name in ('maskclip_jax', 'launch', 'benchmarks', 'docs', 'configs', 'tests'):
    (place / name).symlink_to(ROOT / name)
  scenes = ROOT / 'maskclip_jax' / 'miniature' / 'scenes'
  shutil.copy(scenes / 'scene_1.jpg', place / 'photo.jpg')
  (place / 'photos').mkdir()
  shutil.copy(scenes / 'scene_2.jpg', place / 'photos')
  raw_coco.write_coco(place / 'DOWNLOADS')
  label_photos(place)
  label_with_tools(place)
  captioned = place / 'CAPTIONED'
  captioned.mkdir()
  shutil.copy(scenes / 'scene_1.jpg', captioned / 'one.jpg')
  (captioned / 'one.txt').write_text('a yellow disk and a bar on sand')
  tiny_stages.random_bundle(place / 'TINY', 'masqclip_tiny')
  export_official(place / 'TINY', place / 'masqclip.safetensors')
  shutil.rmtree(place / 'TINY')
  weights, clip = load_file(place / 'masqclip.safetensors'), golden.weights('clip')
  # Its image tower is that of the CLIP beside it.
  weights |= {f'masqclip.{key}': clip[key] for key in clip if 'visual.' in key}
  write_tensors(place / 'masqclip.safetensors', weights)
  write_tensors(place / 'open_clip_model.safetensors', clip)
  convert_checkpoint(
    place / 'masqclip.safetensors',
    place / 'MODEL',
    clip=place / 'open_clip_model.safetensors',
  )
  return place


def label_photos(place: pathlib.Path) -> None:
  """The photos of the made-up COCO as a person's own, with outlines and masks."""
  raw, (split, *_) = place / 'DOWNLOADS', raw_coco.PHOTOS
  shutil.copytree(raw / split, place / 'PHOTOS')
  shutil.copytree(raw / 'stuffthingmaps' / split, place / 'MASKS')
  shutil.copy(raw / f'annotations/instances_{split}.json', place / 'labels.json')
  classes = Vocabulary.named('coco-stuff-171').classes
  lines = [f'{category.id - 1},"{category.name}"' for category in classes]
  (place / 'classes.csv').write_text('\n'.join(['id,name', *lines]))


def label_with_tools(place: pathlib.Path) -> None:
  """Two photos each with labels of YOLO, labelme and CVAT."""
  raw_tools.write_yolo(place / 'SIGNS', raw_tools.yolo_line(0))
  names = ('a.jpg', 'b.jpg')
  for seed, name in enumerate(names):
    photo = {name: raw_files.jpeg(seed, raw_tools.SIZE)}
    cell = raw_tools.labelme([raw_tools.shape('cell', raw_tools.SQUARE)], name)
    raw_files.write(place / 'CELLS', photo | {f'{name}.json': cell})
    raw_files.write(place / 'ROOFS', photo)
  roofs = raw_tools.cvat(raw_tools.polygon(), names=names)
  (place / 'roofs.xml').write_bytes(roofs)


@pytest.fixture
def in_place(place, monkeypatch):
  """The working directory is the place, and nothing is kept at home."""
  monkeypatch.chdir(place)
  # Of large photos most of the time would be theirs; `convert` makes MODEL anew.
  config = json.loads((place / 'MODEL' / 'config.json').read_text())
  config['preset']['preprocessing'] |= {'short_edge': 128, 'long_edge': 256}
  (place / 'MODEL' / 'config.json').write_text(json.dumps(config))
  monkeypatch.setenv('HOME', str(place))
  # Training is tested where it is; here configurations and overrides are read.
  monkeypatch.setattr(train, 'run', read_configuration)
  # A server does not end; it is tested in tests/deploy.
  monkeypatch.setattr(serve, 'run', lambda arguments: 0)
  return place


def read_configuration(arguments) -> int:
  values = config_files.load(arguments.config, arguments.overrides)
  assert arguments.workdir or arguments.compile_only
  assert values
  return 0


def run(words: list[str], capsys) -> None:
  """Runs a command of the program, and checks what it is told to end with."""
  command = words[0]
  if words[:3] in LONG:
    return
  if any(word.endswith('.pth') for word in words[1:2]):
    torch = pytest.importorskip('torch')
    weights = load_file('masqclip.safetensors')
    torch.save({'model': {k: torch.tensor(a) for k, a in weights.items()}}, words[1])
  said = next(
    (say for (c, w), say in MISSING.items() if c == command and w in words), ''
  )
  if words == ['--version']:
    with pytest.raises(SystemExit, match='0'):
      main(words)
    return
  # Of large results, too, most of the time would be theirs.
  small = ['--result_canvas', '256x256'] if words[0] == 'export' else []
  status = main([*words, *small])
  out, err = capsys.readouterr()
  if said:
    assert status == 2, (words, out)
    assert re.search(said, err)
    assert len(err.splitlines()) == 1
  else:
    assert status in FOUND.get(command, {0}), (words, err)


def check(words: list[str]) -> None:
  """What a command that installs or starts a script needs is there."""
  if words[:2] == ['pip', 'install']:
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    for word in words[2:]:
      name, _, extra = word.rstrip(']').partition('[')
      assert name in ('.', 'jax', 'libtpu'), word
      assert name != '.' or not extra or extra in extras['optional-dependencies']
    return
  script = words[1] if words[0] == 'python' else words[0]
  folder, _, name = script.rpartition('/')
  if name == 'run_artefact.py':
    if ('export', folder.lower()) not in MISSING:
      # tests/deploy runs it where this package is not.
      with mock.patch.object(sys, 'argv', words[1:]):
        runpy.run_path(script, run_name='__main__')
    return
  assert pathlib.Path(script).is_file(), words
  assert script.startswith(('launch/', 'benchmarks/', 'docs/')), words


@pytest.mark.parametrize('name', documents())
def test_blocks_run_verbatim(name, in_place, capsys):
  scope = {}
  for kind, block in BLOCK.findall((ROOT / name).read_text()):
    if kind == 'python' and 'import ' in block:
      exec(compile(block, name, 'exec'), scope)
    for words in commands(block) if kind == 'sh' else ():
      if words[:3] == PROGRAM:
        run(words[3:], capsys)
      else:
        check(words)
  capsys.readouterr()


def test_blocks_of_commands_say_so():
  """A block without its language is not run."""
  for name in documents():
    for kind, block in BLOCK.findall((ROOT / name).read_text()):
      assert kind == 'sh' or not re.search(r'^(python |pip |launch/\w)', block, re.M), (
        name
      )
