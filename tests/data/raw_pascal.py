"""PASCAL VOC 2012 and PASCAL Context in their official layouts."""

import io
import pathlib

import numpy as np
import scipy.io
from raw_files import ROTATED, jpeg, palette_png, png, tarred, write, zipped

from maskclip_jax.text.vocabulary import Vocabulary

SIZE = (30, 40)
VOC_LISTS = {
  'train': ['2007_000032', '2007_000039'],
  'val': ['2007_000033', '2007_000042'],
}
# Only in the SBD labels.
SBD = ['2008_000002']
AEROPLANE, PERSON, TV = 1, 15, 20
VOID = 255


def voc_map(number: int) -> np.ndarray:
  """Background, a bordered object of one class, and a person."""
  classes = np.zeros(SIZE, np.uint8)
  classes[4:20, 4:20] = VOID
  classes[6:18, 6:18] = (AEROPLANE, TV)[number % 2]
  classes[22:30, 20:40] = PERSON
  return classes


def files_voc() -> dict[str, bytes]:
  """Files of the VOC archive, and those of SegmentationClassAug."""
  root, files = 'VOCdevkit/VOC2012', {}
  stems = [*VOC_LISTS['train'], *VOC_LISTS['val'], *SBD]
  for number, stem in enumerate(stems):
    orientation = ROTATED if stem == '2007_000042' else None
    photo = jpeg(number, SIZE, grey=number == 1, orientation=orientation)
    files[f'{root}/JPEGImages/{stem}.jpg'] = photo
    if stem not in SBD:
      data = palette_png(voc_map(number))
      files[f'{root}/SegmentationClass/{stem}.png'] = data
    files[f'SegmentationClassAug/{stem}.png'] = png(voc_map(number))
  for split, names in VOC_LISTS.items():
    # The last line has no newline, as in lists that people edit.
    text = '\n'.join(names).encode()
    files[f'{root}/ImageSets/Segmentation/{split}.txt'] = text
  return files


def write_voc(root: pathlib.Path, *, archived=False, aug=True) -> pathlib.Path:
  """Writes VOC 2012; returns the folder for `--raw`."""
  files = files_voc()
  extra = {name: data for name, data in files.items() if name.startswith('Seg')}
  own = {name: data for name, data in files.items() if name not in extra}
  if archived:
    own = {'VOCtrainval_11-May-2012.tar': tarred(own)}
    extra = {'SegmentationClassAug.zip': zipped(extra)}
  write(root, {**own, **(extra if aug else {})})
  return root


CONTEXT_LISTS = {'train': ['2008_000008'], 'val': ['2008_000015', '2008_000019']}
# Values of the LabelMap: 59 frequent classes, a rare one above 255, and none.
GRASS, SKY, PERSON_459, YARD, ACCORDION = 187, 360, 284, 459, 1


def context_map() -> np.ndarray:
  classes = np.full(SIZE, SKY, np.uint16)
  classes[15:] = GRASS
  classes[10:25, 10:20] = PERSON_459
  classes[26:30, 30:40] = YARD
  classes[26:30, 20:30] = ACCORDION
  classes[:2] = 0
  return classes


def files_context() -> dict[str, bytes]:
  """Files of the VOC 2010 archive, of the label archive, and labels.txt."""
  root, files = 'VOCdevkit/VOC2010', {}
  stems = [stem for names in CONTEXT_LISTS.values() for stem in names]
  for number, stem in enumerate([*stems, '2009_000001']):
    files[f'{root}/JPEGImages/{stem}.jpg'] = jpeg(number, SIZE, grey=number == 2)
  for stem in stems:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {'LabelMap': context_map()}, do_compression=True)
    files[f'trainval/{stem}.mat'] = buffer.getvalue()
  for split, names in CONTEXT_LISTS.items():
    files[f'{root}/ImageSets/Main/{split}.txt'] = '\n'.join(names).encode()
  classes = Vocabulary.named('pascal-context-459').classes
  lines = ['0: empty', *(f'{c.id}: {c.name.replace(" ", "")}' for c in classes)]
  files['labels.txt'] = '\n'.join(lines).encode()
  return files


def write_context(root: pathlib.Path, *, archived=False) -> pathlib.Path:
  """Writes PASCAL Context; returns the folder for `--raw`."""
  files = files_context()
  if archived:
    voc = {name: data for name, data in files.items() if name.startswith('VOC')}
    maps = {name: data for name, data in files.items() if name.startswith('trainval/')}
    files = {
      'VOCtrainval_03-May-2010.tar': tarred(voc),
      'trainval.tar.gz': tarred(maps, 'gz'),
      'labels.txt': files['labels.txt'],
    }
  write(root, files)
  return root
