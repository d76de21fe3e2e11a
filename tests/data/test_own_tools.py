"""Labels as annotation tools write them: YOLO, labelme, CVAT, Label Studio."""

import base64
import json

import numpy as np
import pytest
from built import rows
from raw_files import jpeg, png, write
from raw_tools import (
  HEAD,
  SIZE,
  SQUARE,
  cvat,
  labelme,
  polygon,
  shape,
  write_yolo,
  yolo_line,
)

from maskclip_jax.data.build import build
from maskclip_jax.data.doctor import check
from maskclip_jax.data.examples import decode
from maskclip_jax.data.own import OwnData, open_own
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.views import find_view


def area_of(data, name, key='a', split='train') -> list[tuple[str, int]]:
  """Class and pixels of each object of a photo."""
  view = find_view(f'{name}/instances', data)
  names = view.class_names()
  table = rows(name, split, data)[key]['instances']
  return [
    (names[index], int(area))
    for index, area in zip(table['class'], table['area'], strict=True)
  ]


def problems_of(data) -> set[str]:
  """Kinds of what the doctor finds; of two photos, one without objects is many."""
  return {group.kind for group in check('mine', data).problems}


def notes_of(given: OwnData) -> str:
  return '\n'.join(open_own(given).notes)


# --- YOLO -----------------------------------------------------------------------------


def test_yolo_from_files_to_a_view(tmp_path):
  given = write_yolo(tmp_path, f'{yolo_line(0)}\n{yolo_line(1)}\n')
  built = build('mine', None, tmp_path / 'data', own=given)
  assert built.examples == {'train': 2, 'val': 1}
  assert any(
    line.startswith('photos without an object, kept as such: 2') for line in built.notes
  )
  data = tmp_path / 'data'
  # Sky is stuff, and no object.
  assert area_of(data, 'mine', 'images/train/a') == [('cat', 400)]
  assert area_of(data, 'mine', 'images/train/b') == []
  assert problems_of(data) <= {'many-unlabelled'}
  view = find_view('mine/panoptic', data)
  example = decode(open_source(view, 'train', data)[0], view, crowd=True)
  assert example.segments[10, 20] >= 0
  assert example.segments[35, 50] == -1


def test_yolo_as_roboflow_writes_it(tmp_path):
  """Paths that lead out of the folder, and lists of photos."""
  root = tmp_path / 'export'
  for split in ('train', 'valid'):
    write(root / split / 'images', {f'{split}.jpg': jpeg(1, SIZE)})
    write(root / split / 'labels', {f'{split}.txt': yolo_line(0).encode()})
  (root / 'list.txt').write_text('./valid/images/valid.jpg\n')
  (root / 'data.yaml').write_text(
    'train: ../train/images\nval: list.txt\ntest: ../test/images\nnames: [cat]\n'
  )
  found = open_own(OwnData('yolo', root))
  assert {split: [p.key for p in photos] for split, photos in found.splits.items()} == {
    'train': ['train/images/train'],
    'val': ['valid/images/valid'],
  }


def test_what_yolo_files_lack_is_told(tmp_path):
  outside = [[-3, 5], [30, 5], [30, 25], [-3, 25]]
  text = [yolo_line(0), yolo_line(0), yolo_line(0, outside), '1 0.5 0.5 0.2 0.2']
  text += ['0 0.1 0.1 0.1 0.1 0.1 0.1']
  given = write_yolo(tmp_path, '\n'.join(text))
  notes = notes_of(given)
  for part in (
    'twice in their file, taken once: 1',
    'leave their photo, cut off at its border: 1',
    'boxes without an outline, left out: 1',
    'fewer than three points, left out: 1',
    'photos without an object, kept as such: 2',
  ):
    assert part in notes
  build('mine', None, tmp_path / 'data', own=given)
  assert area_of(tmp_path / 'data', 'mine', 'images/train/a') == [
    ('cat', 400),
    ('cat', 600),
  ]


@pytest.mark.parametrize(
  ('lines', 'part'),
  [
    ('0 0.5 0.5 0.2 0.2', 'boxes and no outline: export'),
    ('7 0.1 0.1 0.2 0.1 0.2 0.2', r'line 1 is of class 7.*names 0 to 1'),
    ('0 10 5 30 5 30 25', 'coordinate 10: they are shares'),
    ('0 0.1 0.1 0.2 0.1 0.2 0.2 0.3', '7 numbers after its class'),
    ('0 0.1 nan 0.2 0.1 0.2 0.2', 'coordinate nan'),
    ('cat 0.1 0.1 0.2 0.1 0.2 0.2', 'not numbers'),
    ('\udcff', 'UTF-8'),
  ],
)
def test_mistakes_in_yolo_labels(tmp_path, lines, part):
  given = write_yolo(tmp_path, '')
  data = lines.encode(errors='surrogateescape')
  (tmp_path / 'labels' / 'train' / 'a.txt').write_bytes(data)
  with pytest.raises(ValueError, match=part):
    open_own(given)


