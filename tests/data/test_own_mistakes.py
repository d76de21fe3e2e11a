"""Mistakes that people make in labels of their own: read all the same, or one line."""

import dataclasses
import io

import numpy as np
import own_labels
import pytest
from own_labels import COLOUR_TABLE, coloured, mask, write_coco, write_masks
from PIL import Image
from raw_files import png

from maskclip_jax.data.build import build
from maskclip_jax.data.own import Annotated, OwnData, groups, open_own
from maskclip_jax.data.own.photos import stored_photo


def opened(given: OwnData) -> Annotated:
  """What a build reads, without writing it."""
  data = open_own(given)
  for photos in data.splits.values():
    for photo in photos:
      stored_photo(photo.file, photo.read().size)
  return data


def first(**fields):
  return lambda data: data['annotations'][0].update(fields)


def category(position: int, **fields):
  return lambda data: data['categories'].insert(position, fields)


def shares(data: dict) -> None:
  for row in data['annotations']:
    row['segmentation'] = [[value / 32 for value in row['segmentation'][0]]]


def boxes_alone(data: dict) -> None:
  for row in data['annotations']:
    row['bbox'] = [1, 1, 5, 5]
    del row['segmentation']


COCO = {
  'a photo that is missing': (
    {'photos': ('a.jpg', 'b.jpg')},
    r'names 3 photos, and 1 of them are not under .* \(c\.jpg\): add them',
  ),
  'no photos': ({'photos': ('a.txt',)}, r'no photos under .* \(there are \.txt\)'),
  'two photos of one name': (
    {'photos': ('x/a.jpg', 'y/a.jpg', 'b.jpg', 'c.jpg')},
    "'a.jpg' may be x/a.jpg or y/a.jpg under .*: write the folder",
  ),
  'a photo of another size': (
    {'change': lambda data: data['images'][0].update(height=240, width=320)},
    'a.jpg is 32 x 24 and its labels are for 320 x 240 pixels',
  ),
  'photos alone': (
    {'change': lambda data: data.update(annotations=[])},
    'has no annotations: export the labels',
  ),
  'a category twice': (
    {'change': lambda data: data['categories'][1].update(name='Car')},
    "labels.json: two classes are called 'Car'",
  ),
  'names that differ in case': (
    {'change': lambda data: data['categories'][1].update(name='CAR ')},
    "labels.json: two classes are called 'CAR' and 'car', which is one name: rename",
  ),
  'a number twice': (
    {'change': category(0, id=1, name='bus')},
    "lists category 1 as 'bus', and labels.json as 'car': give every class one number",
  ),
  'a category that is not listed': ({'change': first(category_id=9)}, 'has category 9'),
  'boxes alone': ({'change': boxes_alone}, 'none of the 6 objects has an outline'),
  'shares of the photo': ({'change': shares}, 'these are shares, multiply x by the w'),
  'half a point': (
    {'change': first(segmentation=[[1, 2, 8, 2, 8, 9, 1]])},
    'an outline of object 1 has 7 coordinates, and every point two',
  ),
  'captions': ({'change': first(caption='a car')}, '--from captions reads those'),
  'validation on photos of training': (
    {'files': ('train.json', 'val.json')},
    'a.jpg is in train and in val',
  ),
}


@pytest.mark.parametrize('mistake', COCO)
def test_coco_is_refused_in_one_line(mistake, tmp_path):
  options, message = COCO[mistake]
  with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
    opened(write_coco(tmp_path, **options))
  assert '\n' not in str(error.value)


def test_photos_in_a_file_and_flags_of_another_form(tmp_path):
  given = write_coco(tmp_path)
  with pytest.raises(ValueError, match=r'labels\.json is a file: give the folder'):
    opened(dataclasses.replace(given, images=tmp_path / 'labels.json'))
  with pytest.raises(ValueError, match='--from coco does not read --masks: leave'):
    dataclasses.replace(given, masks=tmp_path)
  with pytest.raises(ValueError, match='--from masks does not read --annotations'):
    dataclasses.replace(given, form='masks')


def test_a_photo_that_is_none_is_told_without_addresses(tmp_path):
  given = write_coco(tmp_path)
  (tmp_path / 'photos/a.jpg').write_text('no photo')
  with pytest.raises(ValueError, match=r'a\.jpg is not .* \(8 bytes, of no known form'):
    opened(given)


def test_blanks_around_names_and_groups_by_one_of_several_words(tmp_path):
  def change(data):
    data['categories'][0].update(name=' car,  van ')

  given = dataclasses.replace(write_coco(tmp_path, change), seen=('van', 'car'))
  data = opened(given)
  assert [category.name for category in data.classes.classes] == ['car, van', 'dog']
  assert groups(given, data) == {'seen': ('car, van',), 'unseen': ('dog',)}


