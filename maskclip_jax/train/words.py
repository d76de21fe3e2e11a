"""Class vectors for training: the text tower runs once, before the first step."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.restore import ConstantRngs
from maskclip_jax.nn.clip import CLIPConfig, TextTower
from maskclip_jax.systems.contract import TextBank
from maskclip_jax.systems.system import Preset
from maskclip_jax.text import tokenizer
from maskclip_jax.text.bank import class_vectors
from maskclip_jax.text.vocabulary import Vocabulary

_PREFIX = 'clip/text/'
# Prompts per call.
_CHUNK = 64


def training_words(vocabulary: str, classes: int, preset: Preset) -> Vocabulary:
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
      f'config.vocabulary {vocabulary!r} has {len(words)} classes and the training '
      f'data has {classes}: their order must be the same, one to one'
    )
  return words.for_system(preset.words)


def make_text_bank(
  words: Vocabulary, preset: Preset, values: Mapping[str, np.ndarray]
) -> TextBank:
  """The class vectors of a vocabulary.

  Args:
    words: from `training_words`.
    preset: tells the sizes of CLIP.
    values: parameters of the model by path, `clip/text/...` among them.
  """
  encode = _encoder(preset.config.clip, values)
  vectors = class_vectors(words, encode)
  return TextBank.build(vectors, words.things, void_last=words.void is not None)


def _encoder(config: CLIPConfig, values: Mapping[str, np.ndarray]):
  tower = params.abstract(lambda: TextTower(config, rngs=ConstantRngs()))
  flat = {path: values[_PREFIX + path] for path in params.flatten(tower)}
  graphdef, state = nnx.split(params.load_into(tower, flat))
  program = jax.jit(lambda state, tokens: nnx.merge(graphdef, state)(tokens))

  def encode(prompts: Sequence[str]) -> Float[np.ndarray, 'n d']:
    tokens = tokenizer.tokenize(prompts, config.context_length)
    spare = -len(tokens) % _CHUNK
    tokens = np.pad(tokens, ((0, spare), (0, 0)), mode='edge')
    parts = [
      program(state, tokens[i : i + _CHUNK]) for i in range(0, len(tokens), _CHUNK)
    ]
    return np.concatenate(jax.device_get(parts))[: len(prompts)]

  return encode
