"""Records what transformers computes with small seeded networks.

    python tests/record_hugging_face.py    # writes tests/goldens/hugging_face.*

Needs the `formats` extra. The weights are those of `seeded.py` by the names that the
library saves them under, so that none are stored; the network computes in float64.
"""

import json
import tempfile

import golden
import numpy as np
import seeded
import torch
import transformers
from safetensors.numpy import load_file, save_file

STAGES = ['stage1', 'stage2', 'stage3', 'stage4']
BACKBONES = {
  'swin': lambda: transformers.SwinConfig(
    embed_dim=16,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    window_size=5,
    out_features=STAGES,
  ),
  'resnet': lambda: transformers.ResNetConfig(
    embedding_size=8,
    hidden_sizes=[16, 32, 64, 128],
    depths=[3, 4, 6, 3],
    out_features=STAGES,
  ),
}
NAMES = ('roof', 'solar panel', 'sky-other-merged', 'roof', '')


def mask2former(backbone) -> transformers.PreTrainedModel:
  """A small Mask2Former."""
  config = transformers.Mask2FormerConfig(
    backbone_config=backbone,
    feature_size=64,
    mask_feature_size=48,
    hidden_dim=64,
    encoder_feedforward_dim=128,
    encoder_layers=1,
    decoder_layers=3,
    num_attention_heads=4,
    dim_feedforward=96,
    num_queries=6,
    id2label=dict(enumerate(NAMES)),
  )
  return transformers.Mask2FormerForUniversalSegmentation(config)


def maskformer(backbone) -> transformers.PreTrainedModel:
  """A small MaskFormer."""
  decoder = transformers.DetrConfig(
    d_model=64,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_dim=96,
    num_queries=6,
    encoder_layers=1,
  )
  config = transformers.MaskFormerConfig(
    backbone_config=backbone,
    decoder_config=decoder,
    fpn_feature_size=64,
    mask_feature_size=48,
    id2label=dict(enumerate(NAMES)),
  )
  return transformers.MaskFormerForInstanceSegmentation(config)


NETWORKS = {
  f'{kind}_{name}': (lambda build=build, make=make: build(make()))
  for kind, build in (('mask2former', mask2former), ('maskformer', maskformer))
  for name, make in BACKBONES.items()
  if (kind, name) != ('maskformer', 'resnet')
}


def reseed(folder: str) -> dict[str, tuple[int, ...]]:
  """Replaces saved numbers by seeded ones, but for indices; key -> shape of them."""
  file = f'{folder}/model.safetensors'
  tensors = load_file(file)
  shapes = {k: a.shape for k, a in tensors.items() if a.dtype == np.float32}
  weights = tensors | seeded.seeded_state_dict(shapes)
  save_file(weights, file, metadata={'format': 'pt'})
  return shapes


def record(make) -> tuple[dict, dict[str, np.ndarray]]:
  """What is beside the weights, and the outputs."""
  photo = np.random.default_rng(7).integers(0, 256, (64, 96, 3)).astype(np.uint8)
  with tempfile.TemporaryDirectory() as folder:
    model = make()
    model.save_pretrained(folder)
    shapes = reseed(folder)
    model = type(model).from_pretrained(folder).double().eval()
  processor = transformers.Mask2FormerImageProcessor(do_resize=False)
  pixels = processor(images=photo, return_tensors='pt')['pixel_values']
  with torch.no_grad():
    found = model(pixel_values=pixels.double())
  usual = transformers.Mask2FormerImageProcessor()
  beside = {
    'config': json.loads(model.config.to_json_string()),
    'preprocessor': json.loads(usual.to_json_string()),
    'shapes': shapes,
  }
  return beside, {
    'photo': photo,
    'masks': found.masks_queries_logits.numpy().astype(np.float32),
    'classes': found.class_queries_logits.numpy().astype(np.float32),
  }


def main() -> None:
  beside, arrays = {}, {}
  for name, make in NETWORKS.items():
    beside[name], found = record(make)
    arrays |= {f'{name}/{key}': array for key, array in found.items()}
  text = json.dumps(beside, separators=(',', ':'))
  (golden.ROOT / 'hugging_face.json').write_text(text + '\n')
  np.savez_compressed(golden.ROOT / 'hugging_face.npz', **arrays)


if __name__ == '__main__':
  main()
