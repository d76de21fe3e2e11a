"""The miniature world: its words, and that pictures show what their labels say."""

import itertools
import json
import pathlib
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskclip_jax.data.records import read_label_map
from maskclip_jax.miniature import examples, layout, pairs, words
from maskclip_jax.miniature.drawing import SCENE, draw
from maskclip_jax.miniature.plans import Ground, Plan, Thing
from maskclip_jax.miniature.styles import draw_style
from maskclip_jax.text import library, tokenizer
from maskclip_jax.text.vocabulary import Vocabulary

STRENGTHS = (0.0, 0.5, 1.0)


def test_every_pair_of_attributes_is_among_the_base_words():
  assert sum(kind.novel for kind in words.kinds()) == 36
  base = [kind for kind in words.kinds() if not kind.novel]
  lengths = {'shape': 3, 'colour': 9, 'pattern': 4}
  for one, two in itertools.combinations(lengths, 2):
    seen = {(getattr(kind, one), getattr(kind, two)) for kind in base}
    assert len(seen) == lengths[one] * lengths[two]


def test_far_things_have_what_no_base_thing_has():
  groups = {group: [] for group in ('base', 'near', 'far')}
  for kind in words.kinds():
    groups[kind.group('far')].append(kind)
  base, near, far = groups.values()
  assert (len(base), len(near), len(far)) == (36, 18, 54)
  # What is left of either is what it was.
  assert not any(kind.novel for kind in base)
  assert all(kind.novel for kind in near)
  colours, patterns = (
    {getattr(k, part) for k in base} for part in ('colour', 'pattern')
  )
  assert all(k.colour not in colours or k.pattern not in patterns for k in far)
  assert all(k.colour in colours and k.pattern in patterns for k in near)
  assert {k.shape for k in base} == {k.shape for k in far} == {0, 1, 2}


def test_numbers_and_names_are_one_to_one():
  assert [kind.number for kind in words.kinds()] == list(range(108))
  assert len({kind.name for kind in words.kinds()}) == 108
  assert words.Kind(2, 0, 1).name == 'striped red star'
  assert words.Kind(2, 0, 0).name == 'red star'


@pytest.mark.parametrize('name', words.vocabulary_names())
def test_vocabulary_files_are_what_the_world_says(name):
  """To write them again: save `words.vocabulary_file(name)`."""
  file = pathlib.Path(library.__file__).parent / 'vocabularies' / f'{name}.json'
  assert file.read_text() == words.vocabulary_file(name)


def test_vocabularies_are_parts_of_the_whole():
  whole = Vocabulary.named('miniature-116')
  assert whole.things.tolist() == [True] * 108 + [False] * 8
  names = {c.id: c for c in whole.classes}
  for name in words.vocabulary_names():
    classes = Vocabulary.named(name).classes
    assert [c.id for c in classes] == sorted(c.id for c in classes)
    assert all(names[c.id] == c for c in classes)
  # No word means two classes, or nearly.
  assert not [line for line in whole.check() if 'only class' not in line]


def _decode(data):
  return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize('split', ['train', 'test', 'shifted'])
def test_scenes_keep_their_promises(split):
  for index in range(12):
    record = examples.scene(0, split, index)
    assert _decode(record['image']).shape == (SCENE, SCENE, 3)
    segments = read_label_map(record['segments'])
    table = record['segments_info']
    assert segments.min() == 1  # Every pixel is labelled.
    semantic = np.append(0, table['category_id'])[segments]
    assert np.array_equal(semantic, read_label_map(record['semantic']))
    things = table['category_id'] <= 108
    assert layout.COUNTS[0] <= things.sum() <= layout.COUNTS[-1]
    stuff = table['category_id'][~things]
    assert len(set(stuff.tolist())) == len(stuff)
    assert np.array_equal(record['instances']['id'], table['id'][things])
    for row, text in enumerate(record['instances']['segmentation']):
      mask = coco_mask.decode(json.loads(text)).astype(bool)
      assert np.array_equal(mask, segments == row + 1)
      assert mask.sum() == table['area'][row] >= layout.PIXELS
    assert 2 <= len(record['captions']) <= 3


def test_things_stay_visible():
  """To the pixel, though plans are made on a raster."""
  for index in range(60):
    rng = np.random.default_rng(index)
    plan = layout.draw_plan(rng)
    drawing = draw(plan, draw_style(rng, 0.0), rng)
    for number, thing in enumerate(plan.things):
      seen = np.count_nonzero(drawing.things == number)
      assert seen >= layout.SEEN * thing.area * SCENE**2
      assert seen >= layout.PIXELS
    found = np.bincount(drawing.things[drawing.things >= 0], minlength=len(plan.things))
    assert plan.visible() == pytest.approx(
      found / SCENE**2 / [thing.area for thing in plan.things], abs=0.08
    )


def test_kinds_are_balanced():
  """Each kind is the start of a scene equally often."""
  firsts = [examples.turn(0, 'train', index, 108) for index in range(324)]
  assert np.bincount(firsts).tolist() == [3] * 108
  rng = np.random.default_rng(0)
  all_ = [
    thing.kind for first in firsts for thing in layout.draw_plan(rng, first).things
  ]
  counts = np.bincount([kind.number for kind in all_], minlength=108)
  mean = len(all_) / 108
  assert (abs(counts - mean) < 5 * np.sqrt(mean)).all()
  assert 2.7 < len(all_) / len(firsts) < 3.1


