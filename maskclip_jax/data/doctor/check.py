"""Running all checks over a built dataset."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from maskclip_jax.data import described, records, registry
from maskclip_jax.data.build import read_summary
from maskclip_jax.data.doctor.agreement import Agreement
from maskclip_jax.data.doctor.decoded import Decoded, decode
from maskclip_jax.data.doctor.expectations import Expectations, expectations
from maskclip_jax.data.doctor.findings import Finding, Group, group
from maskclip_jax.data.doctor.pictures import draw
from maskclip_jax.data.doctor.report import CheckReport, Histogram, ShownPhoto
from maskclip_jax.data.doctor.tables import check_record
from maskclip_jax.data.doctor.whole import (
  check_copies,
  check_leak,
  check_never,
  check_split,
  picture_key,
  present,
)
from maskclip_jax.data.sources import Index, built_path, open_split, splits
from maskclip_jax.data.views import view_names

Progress = Callable[[str, int, int], None]

# Pictures in the report: ordinary ones per split, and one for each kind of finding.
_ORDINARY = 3


def _check_whole(name: str, folder: pathlib.Path, data_dir: str | os.PathLike) -> None:
  """Fails where a split of one's own was lost: without its index it is not seen."""
  wanted = described.find(name, data_dir).contents.splits
  if lost := sorted(set(wanted) - set(splits(folder))):
    raise FileNotFoundError(
      f'{folder} lacks {lost[0]}.index.npz: copy it again whole, or delete it and '
      'build it again'
    )


def check(
  name: str,
  data_dir: str | os.PathLike,
  *,
  images: int | None = 2000,
  counts: Mapping[str, registry.Counts] | None = None,
  progress: Progress | None = None,
) -> CheckReport:
  """Checks a built dataset.

  Args:
    name: one of `list_datasets()`, or of one's own.
    data_dir: where it was built.
    images: how many photos of each split to decode, evenly spread; None for all. What
      the index knows is checked for all in any case.
    counts: true sizes by split, where they are not the published ones (a subset of
      one's own).
    progress: called with split, photos done, and photos to do.

  Raises:
    FileNotFoundError: it is not built, or lacks a file.
    ValueError: no such dataset, or a file of it is damaged.
  """
  folder = built_path(name, data_dir)
  if not view_names(name, data_dir):
    raise ValueError(
      f'{name} has captions alone: its photos were checked when it was built'
    )
  facts = expectations(name, data_dir)
  if facts.own:
    _check_whole(name, folder, data_dir)
  if counts is None:
    counts = {} if facts.own else registry.find_dataset(name).counts
  results = [
    _Split(facts, split, data_dir).run(images, counts.get(split), progress)
    for split in splits(folder)
  ]
  indexes = {r.split: r.index for r in results}
  whole = [
    *check_leak(indexes),
    *(check_never(indexes, facts) if facts.own else ()),
    *check_copies({r.split: r.pictures for r in results}),
    *(Finding('part', part) for part in read_summary(folder)['left_out']),
  ]
  return CheckReport(
    dataset=name,
    path=str(folder),
    sizes=tuple((r.split, r.sizes) for r in results),
    groups=_by_gravity([*group('all', whole), *(g for r in results for g in r.groups)]),
    histograms=tuple(h for r in results for h in r.histograms),
    examples=tuple(e for r in results for e in r.examples),
    own=facts.own,
  )


def _by_gravity(groups: Sequence[Group]) -> tuple[Group, ...]:
  levels = ('problem', 'warning', 'note')
  return tuple(sorted(groups, key=lambda g: levels.index(g.severity)))


@dataclasses.dataclass(frozen=True)
class _Result:
  split: str
  index: Index
  sizes: tuple[int, int, int, int, int]
  groups: tuple[Group, ...]
  histograms: tuple[Histogram, ...]
  examples: tuple[ShownPhoto, ...]
  pictures: Mapping[str, str]


class _Split:
  """The checks of one split."""

  def __init__(self, facts: Expectations, split: str, data_dir: str | os.PathLike):
    self._split, self._facts, name = split, facts, facts.dataset
    self._data, self._index = open_split(name, split, data_dir)
    self._left_out = read_summary(built_path(name, data_dir))['left_out']
    self._findings: list[Finding] = []
    self._examples: list[ShownPhoto] = []
    self._pictures: dict[str, str] = {}

  def run(
    self,
    images: int | None,
    counts: registry.Counts | None,
    progress: Progress | None,
  ) -> _Result:
    """All checks of the split."""
    total = len(self._index)
    chosen = np.unique(np.linspace(0, total - 1, min(images or total, total)).round())
    self._decode(chosen.astype(int).tolist(), progress)
    labelled = self._split not in self._facts.captioned
    self._findings.extend(
      check_split(
        self._index, self._facts, counts, labelled=labelled, left_out=self._left_out
      )
    )
    index = self._index
    return _Result(
      self._split,
      index,
      (
        total,
        len(chosen),
        len(index.segments.values),
        len(index.instances.values),
        int(index.captions.sum()),
      ),
      group(self._split, self._findings),
      tuple(_histograms(self._split, index, self._facts)),
      tuple(self._examples),
      self._pictures,
    )

  def _decode(self, positions: list[int], progress: Progress | None) -> None:
    ordinary = set(positions[:: max(1, len(positions) // _ORDINARY)][:_ORDINARY])
    agreement, rotated = Agreement(self._facts), []
    for done, position in enumerate(positions, 1):
      decoded, findings = self._read(position)
      self._show(decoded, findings, ordinary=position in ordinary)
      self._findings.extend(findings)
      if decoded is not None:
        agreement.add(decoded)
        rotated.extend([decoded.record['image_id']] * decoded.rotated)
        if self._facts.own and decoded.photo is not None:
          self._pictures[decoded.record['image_id']] = picture_key(decoded.photo)
      if progress:
        progress(self._split, done, len(positions))
    if rotated:
      self._findings.append(Finding('rotated', f'{len(rotated)} photos', rotated[0]))
    for finding in agreement.findings():
      for position in np.flatnonzero(self._index.image_id == finding.image_id)[:1]:
        self._show(self._read(position)[0], [finding], ordinary=False)
      self._findings.append(finding)

  def _read(self, position: int) -> tuple[Decoded | None, list[Finding]]:
    try:
      record = records.parse(self._data[int(position)])
    except (RuntimeError, ValueError) as error:
      image_id = str(self._index.image_id[position])
      return None, [Finding('record', f'number {position}: {error}', image_id)]
    decoded, findings = decode(record)
    return decoded, findings + check_record(decoded, self._facts)

  def _show(
    self, decoded: Decoded | None, findings: Sequence[Finding], *, ordinary: bool
  ) -> None:
    """Keeps pictures of ordinary photos and of the first of each kind of finding."""
    seen = {finding.kind for finding in self._findings}
    new = [finding.kind for finding in findings if finding.kind not in seen]
    if decoded is None or not (new or ordinary):
      return
    image_id, kind = decoded.record['image_id'], new[0] if new else ''
    pictures = tuple(draw(decoded, self._facts))
    self._examples.append(ShownPhoto(self._split, image_id, pictures, kind))


def _histograms(split: str, index: Index, facts: Expectations) -> Iterator[Histogram]:
  for what, found, names in present(index, facts):
    rows = [(name, found.get(number, 0)) for number, name in names.items()]
    rows.sort(key=lambda row: -row[1])
    yield Histogram(split, what, tuple(row for row in rows if row[1]))
