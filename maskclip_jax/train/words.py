"""Tasks that compare with class vectors: their words, and the vectors as constants.

The text tower runs once, before the first step, and takes no memory afterwards.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.params import ConstantRngs
from maskclip_jax.nn.clip import CLIPConfig, TextTower
from maskclip_jax.systems.contract import TextBank
from maskclip_jax.systems.system import Preset
from maskclip_jax.text.bank import Encode, Tower, class_vectors, encode_prompts
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.task import Flat, Shapes, Task

_TOWER, _BANK = 'clip/text/', 'text_bank/'


class TextTask(Task):
  """A task whose loss compares with the class vectors of the training data."""

  unused = ('clip/text', 'clip/logit_scale')

  @classmethod
  def check_data(cls, config: TrainConfig, preset: Preset) -> Vocabulary:
    cls.check_kind(config)
    named = config.vocabulary or config.data.words()
    return training_words(named, len(config.data.class_names()), preset)

  @classmethod
  def exported(cls, config: TrainConfig) -> Preset:
    preset = config.chosen_preset
    if preset.training is None:
      return preset
    words = cls.check_data(config, preset)
    return dataclasses.replace(preset, training=_recorded(words, preset))

  def text(self, constants: Flat) -> TextBank:
    return from_constants(constants)

  def constants(self) -> Shapes:
    if self.words is None:
      return {}
    config = self.preset.config.clip

    def encode(prompts: Sequence[str]) -> Float[np.ndarray, 'n d']:
      return np.ones((len(prompts), config.embed_dim), np.float32)

    return {
      path: jax.ShapeDtypeStruct(x.shape, x.dtype)
      for path, x in self._bank(encode).items()
    }

  def constant_values(self, values: Flat) -> Flat:
    config = self.preset.config.clip
    tower = _tower(config, values)

    def encode(prompts: Sequence[str]) -> Float[np.ndarray, 'n d']:
      return encode_prompts(prompts, tower, config.context_length, truncate=False)

    return self._bank(encode)

  def _bank(self, encode: Encode) -> Flat:
    """The text bank by path, its prompts encoded in some way."""
    words = self.words
    vectors = class_vectors(words, encode)
    return to_constants(TextBank.build(vectors, **words.columns()))


def to_constants(bank: TextBank) -> Flat:
  """A text bank by path."""
  fields = {f.name: getattr(bank, f.name) for f in dataclasses.fields(bank)}
  return {_BANK + name: x for name, x in fields.items() if x is not None}


def from_constants(constants: Flat) -> TextBank:
  """The inverse of `to_constants`."""
  names = [field.name for field in dataclasses.fields(TextBank)]
  return TextBank(
    **{name: constants[_BANK + name] for name in names if _BANK + name in constants}
  )


def training_words(
  vocabulary: str | Vocabulary, classes: int, preset: Preset
) -> Vocabulary:
  """The words of a run's classes, as its system reads them.

  Args:
    vocabulary: a name, a file or words.
    classes: how many the ground truth has.
    preset: says how names become prompts.

  Raises:
    ValueError: no such vocabulary, or one of another length.
  """
  words = Vocabulary.parse(vocabulary)
  if len(words) != classes:
    raise ValueError(
      f'config.vocabulary {words.name!r} has {len(words)} classes and the training '
      f'data has {classes}: their order must be the same, one to one'
    )
  return words.for_system(preset.words)


def _recorded(words: Vocabulary, preset: Preset) -> str | tuple[str, ...]:
  """The words of training by the name of their vocabulary if it is a bundled one."""
  bundled = words.name in Vocabulary.names()
  if bundled and Vocabulary.named(words.name).classes == words.classes:
    return words.name
  return words.words_for(preset.words)


def _tower(config: CLIPConfig, values: Mapping[str, np.ndarray]) -> Tower:
  """The text tower of some parameters, compiled."""
  tower = params.abstract(lambda: TextTower(config, rngs=ConstantRngs()))
  flat = {path: values[_TOWER + path] for path in params.flatten(tower)}
  graphdef, state = nnx.split(params.load_into(tower, flat))
  program = jax.jit(lambda state, tokens: nnx.merge(graphdef, state)(tokens))
  return functools.partial(program, state)