def test_files_that_are_not_there_or_no_json(tmp_path):
  given = write_coco(tmp_path)
  (tmp_path / 'labels.json').write_text('{"images": [')
  with pytest.raises(ValueError, match=r'labels\.json is not valid JSON.*export it'):
    opened(given)
  (tmp_path / 'labels.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'no annotation file .*labels\.json'):
    opened(given)


READ = {
  'another case': {'photos': ('A.JPG', 'b.Jpg', 'sub/c.jpeg.jpg', 'c.jpg')},
  "another computer's paths": {
    'change': lambda data: [
      row.update(file_name='C:\\data\\photos\\' + row['file_name'])
      for row in data['images']
    ]
  },
  'numbers as text': {
    'change': lambda data: (
      first(image_id='0', category_id='1')(data),
      data['categories'][0].update(id='1'),
    )
  },
}


@pytest.mark.parametrize('way', READ)
def test_coco_is_read_all_the_same(way, tmp_path):
  data = opened(write_coco(tmp_path, **READ[way]))
  assert [photo.key for photo in data.splits['train']] == ['0', '1', '2']
  assert len(data.splits['train'][0].read().objects) == 2


def test_what_is_left_out_is_told(tmp_path):
  def change(data):
    first(segmentation=[[1, 2, 3, 4]])(data)
    category(0, id=0, name='car')(data)

  data = opened(write_coco(tmp_path, change))
  told = ' / '.join(data.notes)
  assert '1 of 6 objects in labels.json have no outline' in told
  assert 'category 0 (car) is listed twice and never used' in told
  assert [c.id for c in data.classes.classes] == [1, 2]


def test_files_of_the_same_photos_are_joined(tmp_path):
  """Their objects may have the same ids; a folder stands for its files."""
  write_coco(tmp_path, files=('labels/cars.json', 'labels/dogs.json'))
  data = opened(OwnData('coco', tmp_path / 'photos', (tmp_path / 'labels',)))
  objects = data.splits['train'][0].read().objects
  assert [row['id'] for row in objects] == [1, 2, 3, 4]
  assert 'in 3 photos several objects had one id: they were numbered anew' in data.notes


def test_a_file_of_no_split_is_joined_with_that_of_training(tmp_path):
  """Both number their photos from 0, and list the same ones."""
  given = write_coco(tmp_path, files=('labels.json', 'more_train.json'))
  photos = opened(given).splits
  assert {split: len(rows) for split, rows in photos.items()} == {'train': 3}
  assert len(photos['train'][0].read().objects) == 4


def jpeg_mask(values: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(own_labels.COLOURS[values]).save(buffer, 'JPEG')
  return buffer.getvalue()


def with_value(value: int) -> np.ndarray:
  values = mask()
  values[0, 5] = value
  return values


MASKS = {
  'a value of no class': (
    {'values': with_value(3)},
    r'a\.png has the value 3, and the classes are 1, 7: number the classes',
  ),
  'background without a class': (
    {'values': with_value(0)},
    'has the value 0, .* or say --ignore 0,255 if 0 stands for no class',
  ),
  'black and white': (
    {'values': np.where(mask() == 1, 0, 255).astype(np.uint8)},
    'of masks in black and white number the class 255, and say --ignore 0',
  ),
  'values that were scaled': (
    {'values': np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)},
    r'has the value 0, 2, 3, 4, \.\.\. \(\d+\), .*scaled, or saved lossily',
  ),
  'colours without a table': (
    {'encode': coloured},
    r'a\.png is in colours, and the classes have none: give each its colour',
  ),
  'a colour of no class': (
    {'encode': coloured, 'classes': COLOUR_TABLE.replace('200', '201')},
    r'has the colour \[200, 0, 0\] \(46\.9 % of it\), which no class has',
  ),
  'colours twice': (
    {'encode': coloured, 'classes': 'name,r,g,b\nsky,1,2,3\ncar,1,2,3\n'},
    r"class 'car' has the colour \[1, 2, 3\], as another one",
  ),
  'JPEG': (
    {'encode': jpeg_mask, 'ending': '.jpg', 'classes': COLOUR_TABLE},
    r'a\.jpg is a mask in a lossy format',
  ),
  'JPEG called PNG': (
    {'encode': jpeg_mask, 'classes': COLOUR_TABLE},
    r'a\.png is not a mask in PNG, BMP',
  ),
  'transparent': (
    {'encode': lambda v: coloured(v, alpha=100), 'classes': COLOUR_TABLE},
    'has transparent pixels',
  ),
  'another size': (
    {'size': (48, 64)},
    r'a\.JPG is 64 x 48 and its labels are for 32 x 24 pixels',
  ),
  'a class that is ignored': (
    {'classes': 'id,name\n1,sky\n7,car\n255,void\n'},
    "class 'void' has the id 255, which is not judged: say --ignore none",
  ),
  'no classes': ({'classes': None}, '--from masks needs --classes FILE'),
}


@pytest.mark.parametrize('mistake', MASKS)
def test_masks_are_refused_in_one_line(mistake, tmp_path):
  options, message = MASKS[mistake]
  options = {'classes': own_labels.TABLE, **options}
  changes = {'classes': None} if options['classes'] is None else {}
  given = write_masks(tmp_path, **{**options, 'classes': options['classes'] or ''})
  given = dataclasses.replace(given, **changes)
  with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
    opened(given)
  assert '\n' not in str(error.value)


def test_masks_and_photos_that_have_no_other(tmp_path):
  given = write_masks(tmp_path)
  (tmp_path / 'masks/a.png').unlink()
  assert '1 photos have no mask (a.JPG): left out' in opened(given).notes
  (tmp_path / 'photos/b.JPG').unlink()
  with pytest.raises(FileNotFoundError, match=r'1 of 2 masks .* no photo .*\(b\.png\)'):
    opened(given)


def test_masks_are_found_in_any_case(tmp_path):
  given = write_masks(tmp_path)
  (tmp_path / 'masks/a.png').rename(tmp_path / 'masks/A.PNG')
  assert len(opened(given).splits['train']) == 3


def test_masks_may_lie_among_the_photos(tmp_path):
  given = dataclasses.replace(write_masks(tmp_path), images=tmp_path)
  assert len(opened(given).splits['train']) == 3


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB'])
def test_colours_of_black_and_white(mode, tmp_path):
  """A table says that white is a class: then 255 is no value to ignore."""
  white = np.where(mask() == own_labels.CAR, 255, 0).astype(np.uint8)

  def encode(values):
    buffer = io.BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, 'PNG')
    return buffer.getvalue()

  table = 'name,r,g,b\nroad,0,0,0\ncrack,255,255,255\n'
  given = write_masks(tmp_path, encode, values=white, classes=table, ignore=())
  data = opened(given)
  values = data.splits['train'][0].read().semantic.values
  assert [values[0, 5], values[20, 5]] == [0, 1]


