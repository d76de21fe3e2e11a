"""Checks of a whole split: counts, duplicates, missing labels, unused classes."""

import hashlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from jaxtyping import UInt8

from maskclip_jax.data.doctor.expectations import Expectations
from maskclip_jax.data.doctor.findings import Finding
from maskclip_jax.data.registry import Counts
from maskclip_jax.data.sources import Index

# Above this share, photos without labels are a fault and not a property.
_MANY = 0.3


def check_split(
  index: Index,
  facts: Expectations,
  counts: Counts | None,
  *,
  labelled: bool = True,
  left_out: Collection[str] = (),
) -> Iterator[Finding]:
  """What the index of a split alone tells.

  Args:
    index: the split's index.
    facts: about the dataset.
    counts: the published sizes, if there are any.
    labelled: whether the split is meant to have labels.
    left_out: parts that were not built.
  """
  if counts is not None:
    yield from _counts(index, counts, left_out)
  names, times = np.unique(index.image_id, return_counts=True)
  if (times > 1).any():
    example = str(names[times > 1][0])
    yield Finding('twice', f'{int((times > 1).sum())} photos', example)
  if labelled:
    yield from _unlabelled(index, facts)
  yield from _unused(index, facts)
  uncaptioned = index.captions == 0
  if uncaptioned.any() and not uncaptioned.all():
    example = str(index.image_id[uncaptioned][0])
    yield Finding('no-captions', f'{int(uncaptioned.sum())} photos', example)


def _counts(
  index: Index, counts: Counts, left_out: Collection[str]
) -> Iterator[Finding]:
  if len(index) != counts.images:
    yield Finding('images', f'{len(index):,}, published are {counts.images:,}')
  objects, captions = len(index.instances.values), int(index.captions.sum())
  with_objects = int((index.instances.lengths() > 0).sum())
  for found, published, part, what in (
    (objects, counts.instances, 'instances', 'objects'),
    (captions, counts.captions, 'captions', 'captions'),
    (with_objects, counts.instance_images, 'instances', 'photos with objects'),
  ):
    # A part that was not built is a note of its own.
    if published is not None and part not in left_out and found != published:
      yield Finding('counts', f'{found:,} {what}, published are {published:,}')


def _unlabelled(index: Index, facts: Expectations) -> Iterator[Finding]:
  if not any(
    len(column.values) for column in (index.segments, index.instances, index.semantic)
  ):
    yield Finding('part', 'labels: there are only photos and captions')
    return
  semantic = facts.semantic_view.lookup[index.semantic.values] >= 0
  labelled = (
    (index.segments.lengths() > 0)
    | (index.instances.lengths() > 0)
    | index.semantic.rows_with(semantic)
  )
  bare = ~labelled
  if bare.any():
    kind = 'many-unlabelled' if bare.mean() > _MANY else 'unlabelled'
    detail = f'{int(bare.sum()):,} of {len(index):,}'
    yield Finding(kind, detail, str(index.image_id[bare][0]))


def _unused(index: Index, facts: Expectations) -> Iterator[Finding]:
  for what, found, names in present(index, facts):
    unused = [name for number, name in names.items() if number not in found]
    if unused:
      shown = ', '.join(unused[:5]) + (', ...' if len(unused) > 5 else '')
      yield Finding('unused', f'{len(unused)} of {len(names)} in {what} ({shown})')


def present(
  index: Index, facts: Expectations
) -> Iterator[tuple[str, dict[int, int], Mapping[int, str]]]:
  """For each kind of label: its title, photos by category, and names by category."""
  for what, column, names in (
    ('panoptic segments', index.segments, facts.category_names()),
    ('objects', index.instances, facts.category_names()),
    ('semantic maps', index.semantic, facts.value_names()),
  ):
    if what == 'objects':
      things = facts.things
      names = {number: name for number, name in names.items() if things[number]}
    if len(column.values):
      rows = np.repeat(np.arange(len(index)), column.lengths())
      pairs = np.unique(np.stack([column.values, rows]), axis=1)
      categories, photos = np.unique(pairs[0], return_counts=True)
      yield what, dict(zip(categories.tolist(), photos.tolist(), strict=True)), names


def check_leak(indexes: Mapping[str, Index]) -> Iterator[Finding]:
  """Photos that are in training and in validation."""
  held_out = set(indexes['val'].image_id.tolist()) if 'val' in indexes else set()
  for split, index in indexes.items():
    shared = sorted(held_out & set(index.image_id.tolist()))
    if split != 'val' and shared:
      yield Finding('leak', f'{len(shared)} photos of val are in {split}', shared[0])


def picture_key(photo: UInt8[np.ndarray, 'h w 3']) -> str:
  """What two files of one picture share, whatever their names and notes."""
  return hashlib.sha256(repr(photo.shape).encode() + photo.tobytes()).hexdigest()


def check_copies(pictures: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
  """Pictures that are in a dataset under several names.

  Args:
    pictures: by split, the `picture_key` of each photo by its image id.
  """
  owners: dict[str, list[tuple[str, str]]] = {}
  for split, keys in pictures.items():
    for image_id, key in keys.items():
      owners.setdefault(key, []).append((split, image_id))
  for copies in owners.values():
    if len(copies) > 1:
      kind = 'leaked-copy' if len({split for split, _ in copies}) > 1 else 'copy'
      names = ' and '.join(f'{split} {image_id}' for split, image_id in copies[:3])
      yield Finding(kind, names, copies[0][1])


def check_never(indexes: Mapping[str, Index], facts: Expectations) -> Iterator[Finding]:
  """Classes that no split has, in any kind of label."""
  names, found = {}, set()
  for index in indexes.values():
    for _, counts, called in present(index, facts):
      names |= called
      found |= set(counts)
  never = [name for number, name in names.items() if number not in found]
  if never:
    yield Finding('never', ', '.join(never[:5]) + (', ...' if never[5:] else ''))
