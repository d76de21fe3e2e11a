"""From photos and nouns to pairs: masks of a model, and CLIP's choice among them.

`PairMiner` loads once and maps dictionaries of arrays to dictionaries of arrays, which
is what Ray Data's `map_batches` and Beam's `Map` call.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from maskclip_jax import jax_settings, photos
from maskclip_jax.batches import by_canvas, canvas_of, read_ahead
from maskclip_jax.checkpoints import params, restore
from maskclip_jax.data.pairs import fill_outside
from maskclip_jax.data.records import read_label_map, write_label_map
from maskclip_jax.eval.predictor import PLAIN
from maskclip_jax.mining.nouns import Noun, nouns_of
from maskclip_jax.mining.recipe import MiningConfig
from maskclip_jax.ops.resize import resize
from maskclip_jax.postprocess.partition import Partition
from maskclip_jax.results.files import png_bytes
from maskclip_jax.segmenter import Segmenter, load
from maskclip_jax.systems.contract import (
  STRIDE,
  EncodesMasks,
  Images,
  RegionVectors,
  Scores,
)
from maskclip_jax.text.bank import class_vectors
from maskclip_jax.text.category import Category
from maskclip_jax.text.vocabulary import Vocabulary

Picture = UInt8[np.ndarray, 'h w 3']
# Masks that are cut out at a time.
_CUTS = 8
# Threads that decode photos, and as many that write pictures of pairs.
_THREADS = 4
# A proposal network has to be shown words even where only its masks are used.
_ANY_WORD = 'thing: object'
NO_NOUN, NO_REGION = 'no noun', 'no region'
# Columns of a pair; `problem` is empty then.
_PAIR = ('noun', 'score', 'lead', 'query', 'area', 'box', 'size', 'image', 'mask')


@dataclasses.dataclass(frozen=True, eq=False)
class _Photo:
  """A photo with nouns, as the proposal network sees it."""

  position: int
  pixels: Picture
  nouns: tuple[Noun, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
  """Photos of one canvas on their way through the networks."""

  photos: Sequence[_Photo]
  images: Images
  logits: Float[Array, 'b q h w']
  mask_hw: Int[Array, 'b 2']
  encoded: RegionVectors


@dataclasses.dataclass(frozen=True)
class Pair:
  """A noun and the region that CLIP finds most like it.

  Attributes:
    noun: the text.
    score: cosine of their vectors.
    lead: by how much it exceeds that of the photo's other nouns with this region;
      NaN for an only noun.
    query: which of the proposals.
    area: pixels of the region.
    box: its top, left, bottom and right (one past the last).
    size: height and width of the photo that these count in.
    image: PNG of the box.
    mask: PNG of the region in it.
  """

  noun: str
  score: float
  lead: float
  query: int
  area: int
  box: tuple[int, int, int, int]
  size: tuple[int, int]
  image: bytes
  mask: bytes

  @classmethod
  def of(cls, rows: Mapping[str, np.ndarray], row: int) -> 'Pair':
    """The pair in a row of what `PairMiner` returns."""
    return cls(**{name: rows[name][row] for name in _PAIR})


# A pair on its way through a thread.
Making = concurrent.futures.Future[Pair]


def mask_of(pair: Pair) -> Bool[np.ndarray, 'h w']:
  """The region inside its box."""
  return read_label_map(pair.mask) != 0


class PairMiner:
  """Maps a dictionary of photos to a dictionary of pairs.

  Args:
    config: every choice.

  Raises:
    FileNotFoundError, ValueError, ImportError: a model, vocabulary or pipeline cannot
      be had; or the model cannot encode masks.
  """

  @jax_settings.own()
  def __init__(self, config: MiningConfig):
    self.config = config
    self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS)
    self._tagger = config.nouns.tagger()
    self._vectors: dict[str, Float[np.ndarray, ' d']] = {}
    self._matcher = _load(config.model, config)
    self._proposer = self._matcher
    if config.proposals is not None:
      self._proposer = _load(config.proposals, config)
    open_words = self._proposer.preset.vocabulary is None
    words = self._proposer.vocabulary(_ANY_WORD if open_words else None)
    self._bank = self._proposer.text_bank(words)
    self._scores = self._choose_scores()
    self._forward, self._states = self._program()

  def _choose_scores(self) -> Scores:
    """The proposal model's own scores, CLIP without prompts, and the user's changes
    [ovseg 5.8]."""
    changes = {'mask_prompts': False, **self.config.score_changes()}
    return dataclasses.replace(self._proposer.preset.scores, **changes)

  def _program(self):
    """Masks and their vectors as one compiled function, and the weights it takes."""
    if not isinstance(self._matcher.model, EncodesMasks):
      raise ValueError(
        f'{self.config.model} has no vectors of given masks: match with another '
        '--model and give this one as --proposals'
      )
    propose, proposer = self._proposer.as_function()
    whole, matcher = params.split(self._matcher.model)

    def forward(states, images, bank, scores):
      found = propose(states[0], images, bank, scores)
      if isinstance(found.mask_logits, Partition):
        raise ValueError(
          f'{self.config.proposals} divides photos among words and proposes no masks: '
          'name a proposal network with --proposals'
        )
      # Masks are cut at zero from here on, whatever the threshold is.
      threshold = jnp.asarray(scores.mask_threshold, jnp.float32)
      logits = found.mask_logits - (jnp.log(threshold) - jnp.log1p(-threshold))
      halved = dataclasses.replace(scores, mask_threshold=0.5)
      encoded = whole(states[1]).encode_masks(images, logits, found.mask_hw, halved)
      return logits, found.mask_hw, RegionVectors(encoded.vectors, (), encoded.empty)

    return jax.jit(forward), (proposer, matcher)

  @jax_settings.own()
  def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mines photos.

    Args:
      batch: `key` (texts), `image` (bytes of image files) and `captions` (lists of
        texts), one entry a photo.

    Returns:
      One row a pair, in the order of photos and nouns: `key` of the photo and the
      fields of `Pair`. A photo without pairs has one row whose `problem` says why.

    Raises:
      ValueError: a photo cannot be read, unless `on_error` is 'skip'.
    """
    found: dict[int, list[Making] | str] = {}
    for group in self._groups(batch, found):
      for photo, pairs in zip(group.photos, self._finish(group), strict=True):
        found[photo.position] = pairs or NO_REGION
    rows = []
    for position, key in enumerate(batch['key']):
      result = found[position]
      if isinstance(result, str):
        rows.append({'key': key, 'problem': result} | dict.fromkeys(_PAIR))
      for making in [] if isinstance(result, str) else result:
        pair = making.result()
        row = {field: getattr(pair, field) for field in _PAIR}
        rows.append({'key': key, 'problem': '', **row})
    return {
      name: column(row[name] for row in rows) for name in ('key', 'problem', *_PAIR)
    }

  def _groups(
    self, batch: Mapping[str, np.ndarray], found: dict[int, list[Making] | str]
  ) -> Iterator[_Group]:
    """Photos on their way through the networks, one group ahead; what has no nouns or
    cannot be read is found already."""
    ahead = max(_THREADS, 2 * self.config.batch_size)
    readings = read_ahead(self._read, self._with_nouns(batch), _THREADS, ahead)

    def readable():
      for position, reading in enumerate(readings):
        if isinstance(reading, _Photo):
          yield reading
        else:
          found[position] = reading

    step = self._proposer.canvas_step
    pending = None
    for photos_ in by_canvas(
      readable(), lambda photo: canvas_of(photo.pixels, step), self.config.batch_size
    ):
      started = self._start(photos_)
      if pending is not None:
        yield pending
      pending = started
    if pending is not None:
      yield pending

  def _with_nouns(
    self, batch: Mapping[str, np.ndarray]
  ) -> Iterator[tuple[int, str, bytes, list[Noun]]]:
    """Position, key, file and nouns of each photo; taggers work in one thread."""
    columns = (batch[name] for name in ('key', 'image', 'captions'))
    limit = self.config.captions or None
    for position, (key, image, captions) in enumerate(zip(*columns, strict=True)):
      yield position, key, image, nouns_of(list(captions)[:limit], self._tagger)

  def _read(self, item: tuple[int, str, bytes, list[Noun]]) -> _Photo | str:
    """A photo with its nouns, or why it has no pairs."""
    position, key, image, nouns = item
    if not nouns:
      return NO_NOUN
    try:
      pixels = photos.photo_from_bytes(image, f'photo {key}')
    except ValueError as error:
      if self.config.on_error == 'stop':
        raise ValueError(f'{error}; --on_error skip goes on') from error
      return str(error)
    resized = PLAIN[0].photo(pixels, self._proposer.preset.preprocessing)
    return _Photo(position, resized, tuple(nouns))

  def _start(self, group: Sequence[_Photo]) -> _Group:
    """Starts the networks, without waiting for them."""
    missing = self.config.batch_size - len(group)
    black = np.zeros((STRIDE, STRIDE, 3), np.uint8)
    canvas = canvas_of(group[0].pixels, self._proposer.canvas_step)
    images = Images.from_arrays(
      [*(photo.pixels for photo in group), *[black] * missing], canvas
    )
    outputs = self._forward(self._states, images, self._bank, self._scores)
    return _Group(group, images, *outputs)

  def _finish(self, group: _Group) -> Iterator[list[Making]]:
    """The pairs of each photo, once the networks are done; threads write their
    pictures."""
    config = self.config
    vectors, empty = (
      np.asarray(x) for x in (group.encoded.vectors, group.encoded.empty)
    )
    for row, photo in enumerate(group.photos):
      words = np.stack([self._noun_vector(noun.text) for noun in photo.nouns])
      queries, scores, leads = match(vectors[row], empty[row], words)
      if not queries.size:
        yield []
        continue
      masks = self._cut(group, row, queries)
      pairs = []
      for noun, query, score, lead, mask in zip(
        photo.nouns, queries, scores, leads, masks, strict=True
      ):
        if score < config.min_score or lead < config.min_lead:
          continue
        if mask.sum() < config.min_area:
          continue
        facts = noun.text, float(score), float(lead), int(query)
        making = self._threads.submit(
          pair_of, *facts, photo.pixels, mask, config.region
        )
        pairs += [making] * (noun.mentions if config.repeats else 1)
      yield pairs

  def _noun_vector(self, noun: str) -> Float[np.ndarray, ' d']:
    """The vector of a noun, encoded alone: it depends on no other noun, so that every
    process finds the same to the last bit."""
    if noun not in self._vectors:
      words = Vocabulary((Category(noun),)).treated(self.config.words)
      self._vectors[noun] = class_vectors(words, self._matcher.encode_text)[0]
    return self._vectors[noun]

  def _cut(
    self, group: _Group, row: int, queries: Int[np.ndarray, ' n']
  ) -> list[Bool[np.ndarray, 'h w']]:
    """Masks at the size of the resized photo."""
    height, width = group.photos[row].pixels.shape[:2]
    canvas = group.images.pixels.shape[1:3]
    masks = []
    for start in range(0, len(queries), _CUTS):
      chosen = queries[start : start + _CUTS]
      padded = np.pad(chosen, (0, _CUTS - len(chosen)), mode='edge')
      cut = _covered(
        group.logits, group.mask_hw, group.images.input_hw, row, padded, canvas
      )
      masks += list(np.asarray(cut)[: len(chosen), :height, :width])
    return masks


