"""Files with seeded faults: one clear line for each, soon, and nothing half-written.

`MASKCLIP_JAX_FUZZ=3000 python -m pytest tests/test_fuzz.py -m slow` tries so many.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator

import ade_run
import golden
import mutations
import numpy as np
import own_labels
import pytest
import raw_coco
import raw_files
import tiny_stages
from PIL import Image
from pycocotools import mask as coco_mask

from maskclip_jax import plain, zoo
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.restore import load_model, read_preset
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.cli.messages import one_line
from maskclip_jax.data import described, records
from maskclip_jax.data.build import build
from maskclip_jax.data.masks import MASK_ERRORS, decode_mask
from maskclip_jax.data.sources import open_split
from maskclip_jax.data.views import find_view, view_names
from maskclip_jax.eval import compare, ledger
from maskclip_jax.eval.protocols import find_protocols
from maskclip_jax.eval.stored import StoredPredictions, judge_stored
from maskclip_jax.photos import photo_size, read_photo
from maskclip_jax.places import dataset_path
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.train import config

# What the command line turns into one line.
CLEAR = (ValueError, OSError, ImportError)
LONGEST_LINE = 2000
SECONDS = 20
FAST, SLOW = 7, int(os.environ.get('MASKCLIP_JAX_FUZZ', '300'))
SYSTEMS = ('clip_baseline_tiny', 'maskclip_tiny', 'fcclip_tiny', 'segclip_tiny')


class Hangs(BaseException):
  """Something takes longer than anybody waits."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
  def stop(*_):
    raise Hangs

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Target:
  """Something that reads files of others.

  Args:
    folder: its own, which may keep what is costly.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  def spoil(
    self, rng: np.random.Generator, place: pathlib.Path
  ) -> Callable[[], object]:
    """Writes a spoilt input into a folder; returns what reads it."""
    raise NotImplementedError


class Photos(Target):
  def __init__(self, folder):
    super().__init__(folder)
    image = Image.fromarray(
      np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    )
    self.files = {}
    for ending in ('jpg', 'png', 'tif', 'webp', 'gif', 'bmp', 'ppm', 'jp2', 'ico'):
      buffer = io.BytesIO()
      image.save(buffer, Image.registered_extensions()[f'.{ending}'])
      self.files[ending] = buffer.getvalue()
    deep = np.random.default_rng(0).integers(0, 4096, (9, 12), np.uint16)
    self.files['16.png'] = raw_files.png(deep)
    self.files['exif.jpg'] = raw_files.jpeg(0, (9, 12), orientation=raw_files.ROTATED)

  def spoil(self, rng, place):
    name = rng.choice(list(self.files))
    path = place / f'a.{name}'
    path.write_bytes(mutations.changed_bytes(rng, self.files[name]))

    def read():
      # As the server does before it decodes.
      with path.open('rb') as file, contextlib.suppress(ValueError):
        photo_size(file, path.name)
      return read_photo(path)

    return read


class Checkpoints(Target):
  """An official CLIP and the file beside it, converted into a bundle."""

  BESIDE = {  # noqa: RUF012
    'open_clip_config.json': {
      'model_cfg': {
        'embed_dim': 32,
        'quick_gelu': True,
        'vision_cfg': {'image_size': 64, 'layers': 2, 'width': 64, 'patch_size': 16},
        'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'heads': 1},
      },
      'preprocess_cfg': {'mean': [0.48145466, 0.4578275, 0.40821073]},
    },
    'config.json': {
      'model_type': 'clip',
      'vision_config': {'hidden_act': 'quick_gelu', 'num_attention_heads': 2},
      'text_config': {'layer_norm_eps': 1e-5},
    },
    'preprocessor_config.json': {'image_std': [0.26862954, 0.26130258, 0.27577711]},
  }

  def __init__(self, folder):
    super().__init__(folder)
    write_tensors(folder / 'clip.safetensors', golden.weights('clip'))
    content = (folder / 'clip.safetensors').read_bytes()
    size = int.from_bytes(content[:8], 'little')
    self.header, self.data = json.loads(content[8 : 8 + size]), content[8 + size :]
    self.whole = content

  def spoil(self, rng, place):
    path = place / 'x.safetensors'
    if rng.random() < 0.3:
      path.write_bytes(self.whole)
      name = rng.choice(list(self.BESIDE))
      spoilt = mutations.changed_json(rng, self.BESIDE[name])
      (place / name).write_bytes(spoilt)
    elif rng.random() < 0.5:
      text = mutations.changed_json(rng, self.header)
      path.write_bytes(len(text).to_bytes(8, 'little') + text + self.data)
    else:
      path.write_bytes(mutations.changed_bytes(rng, self.whole))
    return lambda: convert_checkpoint(path, place / 'made')


class Bundles(Target):
  """Configs, and headers of tensors, of bundles."""

  def __init__(self, folder):
    super().__init__(folder)
    self.bundles = {}
    for name in SYSTEMS:
      preset = zoo.find_preset(name)
      shapes = params.flatten(params.abstract_model(preset.system, preset.config))
      flat = {path: np.zeros(x.shape, np.float32) for path, x in shapes.items()}
      bundle.save(folder / name, preset.to_dict(), flat)
      self.bundles[name] = json.loads((folder / name / bundle.CONFIG).read_text())

  def spoil(self, rng, place):
    name = rng.choice(SYSTEMS)
    made = shutil.copytree(self.folder / name, place / 'bundle')
    config = self.bundles[name]
    if rng.random() < 0.8:
      # Most faults in the preset, which is most of a bundle's config.
      preset = config['preset']
      inner = mutations.changed_json(rng, preset)
      text = json.dumps(config | {'preset': '@'}).replace('"@"', inner.decode())
    else:
      text = mutations.changed_json(rng, config).decode()
    (made / bundle.CONFIG).write_text(text)

    def use():
      read_preset(bundle.load(made))
      load_model(made)

    return use


class Vocabularies(Target):
  FILES = {  # noqa: RUF012
    'json': [
      {'name': 'cat', 'id': 3, 'words': ['cat', 'kitten'], 'thing': True},
      {'name': 'sky', 'thing': False},
      'dog, puppy',
    ],
    'yaml': 'path: data\nnames:\n  0: cat\n  1: dog, puppy\n  2: "sky"\n',
    'csv': 'id,name\n3,cat\n4,"dog, puppy"\n7,sky\n',
    'txt': '# classes\ncat\ndog, puppy\nstuff:sky\n',
  }

  def spoil(self, rng, place):
    ending = rng.choice(list(self.FILES))
    path, content = place / f'words.{ending}', self.FILES[ending]
    if ending == 'json':
      classes = {'name': 'mine', 'classes': content}
      categories = {'categories': [{'id': 1, 'name': 'cat', 'isthing': 1}]}
      forms = [content, classes, categories, {'cat': ['cat', 'kitten'], 'dog': 'dog'}]
      path.write_bytes(mutations.changed_json(rng, forms[rng.integers(len(forms))]))
    else:
      path.write_bytes(mutations.changed_bytes(rng, content.encode()))

    def use():
      words = Vocabulary.parse(str(path)).for_system('masqclip')
      assert all(len(note) < LONGEST_LINE for note in words.check())
      words.save(place / 'saved.json')
      assert Vocabulary.load(place / 'saved.json').classes == words.classes

    return use


class Coco(Target):
  """Annotations of COCO, built and read again."""

  def __init__(self, folder):
    super().__init__(folder)
    self.files = {
      name: data
      for name, data in raw_coco.files().items()
      if 'val2017' in name and 'stuff' not in name
    }
    self.tables = {
      name: json.loads(data)
      for name, data in self.files.items()
      if name.endswith('.json')
    }
    self.pictures = [name for name in self.files if name not in self.tables]

  def spoil(self, rng, place):
    raw = place / 'raw'
    if rng.random() < 0.8:
      name = rng.choice(list(self.tables))
      table = self.tables[name]
      # The list of categories is long, and most of the rest is beside it.
      part = rng.choice(['images', 'annotations', 'annotations'])
      inner = mutations.changed_json(rng, table[part]).decode()
      text = json.dumps(table | {part: '@'}).replace('"@"', inner)
      spoilt = (
        text.encode() if rng.random() < 0.9 else mutations.changed_json(rng, table)
      )
    else:
      name = rng.choice(self.pictures)
      spoilt = mutations.changed_bytes(rng, self.files[name])
    raw_files.write(raw, self.files | {name: spoilt})

    def use():
      made = place / 'made'
      build('coco', raw, made)
      data, _ = open_split('coco', 'val', made)
      for position in range(len(data)):
        record = records.parse(data[position])
        size = record['height'], record['width']
        for text in record['instances']['segmentation']:
          # `data check` names run lengths of another photo.
          with contextlib.suppress(*MASK_ERRORS):
            decode_mask(text, size)

    return use


class OwnLabels(Target):
  """Labels of one's own: COCO's JSON, masks, the table of their classes, photos."""

  def spoil(self, rng, place):
    encode = [own_labels.coloured, raw_files.png][rng.integers(2)]
    table = [own_labels.COLOUR_TABLE, own_labels.TABLE][encode is raw_files.png]
    if rng.random() < 0.5:
      given = own_labels.write_coco(place)
      names = ['labels.json', 'labels.json', 'photos/a.jpg']
    else:
      given = own_labels.write_masks(place, encode, names=('a',), classes=table)
      names = ['masks/a.png', 'classes.csv', 'photos/a.JPG']
    path = place / names[rng.integers(len(names))]
    whole = path.suffix == '.json' and rng.random() < 0.8
    change = mutations.changed_json if whole else mutations.changed_bytes
    path.write_bytes(change(rng, own_labels.coco() if whole else path.read_bytes()))
    return lambda: build('mine', None, place / 'made', own=given)


class Descriptions(Target):
  """The file of a built dataset of one's own that people edit."""

  def __init__(self, folder):
    super().__init__(folder)
    given = own_labels.write_coco(folder)
    built = build('mine', None, folder, own=dataclasses.replace(given, seen=('car',)))
    self.content = json.loads((built.path / described.FILE).read_text())

  def spoil(self, rng, place):
    path = dataset_path('mine', place) / described.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(mutations.changed_json(rng, self.content))

    def use():
      for view in view_names('mine', place):
        assert find_view(view, place).lookup.max() < len(find_view(view, place).words())
      run = find_protocols('mine', place)[0].for_system('maskclip')
      assert run.groups() is not None
      assert run.class_names() is not None

    return use


