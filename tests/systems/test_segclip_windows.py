"""SegCLIP on whole photos: the official map, any size, and what a threshold does."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
import segclip_golden
from flax import nnx

from maskclip_jax.nn.clip import normalize_pixels, unit
from maskclip_jax.photos import resize_photo
from maskclip_jax.postprocess.class_scores import class_probabilities
from maskclip_jax.postprocess.semantic import semantic, semantic_scores
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.resizing import shortest_edge
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Images, Scores, TextBank
from maskclip_jax.systems.segclip import windows
from maskclip_jax.systems.segclip.model import window_classes
from maskclip_jax.text import tokenizer
from maskclip_jax.text.vocabulary import Vocabulary

WINDOW = 64


@functools.cache
def program():
  graphdef, state = nnx.split(segclip_golden.small())
  forward = jax.jit(lambda s, *inputs: nnx.merge(graphdef, s)(*inputs))
  return functools.partial(forward, state)


def bank(embeddings, background=True) -> TextBank:
  """Class vectors, after the class that has none."""
  nothing = np.zeros((int(background), embeddings.shape[1]), np.float32)
  rows = np.concatenate([nothing, embeddings])
  return TextBank.build(rows, [True] * len(rows), void_last=False)


def recorded_bank(**kwargs) -> TextBank:
  return bank(golden.load('segclip')['out/zeroshot/text_embedding'], **kwargs)


def scores_of(outputs, text, row=0):
  return class_probabilities(
    outputs.class_logits[row], text.valid, text.void, outputs.objectness[row]
  )


def recorded_photo():
  """The photo, and as the official pipeline shows it to the network."""
  photo = golden.load('segclip')['in/zeroshot/image_rgb_uint8']
  size = shortest_edge(photo.shape[:2], WINDOW, 2048)
  return photo, resize_photo(photo, *size, 'opencv')


def test_photos_are_resized_as_by_the_official_pipeline():
  _, resized = recorded_photo()
  official = golden.load('segclip')['out/zeroshot/network_input'][0]
  mean = np.float32([122.7709383, 116.7460125, 104.09373615])
  std = np.float32([68.5005327, 66.6321579, 70.32316305])
  ours = ((resized.astype(np.float32) - mean) / std).transpose(2, 0, 1)
  np.testing.assert_array_equal(ours, official)


@pytest.mark.parametrize('threshold', [0.8, 0.2])
def test_the_official_map_of_a_photo(threshold):
  """On a canvas that is larger, where the photo ends inside."""
  g, (photo, resized) = golden.load('segclip'), recorded_photo()
  images = Images.from_arrays([resized], (96, 160))
  text = recorded_bank()
  found = program()(images, text, Scores(background_threshold=threshold))
  geometry = Geometry(
    found.mask_hw[0], images.input_hw[0], resized.shape[:2], photo.shape[:2]
  )
  inputs = found.mask_logits[0], scores_of(found, text), geometry
  run = f'out/zeroshot_slide_bg{threshold}'
  if threshold == 0.8:
    maps = semantic_scores(*inputs, order='scores_first')[:8]
    golden.assert_close(jax.nn.softmax(maps, axis=0), g[f'{run}/prob'][0], name='map')
  labels = semantic(*inputs, order='scores_first')
  np.testing.assert_array_equal(labels, g[f'{run}/label_map'])


def window_starts(side: int, stride: int = 224) -> list[int]:
  images = Images(jnp.zeros((1, 480, 480, 3)), jnp.array([[side, side]]))
  placed = windows.place_windows(images, 224, stride)
  real = np.asarray(placed.real[0])
  assert real[: real.sum()].all()
  rows = np.unique(np.asarray(placed.start[0])[real][:, 0])
  assert real.sum() == len(rows) ** 2
  return rows.tolist()


def test_where_windows_stand():
  assert window_starts(299) == [0, 75]
  assert window_starts(224) == [0]
  assert window_starts(448) == [0, 224]
  assert window_starts(100) == [0]
  assert window_starts(299, stride=112) == [0, 75]
  assert window_starts(336, stride=112) == [0, 112]


def test_every_pixel_of_a_photo_belongs_to_one_group_in_all():
  """Shares of overlapping windows add up to one inside the photo, to none outside."""
  photos = [np.full((h, w, 3), 9, np.uint8) for h, w in ((85, 64), (64, 150), (30, 70))]
  images = Images.from_arrays(photos, (96, 160))
  found = program()(images, recorded_bank(), Scores())
  total = np.asarray(jax.nn.sigmoid(found.mask_logits.logits()).sum(1))
  for row, photo in zip(total, photos, strict=True):
    inside = np.zeros(row.shape)
    inside[: photo.shape[0], : photo.shape[1]] = 1
    np.testing.assert_allclose(row, inside, atol=1e-5)


def test_a_photo_is_segmented_alone_whatever_else_is_in_its_batch():
  """Photos of other sizes, other canvases: one smaller than a window, one of three."""
  rng = np.random.default_rng(0)
  sizes = ((85, 64), (64, 150), (30, 70))
  photos = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]
  text, scores = recorded_bank(), Scores(background_threshold=0.5)
  together = program()(Images.from_arrays(photos, (96, 160)), text, scores)
  for i, photo in enumerate(photos):
    alone = program()(Images.from_arrays([photo], (96, 160)), text, scores)
    np.testing.assert_array_equal(
      np.asarray(together.mask_logits[i]), np.asarray(alone.mask_logits[0])
    )
    golden.assert_close(
      scores_of(together, text, i).probabilities,
      scores_of(alone, text).probabilities,
      name=f'photo {i}',
    )


def similarities(seed=0, columns=64, classes=12):
  """Made-up similarities of three windows and their groups to a bank's classes."""
  rng = np.random.default_rng(seed)
  text = bank(rng.standard_normal((classes, 4)))
  image, groups = (rng.normal(0, 3, (3, n, columns)) for n in (1, 8))
  return jnp.asarray(image[:, 0]), jnp.asarray(groups), text


