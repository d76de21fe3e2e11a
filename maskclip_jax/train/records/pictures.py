"""Pictures of a run: a training photo, its segments, and the masks found so far."""

import io
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8
from PIL import Image

from maskclip_jax import atomic
from maskclip_jax.ops.resize import resize
from maskclip_jax.results.palette import class_colors
from maskclip_jax.systems.contract import Outputs, TextBank
from maskclip_jax.train.step import Program, TrainState
from maskclip_jax.train.task import MODEL, images_of

_TRANSPARENCY = 0.4
Draw = Callable[[TrainState, Mapping[str, Array]], UInt8[np.ndarray, 'h w3 3']]


def found_masks(outputs: Outputs, text: TextBank | None) -> Int[Array, 'b h w']:
  """At each pixel the query that claims it most, -1 where none does."""
  score = jnp.zeros(outputs.mask_logits.shape[:2])
  if outputs.objectness is not None:
    score = outputs.objectness
  if outputs.class_logits is not None and outputs.objectness is None:
    logits = outputs.class_logits.astype(jnp.float32)
    if text is None:
      score = jax.nn.log_softmax(logits)[..., :-1].max(-1)
    else:
      log_p = jax.nn.log_softmax(jnp.where(text.valid, logits, -jnp.inf))
      score = jnp.where(text.valid & ~text.void, log_p, -jnp.inf).max(-1)
  p = jax.nn.sigmoid(outputs.mask_logits.astype(jnp.float32))
  best = jnp.argmax(jnp.exp(score)[..., None, None] * p, axis=1)
  inside = jnp.take_along_axis(p, best[:, None], axis=1)[:, 0] >= 0.5
  return jnp.where(inside, best, -1)


def true_segments(row: Mapping[str, Array]) -> Int[Array, 'h w']:
  """The table's row at each pixel, the first of several, -1 for none."""
  if 'segments' in row:
    return jnp.asarray(row['segments'][0], jnp.int32)
  width = row['image'].shape[2]
  masks = jnp.unpackbits(jnp.asarray(row['masks'][0]), axis=-1)[..., :width]
  return jnp.where(masks.any(0), masks.argmax(0), -1).astype(jnp.int32)


def make_draw(program: Program) -> Draw:
  """A function that draws the first photo of a batch; every process must call it."""

  def first(state: TrainState, batch):
    flat = {**state.frozen, **state.params}
    model = program.layout.merge(flat)[MODEL]
    text = program.task.text(flat)
    row = {name: array[:1] for name, array in batch.items()}
    found = program.task.found(model, images_of(row), text)
    found = found_masks(found, text)[0]
    photo, truth = batch['image'][0], true_segments(row)
    found = resize(found, truth.shape, 'nearest').astype(jnp.int32)
    return photo, truth, found

  everywhere = NamedSharding(program.mesh, PartitionSpec())
  compiled = jax.jit(first, out_shardings=everywhere)

  def draw(state: TrainState, batch: Mapping[str, Array]):
    photo, truth, found = map(np.asarray, compiled(state, batch))
    return np.concatenate([photo, _tinted(photo, truth), _tinted(photo, found)], axis=1)

  return draw


def _tinted(photo: UInt8[np.ndarray, 'h w 3'], ids: Int[np.ndarray, 'h w']):
  colors = class_colors([f'segment {i}' for i in range(max(int(ids.max()), 0) + 1)])
  tint = np.where(ids[..., None] >= 0, colors[ids], 0).astype(float)
  mixed = _TRANSPARENCY * photo + (1 - _TRANSPARENCY) * tint
  return mixed.round().astype(np.uint8)


def write(path: pathlib.Path, picture: UInt8[np.ndarray, 'h w 3']) -> bytes:
  """Writes a PNG and returns its bytes."""
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'PNG')
  atomic.write(path, file.getvalue())
  return file.getvalue()
