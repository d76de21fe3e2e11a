"""ADE20K in its official layouts: SceneParse150 with object maps, and the 2021 release.

`files_150()` and `files_847()` give files by path; `write_*` puts them on a disk, as
folders or as the published archives.
"""

import pathlib
import pickle

import numpy as np
from raw_files import ROTATED, jpeg, png, tarred, write, zipped

CHALLENGE = 'ADEChallengeData2016'
FULL = 'ADE20K_2021_17_01'
SIZE = (24, 32)
# SceneParse150 label values (class + 1) and object classes of the challenge (1..100).
WALL, BUILDING, SKY, FLOOR, BED, WINDOW, PERSON = 1, 2, 3, 4, 8, 9, 13
OBJECT_BED, OBJECT_WINDOW, OBJECT_PERSON = 1, 2, 4


def _scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Class map and object map: wall above floor, a bed, two overlapping windows."""
  rng = np.random.default_rng(seed)
  classes = np.full(SIZE, WALL, np.uint8)
  classes[16:] = FLOOR
  classes[:2, :3] = 0
  kinds, ids = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
  left = int(rng.integers(2, 6))
  for top, column, kind, label, number in (
    (14, left, OBJECT_BED, BED, 7),
    (3, 14, OBJECT_WINDOW, WINDOW, 2),
    (5, 18, OBJECT_WINDOW, WINDOW, 255),
  ):
    region = np.s_[top : top + 6, column : column + 8]
    kinds[region], ids[region], classes[region] = kind, number, label
  return classes, np.stack([kinds, ids, np.zeros(SIZE, np.uint8)], -1)


def _awkward() -> tuple[np.ndarray, np.ndarray]:
  """Stuff covered wholly by an object, and thing pixels without an object."""
  classes, objects = _scene(5)
  # The object map puts a person where the class map has sky only.
  classes[20:24, 24:32] = SKY
  objects[20:24, 24:32] = (OBJECT_PERSON, 9, 0)
  # A bed in the class map that the object map does not know: void.
  classes[0:3, 28:32] = BED
  return classes, objects


def files_150() -> dict[str, bytes]:
  """Files below the folder of both archives."""
  empty = np.zeros(SIZE, np.uint8), np.zeros((*SIZE, 3), np.uint8)
  scenes = {
    ('training', 'ADE_train_00000001'): (_scene(1), {}),
    ('training', 'ADE_train_00000002'): (_scene(2), {'grey': True}),
    ('training', 'ADE_train_00000003'): (_awkward(), {}),
    ('training', 'ADE_train_00000004'): (empty, {}),
    ('validation', 'ADE_val_00000001'): (_scene(3), {'orientation': ROTATED}),
    ('validation', 'ADE_val_00000002'): (_scene(4), {}),
  }
  files = {}
  for number, ((split, stem), ((classes, objects), kind)) in enumerate(scenes.items()):
    files[f'{CHALLENGE}/images/{split}/{stem}.jpg'] = jpeg(number, SIZE, **kind)
    files[f'{CHALLENGE}/annotations/{split}/{stem}.png'] = png(classes)
    files[f'annotations_instance/{split}/{stem}.png'] = png(objects)
  files[f'{CHALLENGE}/sceneCategories.txt'] = b'ADE_train_00000001 bedroom\n'
  return files


def write_150(root: pathlib.Path, *, archived: bool = False) -> pathlib.Path:
  """Writes SceneParse150; returns the folder for `--raw`."""
  files = files_150()
  if not archived:
    write(root, files)
    return root
  own = {name: data for name, data in files.items() if name.startswith(CHALLENGE)}
  objects = {name: data for name, data in files.items() if name not in own}
  archives = {
    f'{CHALLENGE}.zip': zipped(own),
    'annotations_instance.tar': tarred(objects),
  }
  write(root, archives)
  return root


# Object ids of the 2021 release: the first three are among the 847, the last is not.
IDS_847 = {'wall': 2978, 'sky': 2420, 'person': 1831, 'rare': 3}


def _seg(ids: np.ndarray) -> bytes:
  """The published coding: red // 10 * 256 + green; blue is an instance number."""
  red, green = ids // 256 * 10 + 3, ids % 256
  return png(np.stack([red, green, np.full_like(red, 77)], -1).astype(np.uint8))


def objects_847(size: tuple[int, int]) -> np.ndarray:
  """The object ids of every photo of the generated release."""
  ids = np.full(size, IDS_847['wall'])
  ids[: size[0] // 4] = IDS_847['sky']
  ids[size[0] // 2 :, : size[1] // 4] = IDS_847['person']
  ids[-5:, -5:] = IDS_847['rare']
  ids[:3, :3] = 0
  return ids


# Stem: folder, size as stored; only the first is reduced, to 512 x 591.
SCENES_847 = {
  'ADE_train_00000001': ('training/home/bedroom', (520, 600)),
  'ADE_frame_00000002': ('training/urban/street', (40, 64)),
  'ADE_train_00000003': ('training/urban/street', (600, 48)),
  'ADE_val_00000001': ('validation/home/attic', (48, 40)),
}


def files_847() -> dict[str, bytes]:
  """Files below the folder of the archive, among them some that must not be read."""
  files, folders = {}, []
  for number, (stem, (scene, size)) in enumerate(SCENES_847.items()):
    folder = f'{FULL}/images/ADE/{scene}'
    folders.append(folder)
    files[f'{folder}/{stem}.jpg'] = jpeg(number, size)
    files[f'{folder}/{stem}_seg.png'] = _seg(objects_847(size))
    files[f'{folder}/{stem}_parts_1.png'] = b'not read'
    files[f'{folder}/{stem}.json'] = b'{}'
  index = {
    'filename': [f'{stem}.jpg' for stem in SCENES_847],
    'folder': folders,
    'objectIsPart': np.zeros((3, 4)),
  }
  files[f'{FULL}/index_ade20k.pkl'] = pickle.dumps(index)
  return files


def write_847(root: pathlib.Path, *, archived: bool = False) -> pathlib.Path:
  """Writes the 2021 release; returns the folder for `--raw`."""
  files = files_847()
  write(root, {f'{FULL}.zip': zipped(files)} if archived else files)
  return root