def match(
  vectors: Float[np.ndarray, 'q d'],
  empty: Bool[np.ndarray, ' q'],
  words: Float[np.ndarray, 'n d'],
) -> tuple[Int[np.ndarray, ' n'], Float[np.ndarray, ' n'], Float[np.ndarray, ' n']]:
  """The best region of each noun [ovseg 5.8].

  Args:
    vectors: of the regions, of any length.
    empty: regions without a pixel, which match nothing.
    words: unit vectors of nouns.

  Returns:
    The region of each noun (the first of equal ones), their cosine, and by how much it
    exceeds that of the other nouns with this region (NaN for an only noun). All are
    empty if every region is.
  """
  if empty.all():
    return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
  # In double precision, so that the order of sums does not show in the result.
  vectors, words = vectors.astype(np.float64), words.astype(np.float64)
  lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
  cosines = vectors @ words.T / np.maximum(lengths, 1e-12)
  queries = np.where(empty[:, None], -np.inf, cosines).argmax(0)
  chosen = cosines[queries]
  nouns = np.arange(len(words))
  scores = chosen[nouns, nouns]
  chosen[nouns, nouns] = -np.inf
  others = chosen.max(1)
  return queries, scores, np.where(np.isinf(others), np.nan, scores - others)


@functools.partial(jax.jit, static_argnames='canvas')
def _covered(
  logits: Float[Array, 'b q h w'],
  mask_hw: Int[Array, 'b 2'],
  input_hw: Int[Array, 'b 2'],
  row: Int[Array, ''],
  queries: Int[Array, ' n'],
  canvas: tuple[int, int],
) -> Bool[Array, 'n y x']:
  """Masks of a photo on its canvas, as CLIP's crops were cut [ovseg 2.2, 2.3]."""
  chosen = logits[row, queries]
  return resize(chosen, canvas, in_hw=mask_hw[row], out_hw=input_hw[row]) > 0


