"""Pictures of examples with their labels drawn over them, for the report."""

import colorsys
import io
from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageDraw, ImageFont

from maskclip_jax.data.doctor.decoded import Decoded
from maskclip_jax.data.doctor.expectations import Expectations

_WIDTH = 360
_OPACITY = 0.55
# Names on regions below this share of the picture would hide them.
_NAMED_SHARE = 0.01
_NAMES = 12
# Steps of the golden ratio around the colour circle: neighbours always differ.
_GOLDEN = 0.618034

Picture = UInt8[np.ndarray, 'h w 3']


def draw(decoded: Decoded, facts: Expectations) -> list[tuple[str, bytes]]:
  """The photo and each kind of label it has, as titled JPEG."""
  if decoded.photo is None or decoded.photo.shape[:2] != decoded.size:
    return []
  pictures = [('photo', decoded.photo)]
  names = facts.category_names()
  table = decoded.record['segments_info']
  if decoded.segments is not None:
    rows = zip(table['id'].tolist(), table['category_id'].tolist(), strict=True)
    labels = {number: names.get(category, str(category)) for number, category in rows}
    pictures.append(('panoptic', _overlay(decoded.photo, decoded.segments, labels)))
  objects = decoded.record['instances']
  if decoded.masks:
    ids, labels = np.zeros(decoded.size, np.int32), {}
    # Small ones last, so that what lies on another object stays visible.
    order = sorted(
      (row for row, mask in enumerate(decoded.masks) if mask is not None),
      key=lambda row: -decoded.masks[row].sum(),
    )
    for row in order:
      ids[decoded.masks[row]] = row + 1
      category = int(objects['category_id'][row])
      labels[row + 1] = names.get(category, str(category))
    pictures.append(('objects', _overlay(decoded.photo, ids, labels)))
  if decoded.semantic is not None:
    labels = facts.value_names()
    pictures.append(('semantic', _overlay(decoded.photo, decoded.semantic, labels)))
  return [(title, _jpeg(picture)) for title, picture in pictures]


def _overlay(
  photo: Picture, ids: Int32[np.ndarray, 'h w'], labels: Mapping[int, str]
) -> Picture:
  """Colours each id that has a label, draws its border and writes its name."""
  scale = _WIDTH / photo.shape[1]
  size = _WIDTH, max(1, round(photo.shape[0] * scale))
  base = np.asarray(Image.fromarray(photo).resize(size), np.float32)
  # Nearest, by pixel centres.
  y = ((np.arange(size[1]) + 0.5) * photo.shape[0] / size[1]).astype(int)
  x = ((np.arange(size[0]) + 0.5) * photo.shape[1] / size[0]).astype(int)
  found, index = np.unique(ids[y[:, None], x], return_inverse=True)
  index = index.reshape(size[::-1])
  named = np.array([number in labels for number in found.tolist()])
  colours = np.array([_colour(number) for number in found.tolist()], np.float32)
  opacity = np.where(named, _OPACITY, 0)[index][..., None]
  mixed = base * (1 - opacity) + colours[index] * opacity
  border = np.zeros(index.shape, bool)
  border[1:] |= index[1:] != index[:-1]
  border[:, 1:] |= index[:, 1:] != index[:, :-1]
  mixed[border] = 255
  image = Image.fromarray(mixed.astype(np.uint8))
  _write_names(image, index, found, labels)
  return np.asarray(image)


def _write_names(
  image: Image.Image,
  index: Int32[np.ndarray, 'h w'],
  found: Int32[np.ndarray, ' n'],
  labels: Mapping[int, str],
) -> None:
  pen, font = ImageDraw.Draw(image), ImageFont.load_default(11)
  sizes = np.bincount(index.reshape(-1), minlength=len(found))
  # Names of larger regions go first; one that would cover them is left out.
  taken = np.zeros(index.shape, bool)
  for position in np.argsort(-sizes)[:_NAMES].tolist():
    number = int(found[position])
    if number not in labels or sizes[position] < _NAMED_SHARE * index.size:
      continue
    text = labels[number].split(',')[0][:24]
    y, x = _inner_point(index == position)
    box = pen.textbbox((x, y), text, font, anchor='mm')
    box = tuple(round(side) for side in box)
    place = np.s_[max(box[1] - 1, 0) : box[3] + 2, max(box[0] - 2, 0) : box[2] + 3]
    if taken[place].any():
      continue
    taken[place] = True
    pen.rectangle((box[0] - 2, box[1] - 1, box[2] + 2, box[3] + 1), (0, 0, 0))
    pen.text((x, y), text, (255, 255, 255), font, anchor='mm')


def _inner_point(mask: np.ndarray) -> tuple[int, int]:
  """The pixel farthest from the border: inside even if the region is bent."""
  padded = np.pad(mask, 1).astype(np.uint8)
  depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
  y, x = np.unravel_index(depth.argmax(), depth.shape)
  return int(y), int(x)


def _colour(number: int) -> tuple[int, int, int]:
  hue = number * _GOLDEN % 1.0
  red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.65 + 0.3 * (number % 2))
  return round(255 * red), round(255 * green), round(255 * blue)


def _jpeg(picture: Picture) -> bytes:
  image = Image.fromarray(picture)
  height = max(1, round(picture.shape[0] * _WIDTH / picture.shape[1]))
  buffer = io.BytesIO()
  image.resize((_WIDTH, height)).save(buffer, 'JPEG', quality=82)
  return buffer.getvalue()
