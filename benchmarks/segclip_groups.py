"""Do SegCLIP's groups follow what is in a scene? Beside chance, and beside superpixels.

    for seed in 0 1 2; do
      launch/miniature.sh --systems segclip --seed $seed --out out/segclip_$seed
    done
    python benchmarks/segclip_groups.py --data_dir out/miniature/data_superpixels \\
      --pictures out/groups.png --skip 120 --scenes 130 out/segclip_?/segclip*

Agreement is the adjusted Rand index of the groups of a window with the true segments
there, a mean over windows that more than one segment divides: 0 for chance, 1 for the
same partition, and low for parts of segments as well as for unions of them. Words play
no part in it but in `MODEL_by_word`, where groups of a window that are most like the
same word are one: 0 where all are. `random` gives every patch to one of as many groups
by chance. Of superpixels alone there are five partitions: `superpixels` are those of
the photo, pixel by pixel; `superpixels_of_patches` have one number a patch, as training
sees them, and `superpixels_most` that of most of its pixels; of `superpixels_in_groups`
and `superpixels_most_in_groups` each goes, as a whole, to one of as many groups by
chance. The last are as coarse and as many as a model's groups. Models of the same name
are seeds: prints a Markdown table of their means and the standard deviation.
"""

import argparse
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

import maskclip_jax
from maskclip_jax import photos
from maskclip_jax.data.examples import VOID, decode
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.superpixels import (
  PatchRule,
  SuperpixelRule,
  find_superpixels,
  patch_superpixels,
)
from maskclip_jax.data.transforms.geometric import resize_labels
from maskclip_jax.data.views import find_view
from maskclip_jax.resizing import shortest_edge
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Images
from maskclip_jax.text.vocabulary import Vocabulary

VIEW, SPLIT, WORDS = 'miniature/panoptic', 'test', 'miniature-116'
# As the world is built for SegCLIP (launch/miniature.sh).
RULE = SuperpixelRule(224, 0.9, 60)
RANDOM, SUPERPIXELS = pathlib.Path('random'), pathlib.Path('superpixels')
OF_PATCHES, MOST, IN_GROUPS, MOST_IN_GROUPS = (
  SUPERPIXELS.with_name(f'superpixels_{how}')
  for how in ('of_patches', 'most', 'in_groups', 'most_in_groups')
)
_COLOURS = np.random.default_rng(0).integers(40, 256, (256, 3), np.uint8)


def agreement(ours: Int[np.ndarray, ' n'], truth: Int[np.ndarray, ' n']) -> float:
  """The adjusted Rand index of two partitions (Hubert and Arabie, 1985).

  It says nothing where neither divides anything: 0.
  """
  _, a = np.unique(ours, return_inverse=True)
  _, b = np.unique(truth, return_inverse=True)
  table = np.zeros((a.max() + 1, b.max() + 1))
  np.add.at(table, (a, b), 1)

  def pairs(counts):
    return (counts * (counts - 1) / 2).sum()

  both, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
  chance = rows * columns / pairs(np.array(len(ours)))
  most = (rows + columns) / 2
  return float((both - chance) / (most - chance)) if most > chance else 0.0


