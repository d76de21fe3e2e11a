"""Pictures of results: colours, letters, labels and the panel."""

import functools
import itertools
import time

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from maskclip_jax.miniature import words
from maskclip_jax.postprocess.panoptic import Segment
from maskclip_jax.results import prediction
from maskclip_jax.results.lettering import (
  LabelPlacer,
  Run,
  drawable,
  installed_fonts,
)
from maskclip_jax.results.overlay import DrawnRegion, LegendRow, draw
from maskclip_jax.results.palette import class_colors, object_color, text_color
from maskclip_jax.text.vocabulary import Vocabulary

RED, BLUE = (230, 60, 60), (60, 90, 230)


def regions(count, label='word'):
  colors = class_colors([f'class {i}' for i in range(count)])
  return [
    DrawnRegion(i + 1, tuple(map(int, color)), bool(i % 2), drawable(f'{label} {i}', i))
    for i, color in enumerate(colors)
  ]


def legend(parts):
  return [LegendRow(r.color, r.label, '12%') for r in parts]


def blocks(height, width, count):
  """A map cut into `count` columns and rows of regions."""
  side = int(np.ceil(np.sqrt(count)))
  rows = np.arange(height)[:, None] * side // height
  columns = np.arange(width)[None] * side // width
  return np.minimum(rows * side + columns, count - 1) + 1


def grey(height, width, value=128):
  return np.full((height, width, 3), value, np.uint8)


# --- colours --------------------------------------------------------------------------


def test_a_class_keeps_its_colour_in_every_small_vocabulary():
  alone = class_colors(['cat'])[0]
  with_others = class_colors(['cat', 'sofa', 'floor', 'wall'])[0]
  np.testing.assert_array_equal(alone, with_others)


@pytest.mark.parametrize('count', [2, 8, 21])
def test_colours_of_a_vocabulary_differ(count):
  colors = class_colors([f'thing {i}' for i in range(count)])
  lab = cv2.cvtColor(np.float32(colors[None]) / 255, cv2.COLOR_RGB2Lab)[0]
  # CIE76 differences above 10 are plain to see side by side.
  nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))
  assert nearest > 10


def test_hundreds_of_classes_have_distinct_colours():
  colors = class_colors([f'class {i}' for i in range(847)])
  assert len({tuple(c) for c in colors.tolist()}) > 800


def test_colours_of_a_data_set_are_used():
  colors = class_colors(['road', 'sky'], [(128, 64, 128), None])
  assert colors[0].tolist() == [128, 64, 128]
  np.testing.assert_array_equal(colors[1], class_colors(['sky'])[0])


def test_objects_of_a_class_vary_around_its_colour():
  base = class_colors(['person'])[0]
  assert object_color(base, 0) == tuple(base.tolist())
  varied = [object_color(base, i) for i in range(12)]
  assert len(set(varied)) == 12


@pytest.mark.parametrize('color', [(30, 76, 232), (252, 222, 24), (246, 246, 246)])
def test_shades_keep_the_hue_and_the_first_are_plain_to_see(color):
  shades = np.array([object_color(color, i) for i in range(3)])
  lab = cv2.cvtColor(np.float32(shades[None]) / 255, cv2.COLOR_RGB2Lab)[0]
  assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 8
  hue = np.arctan2(lab[:, 2], lab[:, 1])
  if np.hypot(*lab[0, 1:]) > 5:  # White has none.
    # A tenth of a turn is from blue to purple.
    assert np.abs(np.angle(np.exp(1j * (hue - hue[0])))).max() < 0.1 * 2 * np.pi


def test_a_class_that_names_a_colour_has_it():
  disk, star, car, other = class_colors(
    ['blue disk', 'Blue star', 'red car', 'bluebell']
  )
  assert disk.argmax() == star.argmax() == 2
  assert disk.tolist() != star.tolist()
  assert car.argmax() == 0
  np.testing.assert_array_equal(other, class_colors(['bluebell'])[0])