def test_scores_of_a_window_in_plain_numpy():
  image, groups, text = similarities()
  found = np.exp(window_classes(image, groups, text, 0.5, 5))
  for t in range(3):
    i, g = np.asarray(image[t, 1:13]), np.exp(np.asarray(groups[t, :, 1:13]))
    best = np.argsort(-i)[:5]
    other = np.zeros_like(g)
    other[:, best] = g[:, best]
    p = g / g.sum(1, keepdims=True) * other / other.sum(1, keepdims=True)
    limit = min(0.5, p.max())
    np.testing.assert_allclose(found[t, :, 1:13], p, rtol=1e-4, atol=1e-8)
    np.testing.assert_array_equal(found[t, :, 0], p.max(1) < limit)


def test_the_best_group_of_a_window_is_never_background():
  image, groups, text = similarities()
  logits = window_classes(image, groups, text, 1.0, 5)
  background = np.asarray(logits[..., 0]) == 0
  best = np.asarray(logits[..., 1:]).max(-1).argmax(1)
  assert not background[np.arange(3), best].any()
  assert background.sum() == 3 * 7


def test_without_a_class_for_it_nothing_is_background():
  """As where 'background' is a word like the others."""
  rng = np.random.default_rng(0)
  text = bank(rng.standard_normal((12, 4)), background=False)
  image, groups, _ = similarities()
  logits = window_classes(image, groups, text, 1.0, 5)
  assert np.isfinite(np.asarray(logits).max(-1)).all()
  assert np.asarray(logits).max() < 0


@functools.cache
def segmenter() -> Segmenter:
  return Segmenter.from_preset('segclip_tiny')


def test_photos_words_and_thresholds_share_a_program():
  rng = np.random.default_rng(0)
  model = segmenter()
  for size, words, threshold in (
    ((70, 100), 'stuff:background; cat', 0.5),
    ((100, 90), 'stuff:background; a red dog; bird', 0.9),
    ((64, 96), 'stuff:wall; bird', 0.0),
  ):
    photo = rng.integers(0, 256, (*size, 3), np.uint8)
    found = model(
      photo, words, ('semantic', 'panoptic'), background_threshold=threshold
    )
    assert found.semantic.shape == found.panoptic.shape == size
  assert model.compilations()['forward'] == 1


def test_the_background_is_a_class_without_words_or_a_word():
  text = segmenter().text_bank(segmenter().vocabulary('background; cat'))
  assert not np.asarray(text.embeddings[0]).any()
  words = segmenter().vocabulary('background; cat').treated('segclip_word')
  text = segmenter().text_bank(words)
  assert np.asarray(text.embeddings[:2]).any(1).all()
  with pytest.raises(ValueError, match="'background' is what other classes leave"):
    segmenter().text_bank(segmenter().vocabulary('background'))


def test_objects_are_pieces_of_the_semantic_map():
  photo = golden.photo('coffee.png', (96, 64))
  tasks = ('semantic', 'panoptic', 'instance')
  found = segmenter()(photo, 'stuff:background; cat; stuff:floor', tasks)
  for segment in found.segments:
    inside = found.panoptic == segment.id
    assert inside.sum() == segment.area
    assert (found.semantic[inside] == segment.class_index).all()
  assert (found.panoptic > 0).all()
  assert {found.names[one.class_index] for one in found.instances} <= {'cat'}


@pytest.mark.full_size
def test_full_size():
  """ViT-B/16 with seeded weights gives the recorded features and map."""
  model, record = segclip_golden.full_size()
  names = golden.load('segclip')['meta/toy_names'].tolist()
  words = Vocabulary.parse(names, 'segclip')
  tokens = tokenizer.tokenize(words.prompts()[0])
  expected = record['outputs']['zero_shot']
  vectors = unit(official.run(model.clip.text, tokens))
  golden.assert_matches_samples(vectors, expected['text_embedding'], name='text')
  text = bank(vectors)
  photo = golden.photo('coffee.png', (600, 400))
  resized = resize_photo(photo, 224, 336, 'opencv')
  middle = jnp.asarray(resized[None, :, :224], jnp.float32)
  crop = normalize_pixels(middle, model.config.clip)
  encoded, window = official.run(model, crop, method='encode'), record['outputs']
  window = window['first_crop_224']
  golden.assert_matches_samples(encoded.image, window['image_feat'], name='photo')
  golden.assert_matches_samples(encoded.groups.soft, window['soft_attn'], name='soft')
  assert encoded.groups.hard.sum(-1).tolist() == window['tokens_per_centre']
  images = Images.from_arrays([resized])
  found = official.run(model, images, text, Scores(background_threshold=0.8))
  geometry = Geometry(*((224, 336),) * 3, photo.shape[:2])
  inputs = found.mask_logits[0], scores_of(found, text), geometry
  maps = semantic_scores(*inputs, order='scores_first')[None, :8]
  maps = jax.nn.softmax(maps, axis=1)
  golden.assert_matches_samples(maps, expected['prob'], name='map')
  labels, counts = np.unique(
    semantic(*inputs, order='scores_first'), return_counts=True
  )
  assert dict(zip(map(str, labels), counts, strict=True)) == expected['label_counts']
