"""CPU seconds of encoding the prompts of a vocabulary, grouped by length and all alike.

    python benchmarks/prompts.py                      # ViT-L/14@336, random weights
    python benchmarks/prompts.py --vocabulary ade20k-150 --long 3

Prompts of class names have few tokens, and some sentences among them have many. Encodes
them the way the package does, and once more with every call as long as the longest
prompt needs, alternately; prints seconds of all cores together, which say something on
a busy machine too, and the largest difference of the vectors.
"""

import argparse
import functools
import time

import jax
import numpy as np
from jaxtyping import Float, Int
from machine import machine

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.text import tokenizer
from maskclip_jax.text.bank import Tower, encode_prompts
from maskclip_jax.text.vocabulary import Vocabulary

# Of 18 tokens, with which a name has too many for the shortest context.
SENTENCE = 'a photo of a small {} that stands far behind other things in the scene.'


def alike(tower: Tower, length: int) -> Tower:
  """A text tower that reads all its rows at one length."""

  def encode(tokens: Int[np.ndarray, 'n t']) -> Float[np.ndarray, 'n d']:
    return tower(np.pad(tokens, ((0, 0), (0, length - tokens.shape[1]))))

  return encode


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--clip', default='vit_l14_336', choices=CLIP_SIZES)
  parser.add_argument('--vocabulary', default='ade20k-847')
  parser.add_argument('--prompts', type=int, default=848, help='most prompts')
  parser.add_argument('--long', type=int, default=11, help='sentences among them')
  parser.add_argument('--repeats', type=int, default=3)
  arguments = parser.parse_args()
  prompts = Vocabulary.parse(arguments.vocabulary).prompts()[0][: arguments.prompts]
  for index in range(min(arguments.long, len(prompts))):
    prompts[index] = SENTENCE.format(prompts[index])
  config = CLIP_SIZES[arguments.clip]
  whole, weights = params.split(random_model('clip', config).text)
  jitted = jax.jit(lambda weights, tokens: whole(weights)(tokens))
  grouped = functools.partial(jitted, weights)
  longest = tokenizer.lengths(tokenizer.tokenize(prompts, config.context_length)).max()
  contexts = tokenizer.contexts(config.context_length)
  length = next(context for context in contexts if context >= longest)
  towers = {'by length': grouped, f'all of {length} tokens': alike(grouped, length)}
  seconds: dict[str, list[float]] = {name: [] for name in towers}
  vectors = {}
  for tower in towers.values():
    for one in (prompts[:1], prompts[-1:]):
      encode_prompts(one, tower, config.context_length)
  for _ in range(arguments.repeats):
    for name, tower in towers.items():
      begin = time.process_time()
      vectors[name] = encode_prompts(prompts, tower, config.context_length)
      seconds[name].append(time.process_time() - begin)
  print(machine())
  print(f'{len(prompts)} prompts, {arguments.clip}, CPU seconds after compiling:')
  for name, spent in seconds.items():
    print(f'{name:20} {min(spent):8.1f}')
  one, other = vectors.values()
  print(f'largest difference {np.abs(one - other).max() / np.abs(other).max():.1e}')


if __name__ == '__main__':
  main()
