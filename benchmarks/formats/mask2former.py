"""Rows of Mask2Former, by transformers."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
import torch
import transformers
from rows import Made, Row, relative, seed_weights

import maskclip_jax
from maskclip_jax.text.vocabulary import Vocabulary

transformers.utils.logging.disable_progress_bar()

# The network sees a photo of this size; a multiple of 32.
_SIZE = 96, 160
_STAGES = ['stage1', 'stage2', 'stage3', 'stage4']
_SMALL = {
  'feature_size': 64,
  'mask_feature_size': 48,
  'hidden_dim': 64,
  'encoder_feedforward_dim': 128,
  'encoder_layers': 2,
  'decoder_layers': 5,
  'num_attention_heads': 4,
  'dim_feedforward': 128,
  'num_queries': 10,
}


def swin(width: int, depths: Sequence[int], heads: Sequence[int], window: int):
  """A Swin backbone."""
  return transformers.SwinConfig(
    embed_dim=width,
    depths=depths,
    num_heads=heads,
    window_size=window,
    out_features=_STAGES,
  )


def resnet(depths: Sequence[int] = (3, 4, 6, 3)):
  """transformers' own residual backbone, a narrow one."""
  return transformers.ResNetConfig(
    embedding_size=8,
    hidden_sizes=[16, 32, 64, 128],
    depths=depths,
    out_features=_STAGES,
  )


def timm():
  """timm's ResNet-50 inside transformers."""
  return transformers.TimmBackboneConfig(
    backbone='resnet50', out_indices=[1, 2, 3, 4], use_pretrained_backbone=False
  )


def network(backbone, names: Sequence[str], **sizes):
  """A Mask2Former of transformers with seeded weights."""
  config = transformers.Mask2FormerConfig(
    backbone_config=backbone, id2label=dict(enumerate(names)), **{**_SMALL, **sizes}
  )
  model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
  seed_weights(model)
  return model


def photo() -> np.ndarray:
  """A photo that fills the canvas."""
  return np.random.default_rng(0).integers(0, 256, (*_SIZE, 3)).astype(np.uint8)


def theirs(model) -> tuple[np.ndarray, np.ndarray]:
  """Mask and class logits of the library, for the photo as its processor gives it."""
  processor = transformers.Mask2FormerImageProcessor(do_resize=False)
  pixels = processor(images=photo(), return_tensors='pt')['pixel_values']
  with torch.no_grad():
    found = model(pixel_values=pixels)
  return found.masks_queries_logits.numpy(), found.class_queries_logits.numpy()


def difference(model, bundle: pathlib.Path) -> float:
  """The larger of the differences of masks and of classes."""
  network, _, _ = maskclip_jax.load_model(bundle)
  images = maskclip_jax.Images.from_arrays([photo()])
  ours = jax.jit(lambda images: network(images))(images)
  masks, classes = theirs(model)
  return max(relative(ours.mask_logits, masks), relative(ours.class_logits, classes))


def _save(model, folder: pathlib.Path, form: str) -> pathlib.Path:
  """Writes the network as the library does; what `convert` is given."""
  if form == 'pytorch_model.bin':
    model.config.save_pretrained(folder)
    model.save_pretrained(folder, max_shard_size='10GB')
    from safetensors.torch import load_file

    file = folder / 'model.safetensors'
    torch.save(load_file(file), folder / form)
    file.unlink()
  else:
    size = '1MB' if form == 'parts' else '10GB'
    model.save_pretrained(folder, max_shard_size=size)
  transformers.Mask2FormerImageProcessor().save_pretrained(folder)
  return folder / 'model.safetensors' if form == 'file' else folder


def _make(
  backbone: Callable,
  words: str | Sequence[str],
  form: str,
  folder: pathlib.Path,
  **sizes,
) -> Made:
  names = words
  if isinstance(words, str):
    names = [category.name for category in Vocabulary.named(words).classes]
  model = network(backbone(), names, **sizes)
  source = _save(model, folder / 'saved', form)
  return Made(source, functools.partial(difference, model))


_FORMS = {
  'folder': 'folder: safetensors, config, processor',
  'file': 'model.safetensors, config beside it',
  'parts': 'folder: safetensors in parts',
  'pytorch_model.bin': 'folder: pytorch_model.bin',
}
# The published depths and windows; few channels.
SWINS = {
  'Swin-T': functools.partial(swin, 12, (2, 2, 6, 2), (1, 2, 4, 8), 7),
  'Swin-S': functools.partial(swin, 12, (2, 2, 18, 2), (1, 2, 4, 8), 7),
  'Swin-B': functools.partial(swin, 16, (2, 2, 18, 2), (1, 2, 4, 8), 12),
  'Swin-L': functools.partial(swin, 24, (2, 2, 18, 2), (1, 2, 4, 8), 12),
}
_OWN = ('roof', 'solar panel', 'street', 'street', 'sky-other', '', 'tree')


def _row(title: str, backbone: Callable, words, form: str = 'folder', **sizes) -> Row:
  kind = f'{len(words)} own classes' if isinstance(words, tuple) else words
  return Row(
    'transformers',
    f'Mask2Former, {title}, {kind}',
    _FORMS[form],
    functools.partial(_make, backbone, words, form, **sizes),
  )


ROWS = (
  _row('Swin-T', SWINS['Swin-T'], 'coco-panoptic-133'),
  _row('Swin-T', SWINS['Swin-T'], 'ade20k-150', 'parts'),
  _row('Swin-T', SWINS['Swin-T'], 'coco-instances80', 'pytorch_model.bin'),
  _row('Swin-T', SWINS['Swin-T'], _OWN),
  _row('Swin-S', SWINS['Swin-S'], 'coco-panoptic-133', 'file'),
  _row('Swin-B', SWINS['Swin-B'], 'coco-stuff-171'),
  _row('Swin-L', SWINS['Swin-L'], 'coco-panoptic-133', num_queries=20),
  _row('ResNet-50', resnet, 'coco-panoptic-133'),
  _row('ResNet-101', functools.partial(resnet, (3, 4, 23, 3)), 'ade20k-150'),
  _row("timm's ResNet-50", timm, 'coco-panoptic-133'),
)