@pytest.mark.parametrize(
  ('config', 'part'),
  [
    ('train: images/train\nval: images/nowhere\n', 'nowhere for val'),
    ('train: [images/train\n', 'not valid YAML'),
  ],
)
def test_mistakes_in_a_data_yaml(tmp_path, config, part):
  given = write_yolo(tmp_path, yolo_line(0), config)
  with pytest.raises((ValueError, FileNotFoundError), match=part):
    open_own(given)


def test_yolo_without_its_files(tmp_path):
  write_yolo(tmp_path, '')
  (tmp_path / 'labels').rename(tmp_path / 'annotations')
  with pytest.raises(FileNotFoundError, match=r'labels/train/a\.txt'):
    open_own(OwnData('yolo', tmp_path))
  (tmp_path / 'data.yaml').unlink()
  with pytest.raises(FileNotFoundError, match=r'needs one data\.yaml'):
    open_own(OwnData('yolo', tmp_path))


def test_photos_that_differ_in_their_ending_alone(tmp_path):
  """One text would be the labels of both."""
  given = write_yolo(tmp_path, yolo_line(0))
  write(tmp_path / 'images' / 'train', {'a.png': png(np.zeros((*SIZE, 3), np.uint8))})
  with pytest.raises(
    ValueError, match=r'a\.jpg and .*a\.png are both called .* keep one'
  ):
    open_own(given)


# --- labelme --------------------------------------------------------------------------


def test_labelme_shapes_become_objects(tmp_path):
  mask = np.zeros((11, 6), np.uint8)
  mask[:, :3] = 255
  text = base64.b64encode(png(mask)).decode()
  shapes = [
    shape('cat', SQUARE),
    shape('cat', [[40, 2], [50, 12]], 'rectangle', group_id=None),
    shape('dog', [[40, 30], [45, 30]], 'circle'),
    shape('dog', [[2, 2], [7, 12]], 'mask', mask=text, group_id=4),
    shape('dog', [[20, 30], [30, 30], [30, 35], [20, 35]], group_id=4),
    shape('dog', [[1, 1], [2, 2]], 'line'),
    shape('cat', [[1, 1], [2, 2]]),
    shape('__ignore__', SQUARE),
  ]
  write(tmp_path / 'mine', {'a.jpg': jpeg(1, SIZE), 'a.json': labelme(shapes)})
  write(
    tmp_path / 'mine', {'b.png': png(np.zeros((*SIZE, 3), np.uint8))}
  )  # Without JSON: passed over.
  write(tmp_path / 'mine', {'c.jpg': jpeg(2, SIZE), 'c.json': labelme([], 'c.jpg')})
  given = OwnData('labelme', tmp_path / 'mine')
  built = build('mine', None, tmp_path / 'data', own=given)
  assert built.examples == {'train': 2}
  found = area_of(tmp_path / 'data', 'mine')
  assert [name for name, _ in found] == ['cat', 'cat', 'dog', 'dog']
  areas = [area for _, area in found]
  assert areas[:2] == [400, 100]
  # A circle of radius 5, and a mask of 33 pixels with an outline of 50.
  assert areas[2] == pytest.approx(np.pi * 25, rel=0.1)
  assert areas[3] == 33 + 50
  notes = '\n'.join(built.notes)
  for part in ('enclose nothing', '__ignore__', 'fewer than three', 'an object'):
    assert part in notes
  assert problems_of(tmp_path / 'data') <= {'many-unlabelled'}


def test_a_photo_inside_a_labelme_file(tmp_path):
  files = {'x.json': labelme([shape('cat', SQUARE)], '..\\a.jpg', data=jpeg(3, SIZE))}
  write(tmp_path / 'mine', files)
  given = OwnData('labelme', tmp_path / 'mine')
  built = build('mine', None, tmp_path / 'data', own=given)
  assert 'taken from their JSON files' in '\n'.join(built.notes)
  record = rows('mine', 'train', tmp_path / 'data')['x']
  assert record['image'] == jpeg(3, SIZE)
  assert record['file_name'] == 'a.jpg'


