"""Photos as people have them: the same picture in every form reads the same."""

import io
import struct
import warnings
import zlib

import cv2
import ml_dtypes
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from maskclip_jax.photos import (
  PhotoWarning,
  heard,
  photo_from_array,
  photo_from_bytes,
  photo_from_pil,
)
from maskclip_jax.photos import read_photo as read


def picture(seed=0, high=246):
  """Noise between 9 and `high`: no two pixels in a row are alike."""
  return np.random.default_rng(seed).integers(9, high, (12, 17, 3), np.uint8)


def jpeg_with_exif(entries, extra=b''):
  """A JPEG whose EXIF holds these entries: (tag, type, count, four bytes)."""
  buffer = io.BytesIO()
  Image.fromarray(picture()).save(buffer, 'JPEG', quality=95)
  data = buffer.getvalue()
  exif = b'Exif\0\0II*\0\x08\0\0\0' + struct.pack('<H', len(entries))
  for tag, kind, count, value in entries:
    exif += struct.pack('<HHI', tag, kind, count) + value
  exif += b'\0' * 4 + extra
  marker = b'\xff\xe1' + struct.pack('>H', len(exif) + 2)
  return data[:2] + marker + exif + data[2:]


def tiff(pixels, tags):
  """An uncompressed little-endian TIFF with other tags than Pillow would write.

  Args:
    pixels: (h, w, c); or (c, h, w) where tag 284 says so.
    tags: short values by number.
  """
  planar = tags.get(284) == 2
  height, width, channels = np.moveaxis(pixels, 0, -1).shape if planar else pixels.shape
  bits, strips = pixels.itemsize * 8, channels if planar else 1
  size = pixels.nbytes // strips
  values = {
    256: [width],
    257: [height],
    258: [bits] * channels,
    259: [1],
    262: [2 if channels == 3 else 1],
    273: [8 + size * i for i in range(strips)],
    277: [channels],
    278: [height],
    279: [size] * strips,
  } | {number: [value] for number, value in tags.items()}
  after = 8 + pixels.nbytes + 2 + 12 * len(values) + 4
  entries, extra = b'', b''
  for number, numbers in sorted(values.items()):
    packed = struct.pack(f'<{len(numbers)}I', *numbers)
    if len(numbers) > 1:
      extra, packed = extra + packed, struct.pack('<I', after + len(extra))
    entries += struct.pack('<HHI', number, 4, len(numbers)) + packed
  head = b'II*\0' + struct.pack('<I', 8 + pixels.nbytes)
  directory = struct.pack('<H', len(values)) + entries + b'\0' * 4
  return head + pixels.tobytes() + directory + extra


QUARTER = (0x112, 3, 1, struct.pack('<HH', 6, 0))


@pytest.mark.parametrize(
  'form',
  [
    lambda a: a.astype(np.int16),
    lambda a: a.astype(np.int32),
    lambda a: a.astype(np.int64),
    lambda a: a.astype(np.uint32),
    lambda a: a.tolist(),
    lambda a: pytest.importorskip('torch').tensor(a.astype(np.int64)),
    lambda a: pytest.importorskip('torch').tensor(a / 255, requires_grad=True),
    lambda a: a / 255,
    lambda a: a.astype(np.float32) / 255,
    lambda a: a.astype(np.uint16) * 257,
    lambda a: np.asfortranarray(a)[:, ::-1][:, ::-1],
  ],
)
@pytest.mark.filterwarnings('ignore::maskclip_jax.photos.PhotoWarning')
def test_an_array_of_any_type_is_the_same_photo(form):
  np.testing.assert_array_equal(photo_from_array(form(picture())), picture())


def test_bfloat16_of_torch_is_read_as_floats():
  halves = pytest.importorskip('torch').tensor(picture() / 255).bfloat16()
  np.testing.assert_allclose(photo_from_array(halves), picture(), atol=1)


def test_alpha_has_the_white_of_float_colours():
  colours = picture().astype(np.float32)
  for opaque in (1, 255):
    alpha = np.full((*colours.shape[:2], 1), opaque, np.float32)
    photo = np.concatenate([colours, alpha], -1)
    np.testing.assert_array_equal(photo_from_array(photo, 255), picture())


@pytest.mark.parametrize('content', [b'abc', bytearray(3), io.BytesIO(b'abc')])
def test_an_open_file_is_refused_and_left_open(content):
  with pytest.raises(ValueError, match='give a path, an array, or what PIL'):
    photo_from_array(content)
  assert not getattr(content, 'closed', False)
  if isinstance(content, io.BytesIO):
    assert content.read() == b'abc'


