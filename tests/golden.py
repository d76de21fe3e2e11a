"""Reads the recorded outputs of the official PyTorch code in `tests/goldens/`.

    g = golden.load('masqclip')        # {'in/...': array, 'out/...': array, ...}
    w = golden.weights('masqclip')     # the official state dict, float32
    golden.assert_close(ours, g['out/encoder/tokens'], name='tokens')

`in/` are inputs, `out/` outputs, `meta/` notes; `*_packed` masks are `numpy.packbits`
along the last axis. Weights are rebuilt from key, shape and seed (`seeded.py`); the
few that no rule gives are stored beside the outputs.
"""

import functools
import json
import pathlib

import numpy as np
import seeded
import skimage.data
from PIL import Image

ROOT = pathlib.Path(__file__).parent / 'goldens'

# Float32 against float64 of the official code differs by 1e-7..2e-5 relative to the
# largest value of a tensor; reordered sums of another backend add about as much.
TOLERANCE = 1e-4


@functools.cache
def load(system: str) -> dict[str, np.ndarray]:
  """Inputs, outputs and notes recorded for a system."""
  with np.load(ROOT / f'{system}.npz') as file:
    return {k: file[k] for k in file.files if not k.startswith('weights/')}


@functools.cache
def weights(system: str) -> dict[str, np.ndarray]:
  """The official state dict the outputs were made with: float32, and constant indices
  as they are."""
  table = json.loads((ROOT / f'{system}.weights.json').read_text())
  arrays = {}
  with np.load(ROOT / f'{system}.npz') as file:
    for key, row in table.items():
      if row.get('stored'):
        array = file[f'weights/{key}']
        floating = np.issubdtype(array.dtype, np.floating)
        arrays[key] = array.astype(np.float32) if floating else array
      else:
        arrays[key] = seeded.seeded_array(row.get('seeded_as', key), row['shape'])
  return arrays


def full_size(system: str) -> dict:
  """Key shapes, seeding and sampled outputs of a published-size model."""
  return json.loads((ROOT / f'full_size_{system}.json').read_text())


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
  """Binary masks from their packed rows."""
  return np.unpackbits(packed, axis=-1)[..., :width].astype(bool)


def relative_error(ours, official) -> float:
  """Largest absolute difference over the official tensor's largest magnitude."""
  ours, official = np.asarray(ours, np.float64), np.asarray(official, np.float64)
  assert ours.shape == official.shape, (ours.shape, official.shape)
  return float(np.abs(ours - official).max() / max(np.abs(official).max(), 1e-12))


def assert_close(ours, official, *, name: str, tolerance: float = TOLERANCE) -> None:
  """Fails when the relative error of a tensor exceeds the tolerance."""
  error = relative_error(ours, official)
  print(f'parity {name}: {error:.2e}')
  assert error <= tolerance, f'{name}: relative error {error:.2e} > {tolerance:.0e}'


def assert_matches_samples(
  ours, record: dict, *, name: str, tolerance: float = TOLERANCE
) -> None:
  """Checks a full-size tensor against its recorded shape, moments and samples."""
  ours = np.asarray(ours, np.float64)
  assert list(ours.shape) == record['shape'], (name, ours.shape, record['shape'])
  scale = max(abs(record['min']), abs(record['max']))
  sampled = ours.reshape(-1)[record['flat_index']]
  error = np.abs(sampled - record['values']).max() / scale
  drift = abs(ours.mean() - record['mean']) / scale
  print(f'parity {name}: samples {error:.2e}, mean {drift:.2e}')
  assert error <= tolerance, f'{name}: relative error {error:.2e}'
  assert drift <= tolerance, f'{name}: mean differs by {drift:.2e}'


def photo(name: str, size: tuple[int, int]) -> np.ndarray:
  """A CC0 photo of scikit-image, resized to (width, height) by Pillow's bicubic."""
  path = pathlib.Path(skimage.data.__file__).parent / name
  image = Image.open(path).convert('RGB')
  return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def clip_photo(name: str, side: int) -> np.ndarray:
  """A photo through CLIP's own preprocessing: [1, side, side, 3], normalised."""
  path = pathlib.Path(skimage.data.__file__).parent / name
  image = Image.open(path).convert('RGB')
  scale = side / min(image.size)
  size = tuple(side if s == min(image.size) else int(s * scale) for s in image.size)
  image = image.resize(size, Image.Resampling.BICUBIC)
  left, top = (round((s - side) / 2) for s in size)
  image = image.crop((left, top, left + side, top + side))
  mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
  std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
  return ((np.asarray(image, np.float32) / 255 - mean) / std)[None]
