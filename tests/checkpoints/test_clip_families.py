"""CLIPs of every library: their own outputs, files there and back, published sizes.

`benchmarks/formats/record_clip.py` has recorded what the libraries compute.
"""

import functools
import json

import golden
import inventory
import numpy as np
import official
import pytest
import seeded

import maskclip_jax
from maskclip_jax.checkpoints import convert, restore
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
}


@functools.cache
def record() -> dict:
  return json.loads((golden.ROOT / 'clip_families.json').read_text())


def weights(name: str) -> dict[str, np.ndarray]:
  return seeded.seeded_state_dict(record()['small'][name]['shapes'])


@pytest.fixture(scope='module', params=list(record()['small']))
def repository(request, tmp_path_factory):
  """The folder of a repository, as a library saves it, and its recorded outputs."""
  folder = tmp_path_factory.mktemp('repository')
  row = record()['small'][request.param]
  for name, content in row['files'].items():
    (folder / name).write_text(json.dumps(content))
  write_tensors(folder / 'model.safetensors', weights(request.param))
  return folder, row


def pixels() -> np.ndarray:
  photos = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
  return np.moveaxis(photos, 1, -1)


def test_outputs_are_those_of_the_library(repository):
  folder, row = repository
  model = maskclip_jax.load_clip(folder).model
  golden.assert_close(
    official.run(model.visual, pixels()),
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


@pytest.mark.parametrize('name', PUBLISHED)
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