def test_things_of_the_generated_world_have_their_own_colours():
  for name in words.vocabulary_names():
    vocabulary = Vocabulary.named(name)
    assert all(category.color is not None for category in vocabulary.classes)
    blue = [c.color for c in vocabulary.classes if 'blue' in c.name.split()]
    assert all(np.argmax(color) == 2 for color in blue)
    assert len(set(blue)) == len(blue)


def test_text_stands_out():
  assert text_color((250, 240, 120)) == (0, 0, 0)
  assert text_color((20, 40, 120)) == (255, 255, 255)


# --- letters --------------------------------------------------------------------------


NAMES = {
  'cyrillic': 'рыжий кот',
  'chinese': '猫',
  'japanese': 'ねこ',
  'korean': '고양이',
  'arabic': 'قطة سوداء',
  'devanagari': 'बिल्ली',
  'thai': 'แมว',
  'emoji': '🐱',
}


def test_latin_words_use_the_built_in_font():
  assert drawable('traffic light', 3).runs == (Run('traffic light'),)


@pytest.mark.parametrize('script', sorted(NAMES))
@pytest.mark.skipif(not installed_fonts(), reason='needs the extra fonts')
def test_the_fonts_of_the_extra_have_every_script(script):
  wording = drawable(NAMES[script], 3)
  assert wording.text == NAMES[script]
  # One run: letters that join, or are written from the right, stay together.
  (run,) = wording.runs
  assert run.font in installed_fonts()
  width, height = wording.measure(40)
  canvas = Image.new('L', (width + 40, 80))
  wording.write(ImageDraw.Draw(canvas), (20, 40), 40, 255)
  rows, columns = np.nonzero(np.asarray(canvas))
  assert abs(columns.min() - 20) < 8
  assert abs(columns.max() - 20 - width) < 8
  # Written in the middle of its line, and no higher than it says.
  assert abs((rows.min() + rows.max()) / 2 - 40) < 12
  assert rows.max() - rows.min() <= height


@pytest.mark.skipif(not installed_fonts(), reason='needs the extra fonts')
def test_a_name_in_several_scripts_is_set_in_several_fonts():
  wording = drawable('cat 猫', 0) + ' 2'
  assert wording.text == 'cat 猫 2'
  assert [run.text for run in wording.runs] == ['cat ', '猫', ' 2']


def test_words_the_built_in_font_lacks_never_become_boxes():
  assert drawable('café', 3, fonts=()).text == 'cafe'
  assert drawable('猫', 7, fonts=()).text == '#7'
  assert not drawable('猫', 7, fonts=('no-such-font.ttf',)).spelled
  assert drawable('🐱', 7, fonts=()).text == 'cat face'
  assert drawable('кот', 1).text in ('кот', '#1')


def test_a_number_in_place_of_a_name_is_told(monkeypatch):
  monkeypatch.setattr(prediction, 'drawable', functools.partial(drawable, fonts=()))
  ids = np.ones((64, 64), int)
  found = prediction.Prediction(
    (64, 64), ('cat', '猫'), (True, True), semantic=ids, photo=grey(64, 64)
  )
  with pytest.warns(UserWarning, match=r'#1 is 猫.*maskclip_jax\[fonts\]'):
    found.overlay()


def test_long_names_lose_their_middle():
  long = 'a photograph of a very old chair that stands in the '
  kitchen, garden = (drawable(long + room, 0) for room in ('kitchen', 'garden'))
  assert len(kitchen.shortened().text) == 32
  assert kitchen.shortened().text.startswith('a photograph of')
  assert kitchen.shortened().text.endswith('the kitchen')
  lines = [line.text for line in garden.lines()]
  assert ' '.join(lines) == long + 'garden'
  assert max(map(len, lines)) <= 32
  endless = [line.text for line in drawable('x' * 500, 0).lines()]
  assert len(endless) <= 3
  assert '...' in ''.join(endless)


# --- pictures -------------------------------------------------------------------------


