"""From the data settings of a run to batches on devices."""

import dataclasses
import functools

import jax
import numpy as np
from jax.sharding import Mesh

from maskclip_jax.data.pipeline import (
  DataConfig,
  DatasetConfig,
  Reading,
  Stream,
  train_stream,
)
from maskclip_jax.data.targets import Targets
from maskclip_jax.data.transforms import mappers
from maskclip_jax.data.views import find_view
from maskclip_jax.text import tokenizer
from maskclip_jax.train import mesh as meshes
from maskclip_jax.train.config import DataSettings
from maskclip_jax.train.generated import CAPTIONS, VIEW, GeneratedPictures

# What the losses read; the rest of a batch stays on the host.
ON_DEVICE = (
  *('image', 'image_hw', 'tokens'),
  *('class', 'valid', 'crowd', 'segments', 'masks'),
)


def _datasets(settings: DataSettings) -> tuple[DatasetConfig, ...]:
  view = CAPTIONS if settings.caption_tokens else VIEW
  return settings.datasets or (DatasetConfig(view, 'generated'),)


def _tokens(caption: str, length: int) -> np.ndarray:
  """A caption as CLIP reads it, cut to a length."""
  return tokenizer.tokenize(caption, length, truncate=True)[0]


def data_config(settings: DataSettings) -> DataConfig:
  """The pipeline's config of a run.

  Raises:
    ValueError: no such mapper, or settings that do not fit each other.
  """
  mapper = mappers.named(settings.mapper, settings.profile)
  canvas, length = (settings.canvas, settings.canvas), settings.caption_tokens
  datasets = _datasets(settings)
  if settings.data_dir is not None:
    datasets = tuple(
      dataclasses.replace(dataset, data_dir=settings.data_dir) for dataset in datasets
    )
  targets = Targets(settings.max_segments, masks=settings.overlapping)
  return DataConfig(
    datasets=datasets,
    mapper=dataclasses.replace(mapper, canvas=canvas),
    batch_size=settings.batch_size,
    targets=None if length else targets,
    tokenize=functools.partial(_tokens, length=length) if length else None,
    seed=settings.seed,
    on_error=settings.on_error,
    same_orientation=settings.same_orientation,
    reading=Reading(settings.workers, settings.threads, settings.prefetch),
  )


def class_count(settings: DataSettings) -> int:
  """How many classes the ground truth of a run has.

  Raises:
    ValueError: the datasets of a mixture have different classes.
  """
  views = {dataset.view: find_view(dataset.view) for dataset in _datasets(settings)}
  names = {name: view.class_names() for name, view in views.items()}
  if len(set(names.values())) > 1:
    raise ValueError(
      f'the datasets {", ".join(names)} have different classes: a run needs one list'
    )
  return len(next(iter(names.values())))


def own_vocabulary(settings: DataSettings) -> str:
  """The vocabulary that the class indices of the ground truth follow."""
  return find_view(_datasets(settings)[0].view).vocabulary


def open_stream(settings: DataSettings, mesh: Mesh, step: int) -> Stream:
  """This process's part of the batches from a step on."""
  host, hosts = meshes.host_rows(mesh)
  sources = None
  if settings.generated:
    sources = [GeneratedPictures(settings.generated, settings.canvas, settings.seed)]
  config = data_config(settings)
  return train_stream(config, step, host=host, hosts=hosts, sources=sources)


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """The arrays of a batch that the losses read, divided over the mesh."""
  return meshes.to_devices({n: batch[n] for n in ON_DEVICE if n in batch}, mesh)


def abstract_batch(settings: DataSettings) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of all processes, for compiling without data."""
  b, n, side = settings.batch_size, settings.max_segments, settings.canvas
  shapes = {'image': ((b, side, side, 3), np.uint8), 'image_hw': ((b, 2), np.int32)}
  if settings.caption_tokens:
    shapes['tokens'] = ((b, settings.caption_tokens), np.int32)
  else:
    shapes |= {
      'class': ((b, n), np.int32),
      'valid': ((b, n), np.bool_),
      'crowd': ((b, n), np.bool_),
      'segments': ((b, side, side), np.int16),
    }
  if settings.overlapping:
    shapes['masks'] = ((b, n, side, side // 8), np.uint8)
  return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