@pytest.mark.parametrize('strength', STRENGTHS)
def test_colours_stay_true(strength):
  """In any style, a plain thing is nearest to its own colour, in hue and paleness."""
  none = np.full((128, 128), -1, np.int8)
  ground = (Ground(5, 0.0, 0.0, 0.0, 1.0),)
  fills = np.array([[colour.fill for colour in words.COLOURS]], np.uint8)
  own = _hue_and_paleness(fills)[0]
  for seed in range(12):
    rng = np.random.default_rng(seed)
    style = draw_style(rng, strength)
    for number in range(len(words.COLOURS)):
      kind = words.Kind(0, number, 0)
      thing = Thing(kind, 0.5, 0.5, 0.4, 0.0, (0, 0, 0), (0, 0), 0.0)
      drawing = draw(Plan(ground, (), (thing,), none), style, rng, side=64)
      mean = drawing.image[drawing.things == 0].mean(0).round().astype(np.uint8)
      distance = np.linalg.norm(own - _hue_and_paleness(mean[None, None])[0, 0], axis=1)
      assert distance.argmin() == number, (seed, words.COLOURS[number].name)


def _hue_and_paleness(rgb):
  """Colour without brightness, so that light may change."""
  lab = cv2.cvtColor((rgb / np.float32(255)), cv2.COLOR_RGB2LAB)
  return lab[..., 1:] / np.maximum(lab[..., :1], 1)


def test_patterns_show_at_the_smallest_size():
  """The smallest thing, 87 pixels, seen at half the size has light and dark marks."""
  none = np.full((128, 128), -1, np.int8)
  ground = (Ground(5, 0.0, 0.0, 0.0, 1.0),)
  for shape, colour in itertools.product(range(3), range(9)):
    spread = []
    for pattern in range(4):
      rng = np.random.default_rng(1)
      kind = words.Kind(shape, colour, pattern)
      thing = Thing(kind, 0.5, 0.5, layout.SMALLEST, 0.0, (0, 0, 0), (0.3, 0.3), 0.4)
      style = draw_style(rng, 0.0)
      drawing = draw(Plan(ground, (), (thing,), none), style, rng, side=112)
      inside = drawing.image[drawing.things == 0].astype(float)
      spread.append(inside.std(0).max())
    assert min(spread[1:]) > 1.5 * spread[0]


def _fingerprints():
  records = [examples.scene(0, split, 5) for split in ('train', 'test', 'shifted')]
  records += [pairs.pair(0, index) for index in range(6)]
  records += [pairs.photo(0, index) for index in range(6)]
  return [[hash_of(r['image']), r['captions']] for r in records]


def hash_of(data):
  return int(np.frombuffer(data, np.uint8).astype(np.int64) @ np.arange(len(data)))


def test_another_process_draws_the_same():
  code = 'import json, test_world; print(json.dumps(test_world._fingerprints()))'
  printed = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    cwd=__file__.rpartition('/')[0],
    env={'PYTHONPATH': ':'.join(sys.path), 'PYTHONHASHSEED': '7'},
  ).stdout
  ours = _fingerprints()
  assert json.loads(printed) == ours
  assert len({json.dumps(row) for row in ours}) == len(ours)
  assert hash_of(examples.scene(1, 'train', 5)['image']) != ours[0][0]


def test_pairs():
  kinds = {kind.name for kind in words.kinds()}
  subsets, close = [], 0
  for index in range(60):
    record = pairs.pair(0, index)
    assert _decode(record['image']).shape == (pairs.SIDE, pairs.SIDE, 3)
    assert len(record['captions']) == 4
    assert not record['segments']
    subset = record['subsets'][0]
    subsets.append(subset)
    if subset == 'thing':
      named = record['captions'][1]
      assert named in kinds
      assert named.split()[-1] in record['captions'][0]
    for caption in record['captions']:
      assert len(tokenizer.encode(caption)) + 2 <= 77
    close += 'close' in record['subsets']
    assert subset == 'thing' or 'close' not in record['subsets']
  assert [subsets.count(name) for name in ('thing', 'stuff', 'scene')] == [42, 6, 12]
  # Half are drawn close, and two fifths of the others are by chance.
  assert 20 <= close <= 38


_SHAPE = r'disk|circle|bar|stick|star'


def test_photos_are_taken_from_afar():
  subsets, several = [], 0
  for index in range(40):
    record = pairs.photo(0, index)
    assert _decode(record['image']).shape == (pairs.SIDE, pairs.SIDE, 3)
    assert len(record['captions']) == 4
    subset = record['subsets'][0]
    subsets.append(subset)
    if subset == 'scene':
      # The second caption names all things, the third one of them.
      _, all_, one, _ = (re.findall(_SHAPE, text) for text in record['captions'])
      assert len(one) == 1
      several += len(all_) > 1
  assert [subsets.count(name) for name in ('scene', 'stuff')] == [36, 4]
  # A scene has two things or more; few are alike, and few lie outside the photo.
  assert several >= 29


def test_captions_name_what_is_there():
  """The first caption of a scene names each kind of thing and each ground."""
  for index in range(10):
    record = examples.scene(0, 'test', index)
    classes = Vocabulary.named('miniature-116').classes
    first = record['captions'][0]
    for category in record['segments_info']['category_id'].tolist():
      name = classes[category - 1].name
      assert name in first