def test_segments_are_tinted_and_the_rest_stays():
  ids = np.zeros((900, 900), int)
  ids[100:800, 100:400] = 1
  photo = grey(900, 900)
  picture = draw(photo, ids, [DrawnRegion(1, RED, True, None)], [])
  assert picture.shape == photo.shape
  np.testing.assert_array_equal(picture[:90], photo[:90])
  np.testing.assert_array_equal(picture[:, 420:], photo[:, 420:])
  inside = picture[450, 250].astype(int)
  assert inside[0] > 150
  assert inside[2] < 110
  # The border is lighter than either side of it.
  assert picture[450, 96:104].astype(int).sum(-1).max() > 600


def test_ids_without_a_region_are_left_alone():
  ids = np.full((900, 900), 7)
  picture = draw(grey(900, 900), ids, [DrawnRegion(3, RED, True, None)], [])
  np.testing.assert_array_equal(picture, grey(900, 900))


def test_grey_photos_are_drawn():
  picture = draw(np.full((64, 64), 90, np.uint8), blocks(64, 64, 4), regions(4), [])
  assert picture.shape[2] == 3


@pytest.mark.parametrize(
  'size', [(1, 1), (1, 400), (400, 1), (30, 3000), (3000, 30), (17, 900)]
)
def test_any_size_is_drawn_and_the_panel_never_hides_the_photo(size):
  parts = regions(4)
  ids = blocks(*size, 4)
  picture = draw(grey(*size), ids, parts, legend(parts))
  alone = draw(grey(*size), ids, parts, [])
  np.testing.assert_array_equal(picture[: alone.shape[0], : alone.shape[1]], alone)
  assert picture.shape[0] > alone.shape[0] or picture.shape[1] > alone.shape[1]


def test_small_pictures_are_enlarged():
  parts = regions(1)
  assert min(draw(grey(10, 8), np.ones((10, 8), int), parts, []).shape[:2]) >= 640


def test_small_segments_get_no_label():
  ids = np.ones((900, 900), int)
  ids[300:306, 300:306] = 2
  named = [
    DrawnRegion(1, RED, False, None),
    DrawnRegion(2, BLUE, True, drawable('elephant', 0)),
  ]
  silent = [DrawnRegion(1, RED, False, None), DrawnRegion(2, BLUE, True, None)]
  photo = grey(900, 900)
  np.testing.assert_array_equal(
    draw(photo, ids, named, []), draw(photo, ids, silent, [])
  )


def test_an_object_without_room_for_its_name_has_its_number():
  ids = np.zeros((900, 900), int)
  ids[300:360, 300:360] = 1
  photo = grey(900, 900)
  label, number = drawable('a very long name 2', 0), drawable('2', 0)
  silent = draw(photo, ids, [DrawnRegion(1, BLUE, True, label)], [])
  numbered = draw(photo, ids, [DrawnRegion(1, BLUE, True, label, number)], [])
  rows, columns = np.nonzero((numbered != silent).any(-1))
  assert 300 < rows.min() < rows.max() < 360
  assert 300 < columns.min() < columns.max() < 360


def test_labels_change_the_picture_inside_their_segment_only():
  ids = np.zeros((900, 900), int)
  ids[200:600, 200:700] = 1
  photo = grey(900, 900)
  named = draw(photo, ids, [DrawnRegion(1, RED, True, drawable('cat', 0))], [])
  silent = draw(photo, ids, [DrawnRegion(1, RED, True, None)], [])
  rows, columns = np.nonzero((named != silent).any(-1))
  assert len(rows)
  assert rows.min() > 200
  assert rows.max() < 600
  assert columns.min() > 200
  assert columns.max() < 700


def test_labels_stay_inside_and_never_overlap():
  rng = np.random.default_rng(0)
  placer = LabelPlacer(500, 700)
  boxes = []
  for _ in range(60):
    left, top = rng.integers(0, 600), rng.integers(0, 400)
    region = np.zeros((500, 700), bool)
    region[top : top + 120, left : left + 150] = True
    width, height = int(rng.integers(20, 110)), int(rng.integers(10, 40))
    corner = placer.place(placer.thin(region), width, height)
    if corner is not None:
      boxes.append((*corner, corner[0] + width, corner[1] + height))
  assert len(boxes) > 20
  for left, top, right, bottom in boxes:
    assert left >= 0
    assert top >= 0
    assert right <= 700
    assert bottom <= 500
  for a, b in itertools.combinations(boxes, 2):
    assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_that_fits_nowhere_is_left_out():
  placer = LabelPlacer(100, 100)
  everywhere = np.ones((100, 100), bool)
  assert placer.place(everywhere, 101, 10) is None
  assert placer.place(everywhere, 90, 90) is not None
  assert placer.place(everywhere, 30, 30) is None