def test_bfloat16_is_read_as_floats():
  halves = (picture() / 255).astype(ml_dtypes.bfloat16)
  # Eight bits of mantissa: steps of 1/256 below 1.
  np.testing.assert_allclose(photo_from_array(halves), picture(), atol=1)


@pytest.mark.parametrize('bits', [10, 12, 14])
def test_fewer_bits_than_sixteen_are_told(bits):
  deep = picture(high=255).astype(np.uint16) << (bits - 8)
  white = 2**bits - 1
  with pytest.warns(PhotoWarning, match=f'{white} was taken for white'):
    guessed = photo_from_array(deep)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    np.testing.assert_array_equal(photo_from_array(deep, white), guessed)
    with heard() as texts:
      photo_from_array(deep)
  assert [f'{white} was taken for white' in text for text in texts] == [True]
  np.testing.assert_allclose(guessed, picture(high=255), atol=1)


def test_sixteen_bits_and_wide_types_are_taken_as_they_are():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    photo_from_array(np.full((2, 2), 65535, np.uint16))
    photo_from_array(np.zeros((2, 2), np.uint16))
    photo_from_array(np.full((2, 2), 200, np.int64))


def test_alpha_of_another_depth_stays_opaque():
  deep = picture().astype(np.uint16) * 16
  opaque = np.dstack([deep, np.full(deep.shape[:2], 65535, np.uint16)])
  np.testing.assert_array_equal(
    photo_from_array(opaque, 4095), photo_from_array(deep, 4095)
  )


@pytest.mark.parametrize(
  ('array', 'message'),
  [
    (picture().astype(np.float32), 'from 9.0 to .*within 0..1.*white'),
    (np.full((2, 2), -1), 'from -1 to -1'),
    (np.full((2, 2), 1 << 20), 'set white'),
    (np.full((2, 2), np.nan), 'not finite'),
    (np.full((2, 2), 1j), 'of numbers, not of complex'),
    (np.full((2, 2), 'x'), 'of numbers'),
    ([[1, 2], [3]], 'not an array of numbers'),
    (None, 'of numbers, not of object'),
    (picture().transpose(2, 0, 1), r'\(height, width\).*\(3, 12, 17\)'),
  ],
)
def test_what_is_no_photo_is_refused_with_its_numbers(array, message):
  with pytest.raises(ValueError, match=message):
    photo_from_array(array)


def test_numbers_beyond_white_are_white():
  assert photo_from_array(np.full((2, 2), 5000.0), 4095).max() == 255
  for wrong in (0, -1, np.nan, np.inf, '4095', True):
    with pytest.raises(ValueError, match='white must be a positive number'):
      photo_from_array(np.full((2, 2), 5000), wrong)


@pytest.mark.parametrize('ending', ['png', 'tif'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_files_of_sixteen_bits_keep_them(tmp_path, ending, channels):
  """Pillow alone would keep the upper eight bits of colours: almost black."""
  deep = picture().astype(np.uint16) * 16
  alpha = np.full((*deep.shape[:2], 1), 65535, np.uint16)
  stored = np.concatenate([deep[..., ::-1], alpha], -1)[..., :channels]
  path = tmp_path / f'photo.{ending}'
  cv2.imwrite(str(path), stored)
  expected = np.repeat(deep[..., 2:], 3, -1) if channels == 1 else deep
  with pytest.warns(PhotoWarning, match=r'photo\.(png|tif).*4095'):
    np.testing.assert_array_equal(read(path), photo_from_array(expected, 4095))
  with Image.open(path) as image:
    np.testing.assert_array_equal(
      photo_from_pil(image, 4095), photo_from_array(expected, 4095)
    )


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_tiff_is_turned_once(tmp_path, orientation, dtype, channels):
  """Pillow turns TIFF by itself when it decodes it."""
  pixels = picture().astype(dtype) * (257 if dtype == np.uint16 else 1)
  path = tmp_path / 'photo.tif'
  path.write_bytes(tiff(pixels[..., :channels], {274: orientation}))
  exif = Image.Exif()
  exif[274] = orientation
  Image.fromarray(picture()).save(tmp_path / 'photo.png', exif=exif)
  expected = read(tmp_path / 'photo.png')[..., [0, 1, 2] if channels == 3 else [0] * 3]
  np.testing.assert_array_equal(read(path), expected)
  with path.open('rb') as file, Image.open(file) as image:
    np.testing.assert_array_equal(photo_from_pil(image), expected)


def test_deep_grey_where_zero_is_white(tmp_path):
  pixels = 65535 - picture()[..., :1].astype(np.uint16) * 257
  path = tmp_path / 'photo.tif'
  path.write_bytes(tiff(pixels, {262: 0}))
  np.testing.assert_array_equal(read(path), picture()[..., [0] * 3])


def test_deep_colours_in_planes_are_refused(tmp_path):
  """Pillow and OpenCV both mix them up."""
  planes = np.moveaxis(picture().astype(np.uint16) * 257, -1, 0)
  path = tmp_path / 'photo.tif'
  path.write_bytes(tiff(np.ascontiguousarray(planes), {284: 2}))
  with pytest.raises(ValueError, match=r'photo\.tif is not an image that can be read'):
    read(path)


def test_grey_with_alpha_of_sixteen_bits(tmp_path):
  def chunk(kind, data):
    body = kind + data
    return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))

  head = struct.pack('>IIBBBBB', 3, 2, 16, 4, 0, 0, 0)
  rows = (b'\0' + struct.pack('>6H', *[30000, 65535] * 3)) * 2
  path = tmp_path / 'grey.png'
  path.write_bytes(
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', head)
    + chunk(b'IDAT', zlib.compress(rows))
    + chunk(b'IEND', b'')
  )
  np.testing.assert_array_equal(read(path), np.full((2, 3, 3), round(30000 / 257)))


