"""Making small photos, label maps and archives for the generated raw datasets."""

import io
import pathlib
import tarfile
import zipfile

import numpy as np
from PIL import Image

EXIF_ORIENTATION = 0x0112
ROTATED = 6


def jpeg(seed: int, size: tuple[int, int], *, grey=False, orientation=None) -> bytes:
  """A photo of smooth noise; `size` is (height, width) as stored."""
  rng = np.random.default_rng(seed)
  height, width = size
  shape = (height // 8 + 2, width // 8 + 2) + (() if grey else (3,))
  small = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
  image = small.resize((width, height), Image.Resampling.BILINEAR)
  options = {}
  if orientation is not None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options['exif'] = exif
  buffer = io.BytesIO()
  image.save(buffer, 'JPEG', quality=90, **options)
  return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
  """A PNG of an array: grey 8 or 16 bits, or RGB."""
  buffer = io.BytesIO()
  Image.fromarray(values).save(buffer, 'PNG')
  return buffer.getvalue()


def palette_png(values: np.ndarray) -> bytes:
  """A palette PNG as PASCAL VOC publishes: the index is the class."""
  image = Image.fromarray(values.astype(np.uint8))
  image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
  buffer = io.BytesIO()
  image.save(buffer, 'PNG')
  return buffer.getvalue()


def write(root: pathlib.Path, files: dict[str, bytes]) -> None:
  """Writes files by relative path."""
  for name, data in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def zipped(files: dict[str, bytes]) -> bytes:
  """A zip with macOS's twins and an explicit folder entry, as found in the wild."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
    for folder in sorted({name.rpartition('/')[0] for name in files} - {''}):
      archive.writestr(f'{folder}/', b'')
    for name, data in files.items():
      archive.writestr(name, data)
      folder, _, last = name.rpartition('/')
      archive.writestr(f'__MACOSX/{folder}/._{last}', b'junk')
  return buffer.getvalue()


def tarred(files: dict[str, bytes], compression: str = '') -> bytes:
  """A tar; `compression` is '' or 'gz'."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=f'w:{compression}') as archive:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return buffer.getvalue()
