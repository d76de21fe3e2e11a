"""Segment photos by words: `load(...)` gives a `Segmenter`, which gives `Prediction`s.

    segmenter = maskclip_jax.load('path/to/bundle')
    prediction = segmenter('photo.jpg', 'cat; sofa, couch; stuff:floor')
    prediction.save('out', 'photo')

A photo of any size and a vocabulary of any words run the same compiled program: photos
lie on canvases of a few sizes, words are padded to a bucket.
"""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from maskclip_jax import jax_settings, photos, plain, postprocess, zoo
from maskclip_jax.batches import DeviceClock
from maskclip_jax.checkpoints import params, restore
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.plan import Plan, parse_tasks
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.results.prediction import Prediction
from maskclip_jax.stream import predictions
from maskclip_jax.systems.contract import BUCKETS, Images, Outputs, Scores, TextBank
from maskclip_jax.systems.image_outputs import ImageOutputs
from maskclip_jax.systems.score_rules import with_coat
from maskclip_jax.systems.system import Preset, find_system
from maskclip_jax.text.bank import TextCache, proposal_cache, text_cache
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.text.word_pieces import WordPieces, word_pieces
from maskclip_jax.text_towers import TextTowers, Weights, read_vocabulary


def load(
  model: str | os.PathLike,
  *,
  dtype: str = 'float32',
  cache_dir: str | os.PathLike | None = None,
  float32_weights: bool = False,
  pixel_dtype: str | None = None,
) -> 'Segmenter':
  """Loads a model.

  Args:
    model: a bundle's directory; or a name of `list_models()` that comes with the
      package or was converted into `cache_dir`/models.
    dtype: compute type, 'float32' or 'bfloat16'; weights that are read in it alone are
      kept in it.
    cache_dir: where text vectors are kept between runs; None keeps none.
    float32_weights: keep all weights in float32, to train them further.
    pixel_dtype: compute type of the pixel decoder, which is float32 by default whatever
      `dtype` is, as in the published models.

  Raises:
    FileNotFoundError: no such bundle.
    ValueError: an unknown name, or a damaged bundle.
  """
  return Segmenter.from_bundle(
    model,
    dtype,
    cache_dir,
    float32_weights=float32_weights,
    pixel_dtype=pixel_dtype,
  )