def test_float_files(tmp_path):
  grey = picture()[..., 0]
  path = tmp_path / 'float.tif'
  scaled = grey.astype(np.float32) / grey.max()
  scaled[scaled == 1] = np.float32(1.0000002)
  Image.fromarray(scaled).save(path)
  assert read(path).max() == 255
  Image.fromarray(grey.astype(np.float32)).save(path)
  with pytest.raises(ValueError, match=r'float\.tif has floats from 9') as error:
    read(path)
  assert 'damaged' not in str(error.value)
  np.testing.assert_array_equal(read(path, 255)[..., 0], grey)


def test_broken_exif_costs_no_photo(tmp_path):
  path = tmp_path / 'photo.jpg'
  upright = jpeg_with_exif([QUARTER])
  path.write_bytes(upright)
  turned = read(path)
  assert turned.shape == (17, 12, 3)
  after = struct.pack('<I', 8 + 2 + 12 * 2 + 4)
  path.write_bytes(
    jpeg_with_exif([QUARTER, (0x11A, 10, 1, after)], struct.pack('<ii', -1, 0))
  )
  np.testing.assert_array_equal(read(path), turned)
  for entry in (
    (0x112, 2, 4, b'six\0'),
    (0x112, 5, 1, b'\xff' * 4),
    (0x112, 3, 1 << 30, b'\xff' * 4),
    (0x112, 12, 0, b'\0' * 4),
    (0x8769, 4, 1, b'\xff' * 4),
  ):
    path.write_bytes(jpeg_with_exif([entry]))
    assert read(path).shape == (12, 17, 3)


def test_texts_and_profiles_of_any_size(tmp_path):
  path = tmp_path / 'photo.png'
  image = Image.fromarray(picture())
  image.save(path, icc_profile=b'\0' * (2 << 20))
  np.testing.assert_array_equal(read(path), picture())
  text = PngImagePlugin.PngInfo()
  text.add_text('prompt', 'x' * (3 << 20), zip=True)
  exif = Image.Exif()
  exif[0x112] = 6
  image.save(path, pnginfo=text, exif=exif)
  np.testing.assert_array_equal(read(path), np.rot90(picture(), -1))


def test_any_error_of_a_decoder_is_one_line(tmp_path, monkeypatch):
  path = tmp_path / 'photo.png'
  Image.fromarray(picture()).save(path)

  def fail(self):
    raise ZeroDivisionError('division by zero')

  monkeypatch.setattr(PngImagePlugin.PngImageFile, 'load', fail)
  with pytest.raises(ValueError, match=r'photo\.png is damaged \(division by zero'):
    read(path)


def test_the_content_of_a_file_is_read_as_the_file(tmp_path):
  path = tmp_path / 'a.png'
  Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)).save(path)
  np.testing.assert_array_equal(
    photo_from_bytes(path.read_bytes(), 'photo 7'), read(path)
  )
  for content, message in (
    (b'hello', 'photo 7 is not an image'),
    (path.read_bytes()[:50], 'photo 7 is damaged'),
  ):
    with pytest.raises(ValueError, match=message):
      photo_from_bytes(content, 'photo 7')