class Predictions(Target):
  """Predictions of any tool, judged."""

  TASKS = ('panoptic', 'semantic', 'instance')

  def __init__(self, folder):
    super().__init__(folder)
    self.run, self.source = ade_run.run(), ade_run.source(limit=2)
    self.tables = {'instances': [], 'panoptic': {'annotations': []}}
    ids = [category.id for category in self.run.vocabulary().classes]
    for position, image_id in enumerate(self.source.image_ids):
      size = self.source[position].photo.shape[:2]
      mask = np.zeros(size, np.uint8, order='F')
      mask[: size[0] // 2] = 1
      rle = coco_mask.encode(mask)
      rle['counts'] = rle['counts'].decode()
      colours = np.zeros((*size, 3), np.uint8)
      colours[mask == 1, 0] = 5
      Image.fromarray(colours).save(folder / f'{image_id}.png')
      Image.fromarray(mask).save(folder / f'{image_id}.semantic.png')
      self.tables['instances'] += [
        {'image_id': image_id, 'category_id': i, 'segmentation': s, 'score': 0.5}
        for i, s in zip(ids, (rle, [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]), strict=False)
      ]
      self.tables['panoptic']['annotations'].append(
        {
          'image_id': image_id,
          'file_name': f'{image_id}.png',
          'segments_info': [{'id': 5, 'category_id': ids[0]}],
        }
      )
    self.pictures = sorted(path.name for path in folder.glob('*.png'))

  def spoil(self, rng, place):
    made = shutil.copytree(self.folder, place / 'predictions')
    for name, table in self.tables.items():
      (made / f'{name}.json').write_text(json.dumps(table))
    if rng.random() < 0.8:
      name = rng.choice(list(self.tables))
      spoilt = mutations.changed_json(rng, self.tables[name])
      (made / f'{name}.json').write_bytes(spoilt)
    else:
      path = made / rng.choice(self.pictures)
      path.write_bytes(mutations.changed_bytes(rng, path.read_bytes()))

    def use():
      stored = StoredPredictions(made, self.run, self.source.image_ids)
      judge_stored(stored, self.run, self.source)

    return use


class Results(Target):
  """Results of evaluations, compared."""

  ENTRY = {  # noqa: RUF012
    'format': ledger.FORMAT,
    'evaluation': 'ade150',
    'headline': ['ade150/PQ'],
    'numbers': {'ade150/PQ': 12.5, 'ade150/AP': None},
    'model': {'name': 'mine', 'fingerprint': None, 'seed': None},
    'examples': 3,
    'settings': {'data': {'photos': 3, 'published_photos': 2000}, 'words': 'a'},
    'finished': '2026-01-01T00:00:00+00:00',
  }

  def spoil(self, rng, place):
    path = place / 'results.json'
    path.write_bytes(mutations.changed_json(rng, self.ENTRY))
    return lambda: compare.comparison(ledger.read_all(place), everything=True)


class Configurations(Target):
  """Plain values of training configurations."""

  def spoil(self, rng, place):
    stage = rng.choice(list(tiny_stages.STAGES))
    text = mutations.changed_json(rng, tiny_stages.values(stage))
    return lambda: config.read(plain.parse_json(text, 'config'))


TARGETS = (
  *(Photos, Checkpoints, Bundles, Vocabularies),
  *(Coco, Predictions, Results, Configurations),
  *(OwnLabels, Descriptions),
)


@pytest.fixture(scope='module')
def targets(tmp_path_factory) -> dict[type, Target]:
  """Every target that was asked for, made once."""
  made = {}

  def get(kind):
    if kind not in made:
      made[kind] = kind(tmp_path_factory.mktemp(kind.__name__))
    return made[kind]

  return get


def try_one(target: Target, seed: int, place: pathlib.Path) -> None:
  """Reads one spoilt input.

  Raises:
    AssertionError: what happens is not one clear line.
  """
  rng = np.random.default_rng([TARGETS.index(type(target)), seed])
  place.mkdir()
  use = target.spoil(rng, place)
  before = sorted(path.name for path in place.iterdir())
  try:
    with limited(SECONDS), warnings.catch_warnings():
      warnings.simplefilter('ignore')
      use()
  except CLEAR as error:
    if isinstance(error, UnicodeError) or not 0 < len(one_line(error)) <= LONGEST_LINE:
      raise AssertionError(f'not one clear line: {error!r:.300}') from error
    # What a build has read is kept for the next one, and is no dataset yet.
    made = [path.relative_to(place) for path in place.glob('made*/**/*.json')]
    left = [path.name for path in place.iterdir() if path.name not in before]
    if set(left) - {'made'} or any('.building' not in str(path) for path in made):
      raise AssertionError(f'left behind: {left} {made}') from error
  except Hangs:
    raise AssertionError(f'still reading after {SECONDS} s') from None
  shutil.rmtree(place)


def tried(target: Target, seeds: range, tmp_path: pathlib.Path) -> None:
  failed = {}
  for seed in seeds:
    try:
      try_one(target, seed, tmp_path / f'{seed}')
    except Exception as error:
      failed[seed] = repr(error)[:300]
  assert not failed, f'{len(failed)} of {len(seeds)} seeds: {failed}'


@pytest.mark.parametrize('kind', TARGETS)
def test_spoilt_files_are_one_clear_line(kind, targets, tmp_path):
  tried(targets(kind), range(FAST), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('kind', TARGETS)
def test_many_spoilt_files(kind, targets, tmp_path):
  tried(targets(kind), range(FAST, FAST + SLOW // len(TARGETS)), tmp_path)