def pair_of(
  noun: str,
  score: float,
  lead: float,
  query: int,
  photo: Picture,
  mask: Bool[np.ndarray, 'h w'],
  region: str,
) -> Pair:
  """A pair with its pictures [ovseg 5.8].

  Args:
    noun, score, lead, query: as of `Pair`.
    photo: as the network saw it.
    mask: the region, with at least a pixel.
    region: as of `MiningConfig`.
  """
  rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
  top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
  inside, pixels = mask[top:bottom, left:right], photo[top:bottom, left:right]
  if region == 'filled':
    pixels = fill_outside(pixels, inside)
  return Pair(
    noun,
    score,
    lead,
    query,
    int(mask.sum()),
    (int(top), int(left), int(bottom), int(right)),
    photo.shape[:2],
    png_bytes(pixels),
    write_label_map(np.where(inside, 255, 0)),
  )


def column(values: Iterable[Any]) -> np.ndarray:
  """An array of any values, lists and tuples included, one an entry."""
  values = list(values)
  array = np.empty(len(values), object)
  for place, value in enumerate(values):
    array[place] = value
  return array


def _load(model: str, config: MiningConfig) -> Segmenter:
  # Text vectors kept from other runs came from other batches and may differ in a bit:
  # they are made anew, and only models are looked up in the cache.
  return load(restore.find_bundle(model, config.cache_dir), dtype=config.dtype)
