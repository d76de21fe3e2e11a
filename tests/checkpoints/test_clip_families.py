"""CLIPs of every library: their own outputs, files there and back, published sizes.

`benchmarks/formats/record_clip.py` has recorded what the libraries compute.
"""

import dataclasses
import functools
import json
import pathlib
import shutil

import golden
import inventory
import numpy as np
import official
import pytest
import seeded
import tiny_stages

import maskclip_jax
from maskclip_jax.checkpoints import convert, restore
from maskclip_jax.checkpoints.cross import cross_models
from maskclip_jax.checkpoints.export_official import export_official
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.mapping.rules import official_shapes
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.eva_clip import checkpoint as eva
from maskclip_jax.systems.resnet_clip import checkpoint as resnet
from maskclip_jax.systems.siglip import checkpoint as siglip

# Float32 sums in another order; the networks are few layers deep.
TOLERANCE = 1e-5

PUBLISHED = {
  'ViT-H-14': ('clip_vit_h14', clip.OPENAI),
  'ViT-g-14': ('clip_vit_g14', clip.OPENAI),
  'ViT-bigG-14': ('clip_vit_bigg14', clip.OPENAI),
  'RN50': ('clip_rn50', resnet.RULES),
  'RN101': ('clip_rn101', resnet.RULES),
  'RN50x4': ('clip_rn50x4', resnet.RULES),
  'RN50x16': ('clip_rn50x16', resnet.RULES),
  'RN50x64': ('clip_rn50x64', resnet.RULES),
  'EVA02-B-16': ('clip_eva02_b16', eva.RULES),
  'EVA02-L-14': ('clip_eva02_l14', eva.RULES),
  'EVA02-L-14-336': ('clip_eva02_l14_336', eva.RULES),
  'ViT-B-16-SigLIP': ('clip_siglip_b16', siglip.OPEN_CLIP),
  'ViT-L-16-SigLIP-256': ('clip_siglip_l16_256', siglip.OPEN_CLIP),
  'ViT-SO400M-14-SigLIP-384': ('clip_siglip_so400m_14_384', siglip.OPEN_CLIP),
  'ViT-B-16-SigLIP2': ('clip_siglip2_b16', siglip.OPEN_CLIP),
  'ViT-SO400M-16-SigLIP2-384': ('clip_siglip2_so400m_16_384', siglip.OPEN_CLIP),
  'siglip2-base-patch16-naflex': ('clip_siglip2_b16_naflex', siglip.NAFLEX),
  'siglip2-so400m-patch16-naflex': ('clip_siglip2_so400m_16_naflex', siglip.NAFLEX),
}
# One of each table.
FAST = (
  'ViT-H-14',
  'RN50',
  'EVA02-B-16',
  'ViT-B-16-SigLIP',
  'siglip2-base-patch16-naflex',
)


@functools.cache
def record() -> dict:
  return json.loads((golden.ROOT / 'clip_families.json').read_text())


def weights(name: str) -> dict[str, np.ndarray]:
  return seeded.seeded_state_dict(record()['small'][name]['shapes'])


