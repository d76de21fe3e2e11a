"""Rows of ImageNet classifiers that training starts from: they are no models of ours,
so that reading them is what `--config.start.backbone.source` does."""

import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import timm
import torch
import torchvision
import transformers
from flax import nnx
from rows import Made, Row, relative, seed_weights

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.backbone import read_backbone
from maskclip_jax.nn.resnet import ResNet
from maskclip_jax.nn.swin import Swin, SwinConfig

_SWIN = SwinConfig(12, (2, 2, 6, 2), (1, 2, 4, 8), 7)


def pixels() -> np.ndarray:
  """Standardised pixels [1, 3, h, w]."""
  # Swin's windows of 7 must fit on the coarsest map.
  return np.random.default_rng(0).normal(size=(1, 3, 256, 288)).astype(np.float32)


def torchvision_features(model, x: torch.Tensor) -> torch.Tensor:
  """The last map of torchvision's network."""
  return torch.nn.Sequential(*list(model.children())[:-2])(x)


def swin_features(model, x: torch.Tensor) -> torch.Tensor:
  """The last map of transformers' Swin, normalised: the norm of ours is a new one."""
  found = model(x, output_hidden_states=True).reshaped_hidden_states[-1]
  found = found.permute(0, 2, 3, 1)
  return torch.nn.functional.layer_norm(found, found.shape[-1:]).permute(0, 3, 1, 2)


def difference(
  model, features: Callable, network: nnx.Module, source: pathlib.Path
) -> float:
  """The difference of the last maps."""
  flat = params.flatten(network) | {
    path.removeprefix('backbone/'): array
    for path, array in read_backbone(source).items()
  }
  network = params.load_into(network, flat)
  with torch.no_grad():
    theirs = features(model.eval(), torch.from_numpy(pixels())).numpy()
  x = np.moveaxis(pixels(), 1, -1)
  ours = jax.jit(lambda x: network(x)['res5'])(x)
  return relative(np.moveaxis(np.asarray(ours), -1, 1), theirs)


def _read(source: pathlib.Path) -> float:
  read_backbone(source)
  return 0.0


def _save_torchvision(model, folder: pathlib.Path) -> pathlib.Path:
  torch.save(model.state_dict(), folder / 'resnet50.pth')
  return folder / 'resnet50.pth'


def _save_timm(model, folder: pathlib.Path, **changes) -> pathlib.Path:
  model.pretrained_cfg = model.pretrained_cfg | changes
  timm.models.save_for_hf(model, folder / 'timm', safe_serialization=True)
  return folder / 'timm'


def _save_transformers(model, folder: pathlib.Path) -> pathlib.Path:
  model.save_pretrained(folder / 'transformers')
  return folder / 'transformers'


def _make(
  build: Callable,
  save: Callable,
  features: Callable | None,
  ours: Callable | None,
  folder: pathlib.Path,
) -> Made:
  model = build()
  seed_weights(model)
  source = save(model, folder)
  if features is None:
    return Made(source, _read, convert=False)
  network = ours(rngs=nnx.Rngs(0))
  return Made(
    source, functools.partial(difference, model, features, network), convert=False
  )


def _timm_features(model, x: torch.Tensor) -> torch.Tensor:
  return model.forward_features(x)


def _hidden(model, x: torch.Tensor) -> torch.Tensor:
  return model.resnet(x).last_hidden_state


def _row(library: str, network: str, files: str, *parts, refused=False) -> Row:
  network = f'{network}, classifier'
  return Row(library, network, files, functools.partial(_make, *parts), refused=refused)


_R50, _R101 = (functools.partial(ResNet, depth) for depth in (50, 101))

ROWS = (
  _row(
    'torchvision',
    'ResNet-50',
    '.pth',
    torchvision.models.resnet50,
    _save_torchvision,
    torchvision_features,
    _R50,
  ),
  *(
    _row(
      'timm',
      title,
      'folder: safetensors, config',
      functools.partial(timm.create_model, name),
      _save_timm,
      _timm_features,
      ours,
    )
    for title, name, ours in (
      ('ResNet-50', 'resnet50', _R50),
      ('ResNet-101', 'resnet101', _R101),
    )
  ),
  _row(
    'timm',
    'ResNet-50-D',
    'folder: safetensors, config',
    functools.partial(timm.create_model, 'resnet50d'),
    _save_timm,
    None,
    None,
    refused=True,
  ),
  _row(
    'timm',
    'ResNet-50 of other pixel statistics',
    'folder: safetensors, config',
    functools.partial(timm.create_model, 'resnet50'),
    functools.partial(_save_timm, mean=(0.5,) * 3, std=(0.5,) * 3),
    None,
    None,
    refused=True,
  ),
  _row(
    'transformers',
    'ResNet-50',
    'folder: safetensors, config',
    lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig()),
    _save_transformers,
    _hidden,
    _R50,
  ),
  _row(
    'transformers',
    'Swin-T',
    'folder: safetensors, config',
    lambda: transformers.SwinForImageClassification(
      transformers.SwinConfig(
        embed_dim=_SWIN.width,
        depths=_SWIN.depths,
        num_heads=_SWIN.heads,
        window_size=_SWIN.window,
        image_size=(256, 288),
      )
    ),
    _save_transformers,
    swin_features,
    functools.partial(Swin, _SWIN),
  ),
)