def test_labelme_files_of_early_versions(tmp_path):
  """Without sizes and kinds of shapes: the photo's upright size counts."""
  content = {'shapes': [{'label': 'cat', 'points': SQUARE}], 'imagePath': 'a.jpg'}
  photo = jpeg(1, SIZE[::-1], orientation=6)
  write(tmp_path, {'a.jpg': photo, 'a.json': json.dumps(content).encode()})
  build('mine', None, tmp_path / 'data', own=OwnData('labelme', tmp_path))
  record = rows('mine', 'train', tmp_path / 'data')['a']
  assert (record['height'], record['width']) == SIZE
  assert record['instances']['area'].tolist() == [400]


@pytest.mark.parametrize(
  ('content', 'part'),
  [
    (b'{}', "has no 'shapes'"),
    (b'\xff\xfe{', 'not valid JSON'),
    (labelme([shape('cat', [[1, 2, 3]])]), r"shape 1: 'points' is not"),
    (labelme([shape('', SQUARE)]), 'empty label'),
    (labelme([shape('cat', SQUARE, 'circle')]), 'circle of 4 points'),
    (labelme([shape('cat', [[1, 1], [2, 2]], 'mask', mask='x')]), 'not base64|picture'),
    (labelme([shape('cat', [[1, 1], [2, 2]], 'mask', mask='AAAA')]), 'picture: save'),
    (labelme([shape('cat', [[1, 1], [2, 2]], 'mask', mask=None)]), 'not base64'),
    (labelme([shape('cat', SQUARE)], 'nowhere.jpg'), r'nowhere\.jpg'),
    (
      labelme([shape('cat', [[1, 1], [2, 2]])]),
      'none of 1 .*three points, left out: 1, ',
    ),
    (labelme([shape('cat', SQUARE)], size=(0, 5)), "'imageHeight' and 'imageWidth'"),
    (labelme([shape('cat', SQUARE)], size=(10**6, 10**6)), "'imageWidth' are 1000000"),
  ],
)
def test_mistakes_in_labelme_files(tmp_path, content, part):
  write(tmp_path, {'a.jpg': jpeg(1, SIZE), 'a.json': content})
  with pytest.raises((ValueError, FileNotFoundError), match=part):
    open_own(OwnData('labelme', tmp_path))


def test_a_label_that_the_classes_lack(tmp_path):
  write(tmp_path, {'a.jpg': jpeg(1, SIZE), 'a.json': labelme([shape('cat', SQUARE)])})
  with pytest.raises(ValueError, match="'cat', which --classes lacks"):
    open_own(OwnData('labelme', tmp_path, classes='dog; stuff:sky'))


@pytest.mark.parametrize('orientation', [3, 6])
def test_photos_with_a_rotation_are_labelled_upright(tmp_path, orientation):
  """labelme and CVAT show them upright, and YOLO's shares are of the upright photo."""
  upright = SIZE if orientation == 3 else SIZE[::-1]
  corner = [[0, 0], [20, 0], [20, 10], [0, 10]]
  photo = jpeg(1, SIZE, orientation=orientation)
  files = {'a.jpg': photo, 'a.json': labelme([shape('cat', corner)], size=upright)}
  write(tmp_path / 'labelme', files)
  height, width = upright
  line = ' '.join(str(v / s) for x, y in corner for v, s in ((x, width), (y, height)))
  yolo = {'a.jpg': photo, 'a.txt': f'0 {line}'.encode(), 'a.yaml': b'names: [cat]'}
  write(tmp_path / 'yolo', yolo)
  for form in ('labelme', 'yolo'):
    given = OwnData(form, tmp_path / form)
    build(form, None, tmp_path / 'data', own=given)
    view = find_view(f'{form}/panoptic', tmp_path / 'data')
    example = decode(open_source(view, 'train', tmp_path / 'data')[0], view, crowd=True)
    assert example.image.shape[:2] == upright
    assert (example.segments[:10, :20] >= 0).all()
    assert (example.segments >= 0).sum() == 200


# --- CVAT -----------------------------------------------------------------------------

BOX = '<box label="dog" xtl="40" ytl="2" xbr="50" ybr="12" rotation="90"/>'
MASK = '<mask label="dog" rle="2,3,3,2" left="20" top="30" width="5" height="2"/>'


