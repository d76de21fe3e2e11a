"""What a build may add to every record: smaller photos, and superpixels."""

import dataclasses
import io

import numpy as np
from PIL import Image, ImageOps

from maskclip_jax.data.records import Record, write_label_map
from maskclip_jax.data.superpixels import SuperpixelRule, find_superpixels

_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Extras:
  """Changes records before they are stored; may be pickled.

  Attributes:
    short_side: photos of which both sides are larger are made so small that this is the
      shorter one, as the published training stores them [segclip 3.1]; 0 keeps all.
    superpixels: how each photo, as it is stored, is cut; None stores no superpixels.
  """

  short_side: int = 0
  superpixels: SuperpixelRule | None = None

  def __post_init__(self):
    if self.short_side < 0:
      raise ValueError(f'short_side must be at least 0, not {self.short_side}')

  def __call__(self, record: Record) -> Record:
    """The record with what is to be added.

    Raises:
      ValueError: a photo with labels was to be made smaller; it cannot be decoded; or
        scikit-image is not installed.
    """
    if self.short_side and min(record['height'], record['width']) > self.short_side:
      record = shrink(record, self.short_side)
    if self.superpixels:
      photo = np.asarray(_open(record).convert('RGB'))
      found = find_superpixels(photo, self.superpixels)
      record = {**record, 'superpixels': write_label_map(found)}
    return record


def shrink(record: Record, short_side: int) -> Record:
  """A record whose photo has a given short side; the longer one is rounded down.

  Raises:
    ValueError: the record has labels, which would no longer fit.
  """
  if record['segments'] or record['semantic'] or len(record['instances']['id']):
    raise ValueError(
      f'{record["file_name"]} has labels, which do not fit a smaller photo: build '
      'captions alone (--parts captions) or keep the size'
    )
  photo = ImageOps.exif_transpose(_open(record)).convert('RGB')
  width, height = photo.size
  if width < height:
    size = short_side, int(short_side * (height / width))
  else:
    size = int(short_side * (width / height)), short_side
  file = io.BytesIO()
  small = photo.resize(size, Image.Resampling.LANCZOS)
  small.save(file, 'JPEG', quality=_QUALITY)
  return {
    **record,
    'image': file.getvalue(),
    'height': size[1],
    'width': size[0],
  }


def _open(record: Record) -> Image.Image:
  """The decoded photo.

  Raises:
    ValueError: it is damaged.
  """
  picture = Image.open(io.BytesIO(record['image']))
  try:
    picture.load()
  except (OSError, SyntaxError) as error:
    raise ValueError(f'{record["file_name"]} cannot be decoded ({error})') from error
  return picture
