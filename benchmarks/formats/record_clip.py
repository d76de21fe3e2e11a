"""Records what open_clip's and transformers' networks compute, for the tests.

  PYTHONPATH=.:tests python benchmarks/formats/record_clip.py

Writes `tests/goldens/clip_families.json`: of small networks with the weights of
`tests/seeded.py` the shapes, the files beside the weights and the outputs; of published
sizes a hash of all keys and shapes. The networks are those of `clip.py`.
"""

import json
import pathlib
import tempfile
from collections.abc import Mapping

import seeded
from clip import NETWORKS, Network, outputs

PAGE = pathlib.Path(__file__).parents[2] / 'tests' / 'goldens' / 'clip_families.json'
SMALL = (
  'CLIP, heads of 80, GELU',
  'ViT-bigG/14',
  'RN50',
  'EVA02',
  'SigLIP 2',
  'SiglipModel',
  'Siglip2Model (NaFlex), photos of other shapes',
)
# Names of open_clip, and of the Hugging Face hub.
PUBLISHED = (
  'ViT-H-14',
  'ViT-g-14',
  'ViT-bigG-14',
  'RN50',
  'RN101',
  'RN50x4',
  'RN50x16',
  'RN50x64',
  'EVA02-B-16',
  'EVA02-L-14',
  'EVA02-L-14-336',
  'ViT-B-16-SigLIP',
  'ViT-L-16-SigLIP-256',
  'ViT-SO400M-14-SigLIP-384',
  'ViT-B-16-SigLIP2',
  'ViT-SO400M-16-SigLIP2-384',
)
_SO400M = {
  'hidden_size': 1152,
  'intermediate_size': 4304,
  'num_hidden_layers': 27,
  'num_attention_heads': 16,
}
NAFLEX = {
  'siglip2-base-patch16-naflex': {},
  'siglip2-so400m-patch16-naflex': _SO400M,
}


def small(network: Network) -> dict:
  """Shapes, files and outputs of a small network."""
  import torch

  model = network.build().eval()
  shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
  state = seeded.seeded_state_dict(shapes)
  model.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
  with tempfile.TemporaryDirectory() as folder:
    network.save(model, pathlib.Path(folder), 'model.safetensors')
    beside = {
      path.name: json.loads(path.read_text())
      for path in pathlib.Path(folder).glob('*.json')
    }
  found = {name: array.tolist() for name, array in outputs(network, model).items()}
  row = {'shapes': shapes, 'files': beside, 'tokens': network.tokens.tolist()}
  return row | ({'sizes': network.sizes} if network.sizes else {}) | found


def published(name: str) -> str:
  """A hash of the keys and shapes of one of open_clip's networks."""
  import open_clip
  import torch

  config = open_clip.get_model_config(name)
  custom = config.pop('custom_text', False)
  network = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
  with torch.device('meta'):
    state = network(**config).state_dict()
  return seeded.digest({key: tuple(value.shape) for key, value in state.items()})


def published_naflex(towers: Mapping[str, int]) -> str:
  """The same of a SigLIP 2 of transformers for photos of any shape."""
  import torch
  import transformers

  config = transformers.Siglip2Config(
    text_config={**towers, 'vocab_size': 256000}, vision_config=dict(towers)
  )
  with torch.device('meta'):
    state = transformers.Siglip2Model(config).state_dict()
  return seeded.digest({key: tuple(value.shape) for key, value in state.items()})


def main() -> None:
  record = {
    'small': {name: small(NETWORKS[name]) for name in SMALL},
    'published': {name: published(name) for name in PUBLISHED}
    | {name: published_naflex(towers) for name, towers in NAFLEX.items()},
  }
  PAGE.write_text(json.dumps(record, separators=(',', ':')) + '\n')


if __name__ == '__main__':
  main()