def test_cvat_shapes_become_objects(tmp_path):
  more = f'<image id="1" name="b.jpg" width="{SIZE[1]}" height="{SIZE[0]}"/>'
  content = cvat(
    polygon(group_id=3),
    polygon(points=[[40, 30], [50, 30], [50, 40], [40, 40]], group_id=3),
    BOX,
    MASK,
    '<ellipse label="dog" cx="10" cy="32" rx="8" ry="4"/>',
    '<points label="nose" points="1,1"/>',
    '<tag label="dog"/>',
    more=more,
  )
  write(tmp_path / 'mine', {'sub/a.jpg': jpeg(1, SIZE), 'b.jpg': jpeg(2, SIZE)})
  (tmp_path / 'annotations.xml').write_bytes(content)
  given = OwnData('cvat', tmp_path / 'mine', (tmp_path / 'annotations.xml',))
  built = build('mine', None, tmp_path / 'data', own=given)
  assert built.examples == {'val': 1, 'train': 1}
  data = tmp_path / 'data'
  found = area_of(data, 'mine', 'sub/a', 'val')
  assert [name for name, _ in found] == ['cat', 'dog', 'dog', 'dog']
  assert [area for _, area in found[:3]] == [500, 100, 5]
  assert found[3][1] == pytest.approx(np.pi * 32, rel=0.1)
  notes = '\n'.join(built.notes)
  for part in ('enclose nothing', 'rectangles, taken', 'without an object'):
    assert part in notes
  view = find_view('mine/panoptic', data)
  assert view.class_names() == ('cat', 'dog')
  assert view.words().classes[0].color == (255, 0, 16)
  # The runs of a mask go row by row in its box.
  example = decode(open_source(view, 'val', data)[0], view, crowd=True)
  assert (example.segments[30, 22:25] >= 0).all()
  assert (example.segments[31, 23:25] >= 0).all()
  assert example.segments[30, 20] == -1
  assert problems_of(data) <= {'many-unlabelled'}


@pytest.mark.parametrize(
  ('content', 'part'),
  [
    (b'<annotations>', 'not valid XML'),
    (b'<annotations/>', 'lists no image'),
    (HEAD.encode() + b'<track id="0"/></annotations>', "'CVAT for video'"),
    (cvat(polygon(points=[[1, 2], [3, 'x']][:1])), 'none of 1 photos'),
    (cvat('<polygon label="cat" points="1,2;3"/>'), "'points' is not"),
    (cvat('<polygon points="1,2;3,4"/>'), "has no 'label'"),
    (cvat(MASK.replace('2,3,3,2', '2,2,1')), 'cover 5 pixels, and its box is 5 x 2'),
    (cvat(MASK.replace('2,3,3,2', '')), 'not run lengths'),
    (
      cvat(MASK.replace('2,3,3,2', ','.join([str(2**62)] * 4))),
      f'cover {2**64} pixels',
    ),
    (cvat(BOX.replace('xtl="40"', '')), "'xtl' is"),
    (cvat(polygon(), names=('nowhere.jpg',)), r'nowhere\.jpg'),
    (cvat(polygon(), size=(0, 5)), '5 x 0 pixels'),
    (cvat(MASK, size=(10**6, 10**6)), '1000000 x 1000000 pixels: export'),
  ],
)
def test_mistakes_in_cvat_files(tmp_path, content, part):
  write(tmp_path, {'sub/a.jpg': jpeg(1, SIZE), 'annotations.xml': content})
  with pytest.raises((ValueError, FileNotFoundError), match=part):
    open_own(OwnData('cvat', tmp_path))


# --- Label Studio ---------------------------------------------------------------------


@pytest.mark.parametrize(
  'name',
  [
    'images/4b1a2c3d-a%20b.jpg',
    'images\\4b1a2c3d-a b.jpg',
    '..\\..\\label-studio\\media\\upload\\1\\4b1a2c3d-a b.jpg',
    '/data/local-files/?d=photos/a%20b.jpg',
    'a b.jpg',
  ],
)
def test_names_as_label_studio_exports_them(tmp_path, name):
  write(tmp_path / 'photos', {'a b.jpg': jpeg(1, SIZE)})
  write(tmp_path / 'photos', {'empty.jpg': jpeg(2, SIZE)})
  content = {
    'images': [
      {'id': number, 'file_name': file, 'width': SIZE[1], 'height': SIZE[0]}
      for number, file in enumerate((name, 'empty.jpg'))
    ],
    'categories': [{'id': 0, 'name': 'cat'}],
    'annotations': [
      {
        'id': 0,
        'image_id': 0,
        'category_id': 0,
        'segmentation': [[v for point in SQUARE for v in point]],
        'bbox': [10, 5, 20, 20],
        'ignore': 0,
        'iscrowd': 0,
        'area': 400,
      }
    ],
  }
  write(tmp_path / 'export', {'result.json': json.dumps(content).encode()})
  labels = tmp_path / 'export' / 'result.json'
  found = open_own(OwnData('coco', tmp_path / 'photos', (labels,)))
  assert found.splits['train'][0].file.name == 'a b.jpg'
  assert 'photos without an object, kept as such: 1, such as empty.jpg' in found.notes