def palette_of(colours: np.ndarray):
  """What encodes values with a palette."""

  def encode(values):
    image = Image.fromarray(values)
    image.putpalette(colours.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    return buffer.getvalue()

  return encode


def test_colours_of_a_palette(tmp_path):
  """They say the class where a table knows them, whatever their order."""
  palette = own_labels.COLOURS.copy()
  palette[255] = 224, 224, 192
  table = 'name,r,g,b\nship,1,1,1\ncar,200,0,0\nsky,10,20,30\n'
  given = write_masks(tmp_path / 'all', palette_of(palette), classes=table)
  values = opened(given).splits['train'][0].read().semantic.values
  assert [values[0, 5], values[20, 5], values[0, 0]] == [2, 1, 255]
  palette[own_labels.SKY] = 9, 9, 9
  given = write_masks(tmp_path / 'some', palette_of(palette), classes=table)
  with pytest.raises(ValueError, match=r'has the colour \[9, 9, 9\]'):
    opened(given)
  given = write_masks(tmp_path / 'none', palette_of(palette), classes=own_labels.TABLE)
  values = opened(given).splits['train'][0].read().semantic.values
  assert [values[0, 5], values[20, 5], values[0, 0]] == [1, 7, 255]


def test_masks_in_every_form_say_the_same(tmp_path):
  forms = {
    'grey': {},
    '16 bits': {'encode': lambda v: png(v.astype(np.uint16))},
    'grey as colours': {'encode': lambda v: png(np.repeat(v[..., None], 3, -1))},
    'a common ending': {'ending': '_mask.png'},
    'colours': {'encode': coloured, 'classes': COLOUR_TABLE},
    'opaque colours': {'encode': lambda v: coloured(v, 255), 'classes': COLOUR_TABLE},
    'TIFF': {'encode': tiff, 'ending': '.tif'},
  }
  for name, options in forms.items():
    data = opened(write_masks(tmp_path / name, **options))
    ids = {category.name: category.id for category in data.classes.classes}
    values = data.splits['train'][0].read().semantic.values
    assert [values[0, 5], values[20, 5], values[0, 0]] == [ids['sky'], ids['car'], 255]


def tiff(values: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(values).save(buffer, 'TIFF')
  return buffer.getvalue()


def test_a_mask_that_cannot_be_decoded_names_its_photo(tmp_path):
  """Also where area and box are listed, so that nothing has to be measured."""
  runs = {'size': [24, 32], 'counts': [25]}
  change = first(segmentation=runs, area=25, bbox=[0, 0, 2, 24])
  with pytest.raises(ValueError, match=r'a\.jpg: the mask of object 1 cannot be decod'):
    build('mine', None, tmp_path / 'data', own=write_coco(tmp_path, change))