class Groups:
  """The groups that a model makes of a photo."""

  def __init__(self, segmenter: Segmenter):
    self.segmenter = segmenter
    self._bank = segmenter.text_bank(Vocabulary.named(WORDS))
    self._forward, self._weights = segmenter.as_function()
    self._forward = jax.jit(self._forward)

  def __call__(
    self, photo: UInt8[np.ndarray, 'h w 3']
  ) -> tuple[Int[np.ndarray, 't h w'], Int[np.ndarray, 't h w']]:
    """The group of every pixel in every window, and its class; -1 outside of it."""
    step = self.segmenter.canvas_step
    canvas = tuple(-(-side // step) * step for side in photo.shape[:2])
    images = Images.from_arrays([photo], canvas)
    found = self._forward(self._weights, images, self._bank)
    owner = np.asarray(found.mask_logits[0].owner)[
      :, : photo.shape[0], : photo.shape[1]
    ]
    classes = np.asarray(found.class_logits[0]).argmax(-1).reshape(len(owner), -1)
    # What is outside reads the last group's class.
    named = np.stack([own[group] for own, group in zip(classes, owner, strict=True)])
    return owner, np.where(owner >= 0, named, -1)


def random_groups(
  owner: Int[np.ndarray, 't h w'], patch: int, centres: int, rng: np.random.Generator
) -> Int[np.ndarray, 't h w']:
  """Patches of each window, given to groups by chance."""
  made = np.full(owner.shape, -1)
  for window, inside in zip(made, owner >= 0, strict=True):
    height, width = (-(-side // patch) for side in window.shape)
    chance = rng.integers(0, centres, (height, width))
    chance = chance.repeat(patch, 0).repeat(patch, 1)[: len(window), : window.shape[1]]
    window[inside] = chance[inside]
  return made


def of_patches(
  owner: Int[np.ndarray, 't h w'],
  cut: Int[np.ndarray, 'h w'],
  patch: int,
  rule: PatchRule = 'mean',
) -> Int[np.ndarray, 't h w']:
  """Superpixels with one number a patch of every window; see `patch_superpixels`."""
  made = np.full(owner.shape, -1)
  for window, inside in zip(made, owner >= 0, strict=True):
    rows, columns = (np.flatnonzero(inside.any(1 - axis)) for axis in (0, 1))
    if not len(rows):
      continue
    place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    found = cut[place]
    height, width = found.shape
    whole = np.pad(found, ((0, -height % patch), (0, -width % patch)), mode='edge')
    numbers = patch_superpixels(whole, patch, rule).reshape(-1, whole.shape[1] // patch)
    window[place] = numbers.repeat(patch, 0).repeat(patch, 1)[:height, :width]
  return made


def agreements(
  groups: Int[np.ndarray, 't h w'], truth: Int[np.ndarray, 'h w']
) -> list[float]:
  """One per window of several segments, over pixels that belong to one."""
  found = []
  for window in groups:
    pixels = (window >= 0) & (truth != VOID)
    if len(np.unique(truth[pixels])) > 1:
      found.append(agreement(window[pixels], truth[pixels]))
  return found


def flat(groups: Int[np.ndarray, 't h w']) -> Int[np.ndarray, 'h w']:
  """One map: of the windows that cover a pixel, the first."""
  first = (groups >= 0).argmax(0)
  own = np.take_along_axis(groups.astype(int), first[None], axis=0)[0]
  return own + (groups.max() + 1) * first


def table(scores: Mapping[pathlib.Path, Sequence[float]]) -> str:
  """Markdown: a row for each name of a model, over its seeds."""
  names = {}
  for path, values in scores.items():
    names.setdefault(path.name, []).append(statistics.mean(values))
  lines = ['| | agreement with the true segments |', '|---|---|']
  for name, means in names.items():
    spread = f' ± {statistics.stdev(means):.3f}' if len(means) > 1 else ''
    lines.append(f'| {name} | {statistics.mean(means):.3f}{spread} |')
  return '\n'.join(lines)


def picture(
  photo: UInt8[np.ndarray, 'h w 3'], maps: Sequence[Int[np.ndarray, 'h w']]
) -> UInt8[np.ndarray, 'h all 3']:
  """The photo, and beside it some maps, a colour a number."""
  return np.concatenate([photo, *(_COLOURS[one % 256] for one in maps)], axis=1)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('models', nargs='+', type=pathlib.Path)
  parser.add_argument('--data_dir', type=pathlib.Path, required=True)
  parser.add_argument('--scenes', type=int, default=60, help='how many (%(default)s)')
  parser.add_argument('--skip', type=int, default=0, help='so many scenes before them')
  parser.add_argument('--pictures', type=pathlib.Path)
  arguments = parser.parse_args()
  models = {path: Groups(maskclip_jax.load(path)) for path in arguments.models}
  first = next(iter(models.values())).segmenter.preset
  preprocessing, rng = first.preprocessing, np.random.default_rng(0)
  scores = {}
  rows = []
  source = open_source(VIEW, SPLIT, arguments.data_dir)
  chosen = range(len(source))[arguments.skip :][: arguments.scenes]
  for index in chosen:
    example = decode(source[index], find_view(VIEW), crowd=True)
    size = shortest_edge(
      example.size, preprocessing.short_edge, preprocessing.long_edge
    )
    photo = photos.resize_photo(example.image, *size)
    truth = resize_labels(example.segments, photo.shape[:2])
    found = {}
    for path, groups in models.items():
      by_word = path.with_name(f'{path.name}_by_word')
      found[path], found[by_word] = groups(photo)
    owner = found[arguments.models[0]]
    patch, centres = first.config.clip.patch_size, first.config.centres
    cut = find_superpixels(example.image, RULE)
    cut = resize_labels(cut, photo.shape[:2])
    found[RANDOM] = random_groups(owner, patch, centres, rng)
    found[SUPERPIXELS] = np.where(owner >= 0, cut, -1)
    found[OF_PATCHES] = of_patches(owner, cut, patch)
    found[MOST] = of_patches(owner, cut, patch, 'most')
    group = rng.integers(0, centres, cut.max() + 1)
    for path, parts in ((IN_GROUPS, cut), (MOST_IN_GROUPS, found[MOST])):
      found[path] = np.where(owner >= 0, group[parts], -1)
    for path, groups in found.items():
      scores.setdefault(path, []).extend(agreements(groups, truth))
    if len(rows) < 6:
      rows.append(picture(photo, [truth, *map(flat, found.values())]))
  print(table(scores))
  if arguments.pictures:
    Image.fromarray(np.concatenate(rows)).save(arguments.pictures)
    print(f'{arguments.pictures}: photo, truth, {", ".join(map(str, scores))}')


if __name__ == '__main__':
  main()
