"""The contracts that unify the systems: `model(images, text) -> Outputs`.

Words are data: a `TextBank` is padded to one of a few sizes, so a new vocabulary never
compiles anything. Shapes are fixed: an image of any size lies in the top left corner of
a canvas, and `Images` says how much of the canvas is real.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Float, Int, Num

from maskclip_jax.names import look_up
from maskclip_jax.nn.layers import check_pixels, zero_outside
from maskclip_jax.postprocess.partition import Partition

# The network's coarsest feature has stride 32, so it sees multiples of 32.
STRIDE = 32
# Sizes a text bank is padded to. Classes plus the void column must fit.
BUCKETS = (64, 256, 1024, 4096, 16384)


def _pytree(cls):
  cls = dataclasses.dataclass(frozen=True)(cls)
  fields = [f.name for f in dataclasses.fields(cls)]
  jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=[])
  # So that `jax.export` can store programs that take or give them.
  export.register_pytree_node_serialization(
    cls,
    serialized_name=f'maskclip_jax.{cls.__name__}',
    serialize_auxdata=lambda _: b'',
    deserialize_auxdata=lambda _: (),
  )
  return cls


@_pytree
class Images:
  """A batch of photos, each in the top left corner of a common canvas.

  Attributes:
    pixels: RGB, 0..255, zero outside `image_hw`; the canvas sides divide by 32.
    image_hw: height and width of each photo on the canvas.
    padded_hw: the size the networks see: `image_hw` rounded up to a multiple of 32
      (for one photo), or the batch's largest (to reproduce a batch of the official
      code). None when the photos fill the canvas, which skips all masking.
  """

  pixels: Num[Array, 'b h w 3']
  image_hw: Int[Array, 'b 2']
  padded_hw: Int[Array, 'b 2'] | None = None

  @property
  def input_hw(self) -> Int[Array, 'b 2']:
    """The size the networks see of each photo: `padded_hw`, or the whole canvas."""
    if self.padded_hw is not None:
      return self.padded_hw
    canvas = jnp.array(self.pixels.shape[1:3], jnp.int32)
    return jnp.broadcast_to(canvas, self.image_hw.shape)

  def standardised(
    self, mean: tuple[float, float, float], std: tuple[float, float, float]
  ) -> Float[Array, 'b h w 3']:
    """(pixels - mean) / std; zero beyond the photo, as padding comes afterwards.

    Args:
      mean: RGB mean, 0..255.
      std: RGB standard deviation, 0..255.
    """
    mean, std = (jnp.asarray(v, jnp.float32) for v in (mean, std))
    pixels = (self.pixels.astype(jnp.float32) - mean) / std
    return pixels if self.padded_hw is None else zero_outside(pixels, self.image_hw)

  @classmethod
  def from_arrays(
    cls,
    photos: Sequence[Num[np.ndarray, 'h w 3']],
    canvas: tuple[int, int] | None = None,
    *,
    pad_to_batch: bool = False,
  ) -> 'Images':
    """Lays photos on a canvas.

        images = Images.from_arrays([np.asarray(Image.open('photo.jpg'))])

    Args:
      photos: RGB arrays, 0..255, of any sizes.
      canvas: (height, width), multiples of 32; the smallest that fits by default.
      pad_to_batch: let every photo see the padding of the batch's largest one, as the
        official code does for batches.

    Raises:
      ValueError: a photo does not fit on the canvas, is not (h, w, 3), or is of 0..1;
        or there is none.
    """
    if getattr(photos, 'ndim', None) == 3:
      raise ValueError('give a list of photos: Images.from_arrays([photo])')
    photos = [np.asarray(photo) for photo in photos]
    if not photos:
      raise ValueError('a batch needs at least one photo')
    for photo in photos:
      _check_photo(photo)
    image_hw = np.array([photo.shape[:2] for photo in photos], np.int32)
    padded_hw = -(-image_hw // STRIDE) * STRIDE
    if pad_to_batch:
      padded_hw = np.broadcast_to(padded_hw.max(0), padded_hw.shape)
    height, width = canvas or tuple(padded_hw.max(0))
    if height % STRIDE or width % STRIDE or (padded_hw > (height, width)).any():
      raise ValueError(
        f'a canvas of {height} x {width} does not hold photos padded to '
        f'{padded_hw.tolist()}: give multiples of {STRIDE} that are large enough'
      )
    pixels = np.zeros((len(photos), height, width, 3), np.result_type(*photos))
    for row, photo in zip(pixels, photos, strict=True):
      row[: photo.shape[0], : photo.shape[1]] = photo
    return cls(jnp.asarray(pixels), jnp.asarray(image_hw), jnp.asarray(padded_hw))


def _check_photo(photo: np.ndarray) -> None:
  shape = photo.shape
  if photo.ndim != 3 or shape[-1] != 3 or 0 in shape:
    first = photo.ndim == 3 and shape[0] == 3
    hint = ': move the channels last, photo.transpose(1, 2, 0)' if first else ''
    raise ValueError(f'a photo must be (height, width, 3), not {shape}{hint}')
  if photo.dtype.kind == 'f' and 0 < photo.max() <= 1:
    raise ValueError('a photo of floats in 0..1 is almost black here: multiply by 255')


def check_inputs(images: Any, text: Any = None) -> None:
  """Refuses what is not the input of a system, before anything is computed.

  Args:
    images: is to be `Images`.
    text: is to be a `TextBank`, or None.

  Raises:
    ValueError: what it is instead, and how to make one.
  """
  if not isinstance(images, Images):
    raise ValueError(
      f'a system takes Images, not {_described(images)}: make them by '
      'Images.from_arrays([photo, ...]) of RGB arrays (height, width, 3), 0..255'
    )
  check_pixels(images.pixels, STRIDE)
  if images.image_hw.shape != (images.pixels.shape[0], 2):
    raise ValueError(
      f'image_hw must be ({len(images.pixels)}, 2), a height and a width for each '
      f'photo, not {images.image_hw.shape}'
    )
  if text is not None and not isinstance(text, TextBank):
    raise ValueError(
      f'a system takes a TextBank, not {_described(text)}: make it by '
      'segmenter.text_bank(vocabulary), or by TextBank.build(vectors, things)'
    )


def _described(value: Any) -> str:
  if hasattr(value, 'shape'):
    return f'an array {tuple(value.shape)}'
  return f'a {type(value).__name__}'


@_pytree
class TextBank:
  """Class vectors of a vocabulary, padded to a bucket.

  Classes are columns, vectors are rows. Most systems have one row a class; where every
  word of a class keeps a vector of its own, the best of its rows counts.

  Attributes:
    embeddings: unit vectors; zero in the padding, and for a class that no word stands
      for (see `Scores.background_threshold`).
    valid: columns that exist: the classes, and the void column if there is one.
    thing: classes whose segments are counted objects (the rest are stuff).
    void: the extra 'other' / 'background' column: it takes part in the softmax and is
      never a result.
    seen: classes that the training of the model named; some systems trust CLIP less
      for these.
    columns: the column of each row, beyond the last one for padding; None if row i is
      column i.
    proposal_embeddings: the rows as the proposals' own text tower has them, for systems
      that ask it too; None for all others.
  """

  embeddings: Float[Array, 'r d']
  valid: Bool[Array, ' k']
  thing: Bool[Array, ' k']
  void: Bool[Array, ' k']
  seen: Bool[Array, ' k']
  columns: Int[Array, ' r'] | None = None
  proposal_embeddings: Float[Array, 'r e'] | None = None

  @classmethod
  def build(
    cls,
    embeddings: Float[np.ndarray, 'n d'],
    thing: Bool[np.ndarray, ' n'] | Sequence[bool],
    *,
    void_last: bool = False,
    learned_void: bool = False,
    rows: Sequence[int] | None = None,
    seen: Bool[np.ndarray, ' n'] | Sequence[bool] | None = None,
    proposal_embeddings: Float[np.ndarray, 'n e'] | None = None,
    buckets: Sequence[int] = BUCKETS,
  ) -> 'TextBank':
    """Normalises and pads class vectors.

    Args:
      embeddings: the rows of each class, then the void row if `void_last`.
      thing: one flag per class (not for the void row).
      void_last: whether the last row is the void column.
      learned_void: whether there is a void column without a row: the model has its
        vector.
      rows: how many rows each class has; one by default.
      seen: one flag per class (not for the void row); none is seen by default.
      proposal_embeddings: the rows by the text tower of the proposals.
      buckets: sizes to pad rows and columns to, ascending.

    Raises:
      ValueError: no classes, too many for the largest bucket, or flags that do not fit.
    """
    embeddings = np.asarray(embeddings, np.float32)
    classes, given = len(thing), len(embeddings)
    seen = [False] * classes if seen is None else seen
    needed = (classes if rows is None else sum(rows)) + void_last
    if not classes or given != needed or len(seen) != classes:
      raise ValueError(
        f'{given} text vectors (void column: {void_last}), {classes} thing flags and '
        f'{len(seen)} seen flags do not fit: give one flag per class and at least one '
        'class'
      )
    real = classes + (void_last or learned_void)
    size, height = (_bucket(n, buckets) for n in (real, given))
    if rows is None:
      height = size
    others = proposal_embeddings
    if others is not None and len(others) != given:
      raise ValueError(
        f'{given} text vectors and {len(others)} of the proposals: give as many'
      )
    index = np.arange(size)
    flags = np.zeros((2, size), bool)
    flags[:, :classes] = thing, seen
    columns = None
    if rows is not None:
      columns = np.full(height, size, np.int32)
      counts = [*rows, *[1] * void_last]
      columns[:given] = np.repeat(np.arange(len(counts)), counts)
    return cls(
      _unit_rows(embeddings, height),
      jnp.asarray(index < real),
      jnp.asarray(flags[0]),
      jnp.asarray((index == classes) & (real > classes)),
      jnp.asarray(flags[1]),
      None if columns is None else jnp.asarray(columns),
      None if others is None else _unit_rows(np.asarray(others, np.float32), height),
    )

  def as_proposals_read(self) -> 'TextBank':
    """The same words by the text tower of the proposals.

    Raises:
      ValueError: the bank does not have them.
    """
    if self.proposal_embeddings is None:
      raise ValueError(
        'this model reads words by two text towers and the TextBank has the vectors of '
        'one: make it by segmenter.text_bank(vocabulary)'
      )
    rows = self.proposal_embeddings
    return dataclasses.replace(self, embeddings=rows, proposal_embeddings=None)


def _unit_rows(rows: Float[np.ndarray, 'n d'], height: int) -> Float[Array, 'r d']:
  """Normalised rows, and zeros below them."""
  norm = np.linalg.norm(rows, axis=-1, keepdims=True)
  padded = np.zeros((height, rows.shape[1]), np.float32)
  padded[: len(rows)] = rows / np.maximum(norm, 1e-12)
  return jnp.asarray(padded)


def _bucket(rows: int, buckets: Sequence[int]) -> int:
  """The smallest bucket that holds some rows."""
  if rows > max(buckets):
    raise ValueError(f'{rows} classes exceed the largest text bank ({max(buckets)})')
  return next(bucket for bucket in buckets if bucket >= rows)


@_pytree
class Scores:
  """How class scores are combined: what a protocol chooses and weights do not.

  Numbers and not architecture: a model takes them as inputs, so another choice compiles
  nothing. A system reads those that it knows.

  Attributes:
    seen_weight: exponent of CLIP's own opinion in the geometric mean with the proposal
      network's, for classes that training named; the other has 1 minus that.
    unseen_weight: the same for all other classes.
    mask_threshold: probability from which on a pixel belongs to a mask that is cut out.
    background_threshold: score below which a pixel belongs to no word, but to the class
      without a vector, if the bank has one.
    skip_empty: CLIP has no say on masks that cover no position of its map; otherwise
      its answer to nothing counts, which is the same for all of them.
    coat: how much CLIP's best probability of a class lowers that of void; 0 for not at
      all.
    drop_empty: masks that have no pixel to cut out are no result; otherwise the
      proposal network alone scores them.
    mask_prompts: learned prompts stand in for what a mask hides, where a system has
      them.
  """

  seen_weight: float | Float[Array, ''] = 0.0
  unseen_weight: float | Float[Array, ''] = 0.0
  mask_threshold: float | Float[Array, ''] = 0.5
  background_threshold: float | Float[Array, ''] = 0.0
  skip_empty: bool | Bool[Array, ''] = False
  coat: float | Float[Array, ''] = 0.0
  drop_empty: bool | Bool[Array, ''] = False
  mask_prompts: bool | Bool[Array, ''] = True

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      # Inside a program the numbers are not known.
      if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ValueError(f'{field.name} must be in [0, 1], not {value}')


def parse_scores(text: str) -> dict[str, float | bool]:
  """Fields of `Scores` from 'unseen_weight=1,drop_empty=1'.

  Raises:
    ValueError: an unknown field, or a value that is not a number.
  """
  defaults = {field.name: field.default for field in dataclasses.fields(Scores)}
  found = {}
  for part in text.split(','):
    name, _, value = (piece.strip() for piece in part.partition('='))
    default = look_up('score', name, defaults)
    try:
      found[name] = type(default)(float(value))
    except ValueError:
      raise ValueError(
        f'scores are given as unseen_weight=0.7,drop_empty=1, not as {text!r}'
      ) from None
  return found


@_pytree
class RegionVectors:
  """What `encode_masks` returns: vectors of masks, whoever made the masks.

  Attributes:
    vectors: one per mask, in CLIP's joint space, not normalised.
    masks: the mask logits as the encoder refined them, stage by stage, on a square of
      CLIP's size; empty for encoders that leave masks as they are.
    empty: masks without a pixel, whose vectors mean nothing.
  """

  vectors: Float[Array, 'b q d']
  masks: tuple[Float[Array, 'b q r r'], ...]
  empty: Bool[Array, 'b q']


@runtime_checkable
class EncodesMasks(Protocol):
  """A system that gives vectors of masks, whoever made them: people may name masks of
  their own, and pairs be mined. Proposal networks alone and SegCLIP are none."""

  def encode_masks(
    self,
    images: Images,
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    scores: Scores | None = None,
  ) -> RegionVectors:
    """Vectors of arbitrary masks, any number of them.

    Args:
      images: photos on their canvas.
      mask_logits: positive inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      scores: what a system reads of them, such as where masks that it cuts out end;
        its published ones by default.
    """
    ...


@_pytree
class Outputs:
  """What every system returns.

  Attributes:
    mask_logits: one map per query, or what stands for them; the region `mask_hw` of it
      covers the padded image.
    class_logits: per query and text column, already times the temperature; columns
      that are not `valid` are to be ignored.
    objectness: log-probability that the query is an object, or None where the classes
      carry that themselves.
    mask_hw: the part of `mask_logits` that is real.
    aux: outputs of earlier layers, for deep supervision and parity tests.
  """

  mask_logits: Float[Array, 'b q h w'] | Partition
  class_logits: Float[Array, 'b q k'] | None
  objectness: Float[Array, 'b q'] | None
  mask_hw: Int[Array, 'b 2']
  aux: tuple['Outputs', ...] = ()


@runtime_checkable
class ProposesMasks(Protocol):
  """A network that finds masks without being told words, for any classifier."""

  def propose_masks(self, images: Images, text: TextBank | None = None) -> Outputs:
    """Masks of photos.

    Args:
      images: photos on their canvas.
      text: words in the space of the network's own CLIP, for one that names masks by
        words itself; others leave it unread.

    Returns:
      Mask logits; the log-probability that each is an object, where the network knows
      it; class logits where it named them.
    """
    ...