def write_repository(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The files of a small network."""
  folder.mkdir(exist_ok=True)
  for file, content in record()['small'][name]['files'].items():
    (folder / file).write_text(json.dumps(content))
  write_tensors(folder / 'model.safetensors', weights(name))
  return folder


@pytest.fixture(scope='module', params=list(record()['small']))
def repository(request, tmp_path_factory):
  """The folder of a repository, as a library saves it, and its recorded outputs."""
  folder = write_repository(tmp_path_factory.mktemp('repository'), request.param)
  return folder, record()['small'][request.param]


def pixels(row) -> list[np.ndarray]:
  """Batches of photos: of one size together, of several sizes one by one."""
  photos = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
  photos = np.moveaxis(photos, 1, -1)
  if 'sizes' not in row:
    return [photos]
  cut = zip(photos, row['sizes'], strict=True)
  return [photo[None, :height, :width] for photo, (height, width) in cut]


def test_outputs_are_those_of_the_library(repository):
  folder, row = repository
  model = maskclip_jax.load_clip(folder).model
  golden.assert_close(
    np.concatenate([official.run(model.visual, batch) for batch in pixels(row)]),
    np.array(row['image']),
    name='image',
    tolerance=TOLERANCE,
  )
  tokens = np.array(row['tokens'], np.int32)
  golden.assert_close(
    official.run(model.text, tokens),
    np.array(row['text']),
    name='text',
    tolerance=TOLERANCE,
  )


def test_files_go_there_and_back_byte_for_byte(repository, tmp_path):
  folder, _ = repository
  convert.convert_checkpoint(folder, tmp_path / 'bundle')
  system = restore.open_bundle(tmp_path / 'bundle')[1].system
  named = {'clip': 'openai', 'siglip': 'open_clip'}
  theirs = (folder / 'config.json').exists()
  layout = 'hugging_face' if theirs else named.get(system)
  export_official(tmp_path / 'bundle', tmp_path / 'x.safetensors', layout=layout)
  ours = TensorFile(tmp_path / 'x.safetensors')
  theirs = TensorFile(folder / 'model.safetensors')
  counters = {key for key in theirs if key.endswith('num_batches_tracked')}
  assert ours.keys() == theirs.keys() - counters
  for key in ours:
    assert ours[key].tobytes() == theirs[key].tobytes(), key


@pytest.fixture(scope='module')
def naflex(tmp_path_factory):
  """The folder of a SigLIP 2 for photos of any shape."""
  return write_repository(
    tmp_path_factory.mktemp('naflex'), 'Siglip2Model (NaFlex), photos of other shapes'
  )


def test_squares_of_a_naflex_model_are_of_the_size_chosen(naflex, tmp_path):
  """By default those that its table of positions fits."""
  clip = maskclip_jax.load_clip(naflex)
  assert (clip.config.position_grid, clip.image_size) == (3, 48)
  assert clip.preprocess([np.zeros((20, 30, 3), np.uint8)]).shape == (1, 48, 48, 3)
  assert maskclip_jax.load_clip(naflex, image_size=96).image_size == 96
  for bad in (0, -16, 40, 1_000_000_000):
    with pytest.raises(ValueError, match=f'image_size .*{bad}'):
      maskclip_jax.load_clip(naflex, image_size=bad)
  for width in (0, 40):
    with pytest.raises(ValueError, match='sides that are multiples of 16'):
      clip.model.visual(np.zeros((1, 48, width, 3), np.float32))
  convert.convert_checkpoint(naflex, tmp_path / 'clip', image_size=32)
  _, preset, _ = restore.load_model(tmp_path / 'clip')
  assert preset.config == dataclasses.replace(clip.config, image_size=32)
  tiny_stages.random_bundle(tmp_path / 'masks', 'proposals_tiny')
  made = cross_models(tmp_path / 'masks', tmp_path / 'clip', 'crop')
  assert made.preset.config.clip == preset.config
  with pytest.raises(ValueError, match='40 is not a multiple of 16'):
    convert.convert_checkpoint(naflex, tmp_path / 'x', image_size=40)


def test_photos_of_any_shape_are_told_by_the_weights(naflex, tmp_path):
  """The keys are those of other SigLIPs; a config of the other kind is refused."""
  fixed = write_repository(tmp_path / 'fixed', 'SiglipModel')
  with pytest.raises(ValueError, match='takes photos of 64 x 64: leave the image'):
    convert.convert_checkpoint(fixed, tmp_path / 'x', image_size=96)
  shutil.copytree(naflex, tmp_path / 'other')
  shutil.copy(fixed / 'config.json', tmp_path / 'other')
  with pytest.raises(ValueError, match='says image_size 64, and they have 48'):
    maskclip_jax.load_clip(tmp_path / 'other')
  shutil.copy(naflex / 'config.json', fixed)
  with pytest.raises(ValueError, match='says siglip2, for photos of any shape'):
    maskclip_jax.load_clip(fixed)
  (tmp_path / 'alone').mkdir()
  shutil.copy(naflex / 'model.safetensors', tmp_path / 'alone')
  alone = maskclip_jax.load_clip(tmp_path / 'alone')
  assert alone.config.position_grid == 3
  convert.convert_checkpoint(naflex, tmp_path / 'b')
  with pytest.raises(ValueError, match='layout open_clip has no place for'):
    export_official(tmp_path / 'b', tmp_path / 'x.safetensors', layout='open_clip')


@pytest.mark.parametrize(
  'name',
  [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in PUBLISHED
  ],
)
def test_published_sizes_have_exactly_the_tensors_of_the_library(name):
  preset, table = PUBLISHED[name]
  ours = official_shapes(table, inventory.parameters(preset))
  counters = {
    f'{key.removesuffix("running_var")}num_batches_tracked': ()
    for key in ours
    if key.endswith('running_var')
  }
  digest = seeded.digest(ours | counters)
  assert digest == record()['published'][name]