def test_a_long_legend_says_how_many_it_hides():
  parts = regions(150)
  ids = blocks(480, 640, 150)
  few = draw(grey(480, 640), ids, parts, legend(parts[:3]))
  many = draw(grey(480, 640), ids, parts, legend(parts))
  assert many.shape[0] == few.shape[0] == 480
  # The last line of the panel is written on only if the list goes on.
  assert many[-40:, -100:].max() > 100
  assert few[-40:, -100:].max() < 50


def test_two_of_a_class_are_told_apart():
  ids = np.zeros((900, 900), int)
  ids[100:400, 100:800], ids[500:800, 100:800] = 1, 2
  found = prediction.Prediction(
    (900, 900),
    ('person',),
    (True,),
    panoptic=ids,
    segments=tuple(Segment(i, 0, True, 0.9, 210000, i) for i in (1, 2)),
    photo=grey(900, 900),
  )
  picture = found.overlay()
  first, second = picture[380, 450].astype(int), picture[780, 450].astype(int)
  assert np.abs(first - second).max() > 15
  regions, _ = found._regions([(1, 0, 210000, None), (2, 0, 210000, None)], count=True)
  assert [region.label.text for region in regions] == ['person 1', 'person 2']


@pytest.mark.parametrize('value', [20, 235])
def test_a_chip_looks_like_its_region_on_light_and_dark_photos(value):
  ids = np.ones((900, 900), int)
  region = DrawnRegion(1, RED, True, None)
  row = LegendRow(RED, drawable('cat', 0), '100%', (1,))
  picture = draw(grey(900, 900, value), ids, [region], [row])
  seen = picture[450, 450].astype(int)
  panel = picture[:100, 900:].reshape(-1, 3).astype(int)
  # Some of the chip has exactly this colour, and its border that of the class.
  assert (np.abs(panel - seen).max(-1) <= 1).sum() > 50
  assert (np.abs(panel - RED).max(-1) == 0).sum() > 20


def test_the_tint_lets_the_photo_through():
  photo = grey(900, 900)
  photo[:, 450:] = 20, 40, 220
  ids = np.ones((900, 900), int)
  picture = draw(photo, ids, [DrawnRegion(1, RED, True, None)], [])
  seen = picture[100, 800].astype(int)
  assert seen[2] > seen[0] + 20


@pytest.mark.parametrize('scale', [1, 3])
def test_a_picture_of_a_scale_lies_over_the_photo(scale):
  parts = regions(4)
  picture = draw(grey(40, 60), blocks(40, 60, 4), parts, legend(parts), scale=scale)
  assert picture.shape == (40 * scale, 60 * scale, 3)
  with pytest.raises(ValueError, match=r'1, 2, \.\.\. times'):
    draw(grey(40, 60), blocks(40, 60, 4), parts, [], scale=0)


def test_photo_and_map_must_fit():
  with pytest.raises(ValueError, match='does not fit ids of'):
    draw(grey(8, 8), np.zeros((8, 9), int), [], [])
  with pytest.raises(ValueError, match='must be 8-bit RGB'):
    draw(np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8), int), [], [])


@pytest.mark.slow
def test_24_megapixels_and_150_classes():
  parts = regions(150)
  ids = blocks(4000, 6000, 150)
  start = time.perf_counter()
  picture = draw(grey(4000, 6000), ids, parts, legend(parts))
  print(f'drawn in {time.perf_counter() - start:.1f} s')
  assert picture.shape[0] == 4000
  # The panel takes a minor part of the width.
  assert 6000 < picture.shape[1] < 8000
