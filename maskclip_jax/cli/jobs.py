"""What a run of `predict` makes: where the results of every photo go, under which
number, and which of them are there already."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

from maskclip_jax.cli.photo_files import PhotoFile
from maskclip_jax.postprocess import OutputKind
from maskclip_jax.results import folder
from maskclip_jax.results.folder import Entry

# Their results would take the place of files about all photos.
_RESERVED = frozenset({folder.PREDICTIONS, f'{folder.PREDICTIONS}.panoptic', 'index'})


@dataclasses.dataclass(frozen=True)
class Job:
  """A photo and its results.

  Attributes:
    photo: the file.
    stem: path of its results below the folder of results.
    image_id: COCO's number of the photo.
    done: the results are there, of the same photo and settings.
  """

  photo: PhotoFile
  stem: str
  image_id: int
  done: bool


def plan_jobs(
  photos: Sequence[PhotoFile],
  out: pathlib.Path,
  tasks: Sequence[OutputKind],
  settings: str,
  *,
  again: bool = False,
) -> list[Job]:
  """The jobs of a run, in the order of the photos.

  Args:
    photos: what is to be segmented.
    out: the folder of results.
    tasks: which results.
    settings: see `folder.settings_key`.
    again: make also what is there already.

  Raises:
    ValueError: two photos with one place for their results, or a file that somebody
      else wrote where results would go.
  """
  there = folder.entries(out, [photo.name for photo in photos])
  stems = _stems(photos, there)
  ids = _image_ids(photos, stems, there)
  jobs = []
  for photo, stem, image_id in zip(photos, stems, ids, strict=True):
    entry = there.get(stem)
    done = (
      not again
      and entry is not None
      and entry.image.get('id') == image_id
      and entry.still_holds(settings, photo.path, out)
    )
    jobs.append(Job(photo, stem, image_id, done))
  _check_places(jobs, out, tasks, there)
  return jobs


def listed_entries(
  jobs: Sequence[Job], out: pathlib.Path, settings: str
) -> list[Entry]:
  """The results for the merged file: those of the jobs, and of earlier runs with the
  same settings."""
  there = folder.entries(out, [job.stem for job in jobs])
  mine = [there[job.stem] for job in jobs if job.stem in there]
  first = {entry.stem for entry in mine}
  others = [entry for stem, entry in there.items() if stem not in first]
  ordered = sorted(mine + others, key=lambda entry: entry.image.get('id', 0))
  return [entry for entry in ordered if entry.settings == settings]


def _stems(photos: Sequence[PhotoFile], there: Mapping[str, Entry]) -> list[str]:
  """A distinct name for each photo's results: without ending, or with it if shared.

  Results that are there keep their name, also where another photo would now share it.
  """
  short = [str(pathlib.PurePath(photo.name).with_suffix('')) for photo in photos]
  count: dict[str, int] = {}
  for name in short:
    count[name] = count.get(name, 0) + 1
  stems, taken = [], {}
  for photo, name in zip(photos, short, strict=True):
    kept = name in there and there[name].image.get('file_name') == photo.name
    short_one = (count[name] == 1 or kept) and name not in _RESERVED
    stem = name if short_one else photo.name
    if stem in taken:
      raise ValueError(
        f'{taken[stem]} and {photo.path} have the same name: segment them into '
        'separate folders'
      )
    taken[stem] = photo.path
    stems.append(stem)
  return stems


def _image_ids(
  photos: Sequence[PhotoFile], stems: Sequence[str], there: Mapping[str, Entry]
) -> list[int]:
  """A number for every photo: that of its earlier results, that in its name (as COCO's
  photos have it), or the next that is free."""
  known = {stem: entry.image.get('id') for stem, entry in there.items()}
  mine: dict[str, int] = {}
  used = {known[stem] for stem in set(known) - set(stems)}
  named = {
    stem: int(pathlib.PurePath(photo.name).stem)
    for photo, stem in zip(photos, stems, strict=True)
    if pathlib.PurePath(photo.name).stem.isdecimal()
  }
  for wishes in (known, named):
    for stem in stems:
      wish = wishes.get(stem)
      if stem not in mine and wish is not None and wish not in used:
        mine[stem] = wish
        used.add(wish)
  following = 1
  for stem in stems:
    if stem not in mine:
      while following in used:
        following += 1
      mine[stem] = following
      used.add(following)
  return [mine[stem] for stem in stems]


def _check_places(
  jobs: Sequence[Job],
  out: pathlib.Path,
  tasks: Sequence[OutputKind],
  there: Mapping[str, Entry],
) -> None:
  """Finds that no result takes the place of a photo or of somebody else's file."""
  photos = {os.path.realpath(job.photo.path) for job in jobs}
  for job in jobs:
    ours = there[job.stem].files if job.stem in there else ()
    for name in folder.result_names(job.stem, tasks):
      path = out / name
      if not os.path.exists(path):
        continue
      if os.path.realpath(path) in photos:
        raise ValueError(
          f'{path} is one of the photos, and a result of {job.photo.path} would take '
          'its place: choose another --out'
        )
      if path.name not in ours:
        raise _not_ours(path)
  merged = (f'{folder.PREDICTIONS}.json', f'{folder.PREDICTIONS}.panoptic.json')
  for name in (*merged, folder.PAGE):
    if len(jobs) > 1 and (out / name).exists() and not folder.is_ours(out / name):
      raise _not_ours(out / name)


def _not_ours(path: pathlib.Path) -> ValueError:
  return ValueError(
    f'{path} exists and was not written by this program: choose another --out, or move '
    'it away'
  )
