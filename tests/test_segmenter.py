"""The Segmenter: every system by words, and what must not compile again."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import maskclip_jax
from maskclip_jax import zoo
from maskclip_jax.batches import DeviceClock
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.system import Preset

OPEN = ('masqclip_tiny', 'maskclip_tiny', 'clip_baseline_tiny', 'ovseg_tiny')
# Random weights are sure of nothing.
LOOSE = {'object_threshold': 0.0, 'overlap_threshold': 0.0}


def photo(height, width, seed=0):
  """Smooth colours, so that masks have shapes."""
  coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
  image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(image)


@pytest.fixture(scope='module')
def segmenter():
  return Segmenter.from_preset('masqclip_tiny')


@pytest.mark.parametrize('preset', OPEN)
def test_every_open_system_does_every_task(preset):
  tasks = ('panoptic', 'semantic', 'instance')
  model, words = Segmenter.from_preset(preset), 'cat; sofa, couch; stuff:floor'
  found = model(photo(60, 90), words, tasks, **LOOSE)
  assert found.size == (60, 90)
  assert found.names == ('cat', 'sofa', 'floor')
  assert found.things == (True, True, False)
  assert set(np.unique(found.semantic)) <= {0, 1, 2}
  ids = {segment.id for segment in found.segments}
  assert set(np.unique(found.panoptic)) - {0} <= ids
  assert found.instances
  assert all(found.things[d.class_index] for d in found.instances)
  # What says 'no object' gives way to classes, by a number and no other program.
  programs = model.compilations()
  bolder = model(photo(60, 90), words, 'instance', coat=0.5, **LOOSE)
  assert model.compilations() == programs
  before, after = (sum(d.score for d in one.instances) for one in (found, bolder))
  # With these weights the words of OVSeg's proposals hardly leave anything to it.
  assert after > before * (1 - 1e-6 if preset == 'ovseg_tiny' else 1.001)


def test_a_closed_model_knows_its_own_words_only():
  segmenter = Segmenter.from_preset('mask2former_tiny')
  found = segmenter(photo(60, 90), task='semantic')
  assert len(found.names) == 133
  with pytest.raises(ValueError, match='knows only its own vocabulary'):
    segmenter(photo(60, 90), 'cat')


def test_one_program_for_vocabularies_and_sizes(segmenter):
  """Five vocabularies of 3 to 60 words, three photo sizes in a bucket: one program."""
  words = [f'{a} {b}' for a in ('red', 'blue', 'old') for b in map(str, range(20))]
  outputs = ('panoptic', 'semantic', 'instance')
  for count in (3, 10, 20, 40, 60):
    vocabulary = '; '.join(words[:count])
    for size in ((60, 90), (64, 88), (50, 77)):
      segmenter(photo(*size), vocabulary, outputs)
  assert segmenter.compilations() == {'forward': 1, 'encode_text': 1}
  compiled = []
  listen = lambda event, *_, **__: compiled.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    segmenter(photo(61, 91), '; '.join(words[5:33]), outputs)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert '/jax/core/compile/backend_compile_duration' not in compiled


@pytest.mark.parametrize(
  'size', [(1, 1), (1, 300), pytest.param((300, 1), marks=pytest.mark.slow)]
)
def test_extreme_sizes(segmenter, size):
  found = segmenter(photo(*size), 'cat; dog', ('panoptic', 'semantic', 'instance'))
  assert found.panoptic.shape == found.semantic.shape == size


@pytest.mark.slow
def test_a_photo_of_12_megapixels(segmenter):
  found = segmenter(photo(3000, 4000), 'cat; dog', 'panoptic', **LOOSE)
  assert found.panoptic.shape == (3000, 4000)


def test_a_photo_lies_in_its_canvas_without_a_trace(segmenter):
  """The same photo with and without room to spare on its canvas."""
  pixels, choices = photo(96, 128), {'short_edge': 96, 'long_edge': 128, **LOOSE}
  words = 'cat; dog; bird'
  found = segmenter(pixels, words, 'semantic', **choices)
  segmenter.canvas_step = 32
  tight = segmenter(pixels, words, 'semantic', **choices)
  del segmenter.canvas_step
  # A pixel may differ only where two classes tie to float32 rounding.
  assert (found.semantic != tight.semantic).mean() < 1e-3


def test_any_image_object(segmenter):
  pixels = photo(40, 50)
  expected = segmenter(pixels, 'cat; dog', 'semantic').semantic
  for same in (
    Image.fromarray(pixels),
    np.dstack([pixels, np.full((40, 50), 255, np.uint8)]),
    pixels.astype(np.uint16) * 257,
    pixels.astype(np.int64),
    pixels.tolist(),
    pixels / 255,
  ):
    np.testing.assert_array_equal(
      segmenter(same, 'cat; dog', 'semantic').semantic, expected
    )


def test_thresholds_are_the_callers_choice(segmenter):
  kept = segmenter(photo(60, 90), 'cat; dog', object_threshold=0.0)
  none = segmenter(photo(60, 90), 'cat; dog', object_threshold=1.0)
  assert kept.segments
  assert not none.segments
  assert not none.panoptic.any()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'vocabulary': ''}, 'vocabulary is empty'),
    ({'vocabulary': None}, 'name what to look for'),
    ({'vocabulary': 'cat', 'task': 'boxes'}, 'task must be among'),
    ({'vocabulary': 'cat', 'object_threshold': 2.0}, r'in \[0, 1\]'),
    ({'vocabulary': 'cat', 'treshold': 0.5}, 'unknown choice treshold: masqclip takes'),
    ({'vocabulary': 'cat', 'short_edge': 0}, 'must be positive'),
    ({'vocabulary': 'cat', 'short_edge': 2.5}, 'short_edge must be int, not 2.5'),
    ({'vocabulary': 'cat', 'long_edge': 10**9}, 'at most 16384'),
    ({'vocabulary': 'cat', 'top_k': 2.5}, 'top_k must be int, not 2.5'),
    ({'vocabulary': 'cat', 'object_threshold': '0.5'}, "must be float, not '0.5'"),
    ({'vocabulary': 'cat', 'task': 5}, 'task must be among'),
    ({'vocabulary': 'cat', 'white': 0}, 'white must be a positive number'),
  ],
)
def test_bad_requests(segmenter, arguments, message):
  with pytest.raises(ValueError, match=message):
    segmenter(photo(20, 20), **arguments)


def test_a_lone_word_has_a_rival_and_others_may_be_asked_for(segmenter):
  def rest(words):
    plan = segmenter.plan(words, 'semantic', region_threshold=0.5)
    names = [category.name for category in plan.words.classes]
    return names, plan.rest(3).tolist()

  assert rest('cat') == (['cat', 'others'], [False, True, False])
  # Of the same name, but a word like any other.
  assert rest('cat; stuff:others') == (['cat', 'others'], [False, False, False])


def test_tasks_in_one_text_and_numbers_of_numpy(segmenter):
  found = segmenter(photo(20, 20), 'cat', 'panoptic, semantic', top_k=np.int64(3))
  assert found.tasks == ('panoptic', 'semantic')


@pytest.mark.parametrize(
  'one',
  [
    'photo.png',
    pathlib.Path('photo.png'),
    photo(20, 30),
    photo(20, 30)[..., 0],
    photo(20, 30).tolist(),
    photo(20, 30)[..., 0].tolist(),
    list(photo(20, 30)),
    Image.fromarray(photo(20, 30)),
    {'a': photo(20, 30)},
    None,
  ],
)
def test_one_photo_is_not_taken_for_a_list(segmenter, one):
  with pytest.raises(ValueError, match='predict takes a list of photos'):
    list(segmenter.predict(one, 'cat'))


def test_lists_of_photos_of_any_kind(segmenter):
  pixels = photo(20, 30)
  for photos in (
    [pixels.tolist()],
    np.stack([pixels]),
    iter([pixels[..., 0]]),
    (pixels[..., :1],),
  ):
    assert len(list(segmenter.predict(photos, 'cat'))) == 1
  assert not list(segmenter.predict([], 'cat'))


def test_what_came_before_a_failing_source_is_delivered(segmenter):
  def camera():
    yield photo(20, 30)
    raise OSError('the camera is gone')

  results = segmenter.predict(camera(), 'cat')
  assert next(results)[1].size == (20, 30)
  with pytest.raises(OSError, match='the camera is gone'):
    next(results)


@pytest.mark.slow
def test_batches_of_a_canvas_give_what_photos_alone_do(segmenter, tmp_path):
  bad = tmp_path / 'bad.png'
  bad.write_text('not an image')
  some = [photo(60, 90), photo(90, 60), bad, photo(61, 90), photo(62, 89)]
  failed, clock = [], DeviceClock()
  found = list(
    segmenter.predict(
      some,
      'cat; dog',
      batch_size=2,
      clock=clock,
      on_error=lambda path, error: failed.append(path),
    )
  )
  # Two of the wide ones fill a batch; the others wait for the end.
  assert failed == [bad]
  sizes = [prediction.size for _, prediction in found]
  assert sizes == [(60, 90), (61, 90), (90, 60), (62, 89)]
  for given, prediction in found:
    alone = segmenter(given, 'cat; dog')
    assert (prediction.panoptic != alone.panoptic).mean() < 1e-3
  assert 0 <= clock.waited() < 1
  with pytest.raises(ValueError, match='batch_size must be 1 or more, not 0'):
    list(segmenter.predict(some, 'cat', batch_size=0))


def test_models_that_cannot_segment_say_so():
  with pytest.raises(ValueError, match='a CLIP alone has no masks'):
    Segmenter.from_preset('clip_vit_tiny')
  preset = zoo.find_preset('mask2former_tiny')
  config = dataclasses.replace(preset.config, num_classes=None)
  with pytest.raises(ValueError, match='no class head'):
    Segmenter.from_preset(dataclasses.replace(preset, config=config))
  with pytest.raises(ValueError, match='float32'):
    Segmenter.from_preset('masqclip_tiny', dtype='float16')


@pytest.mark.slow
def test_bfloat16(segmenter):
  """Half precision changes few decisions of the same model."""
  half = Segmenter.from_preset('masqclip_tiny', dtype='bfloat16')
  arguments = (photo(60, 90), 'cat; dog; bird', 'semantic')
  exact, rounded = segmenter(*arguments), half(*arguments)
  differ = (exact.semantic != rounded.semantic).mean()
  print(f'bfloat16: {differ:.1%} of the pixels differ')
  assert differ < 0.2


def test_load_names_what_is_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match='there is no model'):
    maskclip_jax.load('masqclip_r51')
  with pytest.raises(FileNotFoundError, match='mlpc-ucsd/MasQCLIP'):
    maskclip_jax.load('masqclip_r50_vit_l14_336', cache_dir=tmp_path)
  with pytest.raises(FileNotFoundError, match='masqclip_tiny is made by training'):
    maskclip_jax.load('masqclip_tiny', cache_dir=tmp_path)


def test_a_stream_goes_on_after_a_bad_photo(segmenter, tmp_path):
  good = tmp_path / 'good.png'
  Image.fromarray(photo(30, 40)).save(good)
  bad = tmp_path / 'bad.png'
  bad.write_text('not an image')
  failed = []
  found = segmenter.predict(
    [good, bad, good], 'cat', on_error=lambda path, error: failed.append(path)
  )
  assert [path for path, _ in found] == [good, good]
  assert failed == [bad]
  with pytest.raises(ValueError, match='not an image'):
    list(segmenter.predict([bad], 'cat'))


def test_every_listed_model_has_a_card_and_a_size():
  for name in maskclip_jax.list_models():
    assert zoo.cards()[name].summary
    restored = Preset.from_dict(zoo.presets()[name].to_dict())
    assert restored == zoo.presets()[name]