class Segmenter:
  """A model, ready to segment photos by words.

  Attributes:
    preset: everything but the weights.
    model: the NNX module, with its weights.
    canvas_step: canvas sides are multiples of this (and of 32): a larger step compiles
      fewer programs and computes more padding.
    buckets: sizes that words are padded to, each of which compiles programs of its own.
    banks_kept: vocabularies whose vectors are kept in memory, the latest ones.
  """

  canvas_step = 128
  buckets: tuple[int, ...] = BUCKETS
  banks_kept = 32

  @jax_settings.own()
  def __init__(
    self,
    model: nnx.Module,
    preset: Preset,
    *,
    cache: TextCache | None = None,
    pieces: WordPieces | None = None,
    proposal_cache: TextCache | None = None,
  ):
    """Wraps a model; see `load`.

    Args:
      model: the NNX module.
      preset: everything but the weights.
      cache: keeps the vectors of prompts.
      pieces: the tokenizer of its CLIP, where that is not CLIP's own.
      proposal_cache: as `cache`, of the text tower of the proposals, where they name
        masks too.

    Raises:
      ValueError: a CLIP alone, or masks without scores.
    """
    self.preset, self.model = preset, model
    if not find_system(preset.system).segments:
      raise ValueError(
        'a CLIP alone has no masks: convert it into a system, or use its towers by '
        '`maskclip_jax.load_clip`'
      )
    if preset.vocabulary is not None and not model.config.num_classes:
      raise ValueError(
        'this proposal network has no class head, so its masks have no scores: use it '
        'inside MaskCLIP'
      )
    forward, self._weights = self.as_function()
    self._forward = jax.jit(forward)
    self._texts = TextTowers(model, preset, cache, pieces, proposal_cache)

  @classmethod
  def from_bundle(
    cls,
    model: str | os.PathLike,
    dtype: str = 'float32',
    cache_dir: str | os.PathLike | None = None,
    *,
    float32_weights: bool = False,
    pixel_dtype: str | None = None,
  ) -> 'Segmenter':
    """Loads a bundle; see `load`."""
    network, preset, opened = restore.load_model(
      model,
      dtype=restore.as_dtype(dtype),
      cache_dir=cache_dir,
      narrow=not float32_weights,
      pixel_dtype=pixel_dtype,
    )
    clip = getattr(preset.config, 'clip', None)
    cache = text_cache(cache_dir, opened.text_fingerprint, clip, dtype)
    pieces = word_pieces(opened.directory, clip)
    others = proposal_cache(cache_dir, opened.text_fingerprint, preset.config, dtype)
    return cls(network, preset, cache=cache, pieces=pieces, proposal_cache=others)

  @classmethod
  def from_preset(
    cls,
    preset: str | Preset,
    *,
    seed: int = 0,
    dtype: str = 'float32',
    float32_weights: bool = False,
    pixel_dtype: str | None = None,
  ) -> 'Segmenter':
    """A model with random weights: for tests, and for trying the path out."""
    if isinstance(preset, str):
      preset = zoo.find_preset(preset)
    if pixel_dtype is not None:
      preset = preset.with_pixel_dtype(pixel_dtype)
    model = random_model(
      preset.system,
      preset.config,
      seed=seed,
      dtype=restore.as_dtype(dtype),
      narrow=not float32_weights,
    )
    return cls(model, preset)

  def as_function(
    self,
  ) -> tuple[Callable[[Weights, Images, TextBank, Scores], Outputs], Weights]:
    """The network as a pure function of its weights, and the weights by their paths.

    For whoever compiles it another way: over several devices, or for export.

        forward, weights = segmenter.as_function()
        text = segmenter.text_bank(segmenter.vocabulary('cat; stuff:floor'))
        images = Images.from_arrays([photo], canvas=(512, 512))
        exported = jax.export.export(jax.jit(forward))(weights, images, text)
        pathlib.Path('network').write_bytes(exported.serialize())

    What `jax.export.deserialize` reads back is called as `.call(weights, images, text)`
    for any photos on such a canvas and any words in a bank of this size, on the
    platforms it was exported for. It needs `systems.contract` of this package and no
    module; the weights are not in it.

    Scores may be left out: they are then the preset's.
    """
    whole, weights = params.split(self.model)
    closed = self.preset.vocabulary is not None
    reads_scores = find_system(self.preset.system).scores_of(self.model.config)

    @jax_settings.own()
    def forward(
      weights: Weights,
      images: Images,
      text: TextBank,
      scores: Scores = self.preset.scores,
    ) -> Outputs:
      combined = (scores,) if reads_scores else ()
      outputs = whole(weights)(images, text, *combined)
      if not reads_scores and not closed:
        outputs = with_coat(outputs, text, scores.coat)
      return Outputs(
        outputs.mask_logits,
        outputs.class_logits,
        None if closed else outputs.objectness,
        outputs.mask_hw,
      )

    return forward, weights

  @property
  def has_weights(self) -> bool:
    """False where the model was made of shapes alone: it can be asked, and not run."""
    return not any(
      isinstance(leaf, jax.ShapeDtypeStruct) for leaf in self._weights.values()
    )

  def with_weights(self, weights: Weights, *, same_text: bool = False) -> 'Segmenter':
    """The same network, and its compiled programs, with other weights.

    Args:
      weights: by the paths of `as_function`.
      same_text: the text tower is as before, so class vectors stay as they are.

    Raises:
      ValueError: paths are missing or unknown.
    """
    other = copy.copy(self)
    whole, _ = params.split(self.model)
    other.model, other._weights = whole(weights), weights
    return other if same_text else other.uncached()

  def uncached(self) -> 'Segmenter':
    """The same, which keeps no vectors of prompts on disk."""
    other = copy.copy(self)
    other._texts = self._texts.uncached()
    return other

  def vocabulary(self, words: str | os.PathLike | Vocabulary | None) -> Vocabulary:
    """The vocabulary that words, a file or a name stand for, as this model reads it.

    Raises:
      ValueError: the model knows one vocabulary only and another is asked for; or the
        words make none.
    """
    return read_vocabulary(self.preset, words)

  @jax_settings.own()
  def text_bank(
    self, vocabulary: Vocabulary, buckets: Sequence[int] | None = None
  ) -> TextBank:
    """The class vectors of a vocabulary; encoded once, kept in memory and on disk.

    Args:
      vocabulary: the words.
      buckets: sizes to pad them to, ascending; by default those of the segmenter. The
        bank of a closed model has a size of its own.

    Raises:
      ValueError: more classes than the largest bucket holds.
    """
    buckets = tuple(buckets or self.buckets)
    return self._texts.bank(self._weights, vocabulary, buckets, self.banks_kept)

  @jax_settings.own()
  def class_vectors(
    self, vocabulary: Vocabulary, cache: TextCache | None = None
  ) -> Float[np.ndarray, 'n d']:
    """Unit vectors of a vocabulary's classes, those of `Vocabulary.pool`.

    Args:
      vocabulary: as `vocabulary` returns it.
      cache: keeps the vectors of prompts where the segmenter keeps none on disk.
    """
    return self._texts.class_vectors(self._weights, vocabulary, cache)

  @jax_settings.own()
  def encode_text(self, prompts: Sequence[str]) -> Float[np.ndarray, 'n d']:
    """CLIP vectors (not normalised) of prompts."""
    return self._texts.encode(self._weights, prompts)

  @property
  def score_names(self) -> frozenset[str]:
    """Fields of `Scores` that change what the model answers."""
    read = find_system(self.preset.system).scores_of(self.model.config)
    if not read and self.preset.vocabulary is None:
      read = ('coat',)
    return frozenset(read)

  def compilations(self) -> dict[str, int]:
    """How many programs each part has needed so far."""
    return {
      'forward': self._forward._cache_size(),
      'encode_text': self._texts.compilations(),
    }

  def __call__(
    self,
    photo: photos.Photo,
    vocabulary: str | os.PathLike | Vocabulary | None = None,
    task: str | Sequence[str] = 'panoptic',
    **choices,
  ) -> Prediction:
    """Segments one photo.

    Args:
      photo: a path, a Pillow image, or an array (h, w), (h, w, 3) or (h, w, 4).
      vocabulary: words, a file or a named vocabulary; see `Vocabulary.parse`.
      task: 'panoptic', 'semantic', 'instance', or several of them: a list, or one text
        with commas.
      **choices: fields of `Preprocessing`, `PostprocessConfig` and, where the system
        reads them, `Scores` to change, such as object_threshold=0.5 or short_edge=640;
        and white=4095 for photos of 12 bits, see `photos.photo_from_array`.

    Raises:
      FileNotFoundError, ValueError: what is wrong with the input, in one line.
    """
    return next(self.predict([photo], vocabulary, task, **choices))[1]

  def predict(
    self,
    photo_list: Iterable[photos.Photo],
    vocabulary: str | os.PathLike | Vocabulary | None = None,
    task: str | Sequence[str] = 'panoptic',
    *,
    on_error: Callable[[photos.Photo, Exception], None] | None = None,
    batch_size: int = 1,
    clock: DeviceClock | None = None,
    white: float | None = None,
    **choices,
  ) -> Iterator[tuple[photos.Photo, Prediction]]:
    """Segments photos one after another, reading the next while one is computed.

    A GPU or TPU gets the next ones while these are post-processed.

    Args:
      photo_list: any iterable of what a call takes.
      vocabulary, task, white, **choices: as for a call.
      on_error: is told of a photo that cannot be read, which is then left out; without
        it the error is raised.
      batch_size: photos of one canvas that go through the network together.
      clock: is told of every run of the network.

    Yields:
      Each photo and its prediction: in order, or of larger batches as they are full.

    Raises:
      FileNotFoundError, ValueError: as for a call; or one photo instead of a list.
    """
    if batch_size < 1:
      raise ValueError(f'batch_size must be 1 or more, not {batch_size}')
    photos.check_list(photo_list, 'predict')
    plan = self.plan(vocabulary, task, white=white, **choices)
    self.text_bank(plan.words)
    yield from predictions(self, photo_list, plan, on_error, batch_size, clock)

  def plan(
    self,
    vocabulary: str | os.PathLike | Vocabulary | None = None,
    task: str | Sequence[str] = 'panoptic',
    *,
    white: float | None = None,
    **choices,
  ) -> Plan:
    """What a call asks for, checked; arguments and errors as for a call."""
    photos.check_white(white)
    tasks = parse_tasks(task)
    words = self.vocabulary(vocabulary)
    preprocessing, config, scores = self._choices(choices)
    postprocess.check_tasks(tasks, config)
    plan = Plan(words, tasks, preprocessing, config, scores, white)
    return plan if config.region_threshold is None else plan.with_rival()

  def _choices(self, choices):
    """The preset's pre-processing, post-processing and scores, some fields changed."""
    parts = [self.preset.preprocessing, self.preset.postprocessing, self.preset.scores]
    known = [*(set(part.__dataclass_fields__) for part in parts[:-1]), self.score_names]
    if unknown := sorted(set(choices).difference(*known)):
      raise ValueError(
        f'unknown choice {", ".join(unknown)}: {self.preset.system} takes '
        f'{", ".join(sorted(set().union(*known)))}'
      )
    choices = {
      name: value.item() if isinstance(value, np.generic) else value
      for name, value in choices.items()
    }
    return (
      plain.change(part, {k: v for k, v in choices.items() if k in names}, 'choice')
      for part, names in zip(parts, known, strict=True)
    )

  @jax_settings.own()
  def outputs(
    self,
    resized: Sequence[UInt8[np.ndarray, 'h w 3']],
    sizes: Sequence[tuple[int, int]],
    plan: Plan,
    canvas: tuple[int, int] | None = None,
  ) -> list[ImageOutputs]:
    """Runs the network on photos together.

    Args:
      resized: the photos, as `plan` resizes them.
      sizes: height and width of each before.
      plan: the words, and how scores are combined.
      canvas: holds all of them; by default the smallest of `canvas_step` that does.

    Raises:
      ValueError: a photo does not fit on the canvas.
    """
    return self.start(resized, sizes, plan, canvas)()

  @jax_settings.own()
  def start(
    self,
    resized: Sequence[UInt8[np.ndarray, 'h w 3']],
    sizes: Sequence[tuple[int, int]],
    plan: Plan,
    canvas: tuple[int, int] | None = None,
    clock: DeviceClock | None = None,
  ) -> Callable[[], list[ImageOutputs]]:
    """Starts what `outputs` does; the function that is returned waits for it.

    Args:
      resized, sizes, plan, canvas: as for `outputs`.
      clock: is told that the network runs.
    """
    if canvas is None:
      largest = np.max([photo.shape[:2] for photo in resized], axis=0)
      step = self.canvas_step
      canvas = tuple(int(-(-side // step) * step) for side in largest)
    batch = Images.from_arrays(resized, canvas)
    bank = self.text_bank(plan.words)
    found = self._forward(self._weights, batch, bank, plan.scores)
    if clock is not None:
      clock.watch(found)
    padded_hw = np.asarray(batch.padded_hw)

    @jax_settings.own()
    def rows() -> list[ImageOutputs]:
      mask_hw = np.asarray(found.mask_hw)
      return [
        ImageOutputs(
          found.mask_logits[row],
          found.class_logits[row],
          None if found.objectness is None else found.objectness[row],
          Geometry(mask_hw[row], padded_hw[row], photo.shape[:2], tuple(size)),
        )
        for row, (photo, size) in enumerate(zip(resized, sizes, strict=True))
      ]

    return rows

  @jax_settings.own()
  def prediction(
    self,
    outputs: ImageOutputs,
    plan: Plan,
    photo: UInt8[np.ndarray, 'h0 w0 3'] | None = None,
  ) -> Prediction:
    """The results for one photo, of its size.

    Args:
      outputs: what `outputs` returned for it, with the same words.
      plan: the tasks and how to post-process.
      photo: what to draw on, if anything.
    """
    words, bank = plan.words, self.text_bank(plan.words)
    scores = postprocess.class_probabilities(
      outputs.class_logits, bank.valid, bank.void, outputs.objectness
    )
    results = postprocess.postprocess(
      outputs.mask_logits,
      scores,
      bank.thing,
      outputs.geometry,
      plan.postprocessing,
      plan.tasks,
      rest=plan.rest(len(bank.valid)),
    )
    return Prediction.from_results(
      results,
      [category.name for category in words.classes],
      words.things,
      colors=[category.color for category in words.classes],
      category_ids=[category.id for category in words.classes],
      photo=photo,
    )
