"""MaskCLIP++ against a forward written from its description alone, mask by mask.

There is no recorded output of the official code. What is here computes one photo in
double precision, all tokens in one sequence with one matrix of biases, as the
description has it [fcclip 9.4].
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import official
import pytest
from flax import nnx
from PIL import Image

from maskclip_jax import zoo
from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.deploy.programs import photo_program
from maskclip_jax.nn import eva
from maskclip_jax.nn.eva import EvaCLIPConfig
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Images, Scores, TextBank
from maskclip_jax.systems.maskclippp.model import MaskCLIPPPConfig
from maskclip_jax.systems.maskclippp.patches import PatchGrid
from maskclip_jax.systems.regions import class_similarity
from maskclip_jax.systems.score_rules import geometric_ensemble

CLIP = EvaCLIPConfig(
  *(16, 32, 8, 32, 3, 2, 40),
  text_width=16,
  text_layers=1,
  text_heads=1,
  mask_blocks=2,
  mixer_width=8,
)
MEAN, STD = (np.array(x) for x in (CLIP.pixel_mean, CLIP.pixel_std))
CANVAS, QUERIES = (96, 96), 5
SHORT, LONG = 32, 56


def config(**choices) -> MaskCLIPPPConfig:
  proposals = zoo.find_preset('proposals_tiny').config
  return MaskCLIPPPConfig(proposals, CLIP, short_edge=SHORT, long_edge=LONG, **choices)


@functools.cache
def model(**choices):
  """Random weights, of which masks weigh enough to be seen."""
  made = random_model('maskclippp', config(**choices), seed=0)
  flat = params.flatten(made)
  scale = np.random.default_rng(3).normal(size=(2, 2)).astype(np.float32)
  return params.load_into(made, flat | {'clip/visual/mask_scale': scale})


def photos() -> list[np.ndarray]:
  """A wide and a tall one, neither of which fills whole patches."""
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, (*hw, 3), np.uint8) for hw in ((50, 71), (90, 40))]


def masks() -> np.ndarray:
  """Mask logits of a quarter of the canvas: blobs, everything and nothing."""
  rng = np.random.default_rng(1)
  coarse = rng.normal(size=(2, QUERIES, 6, 6)).repeat(4, 2).repeat(4, 3)
  logits = (coarse + rng.normal(size=coarse.shape) / 4).astype(np.float32)
  logits[:, 3], logits[:, 4] = 2, -2
  return logits


# From here on, the description in numpy.


def unit_norm(x, weights, path, epsilon=1e-6):
  centred = x - x.mean(-1, keepdims=True)
  scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
  return scaled * weights[f'{path}/scale'] + weights[f'{path}/bias']


def linear(x, weights, path):
  bias = weights.get(f'{path}/bias', 0)
  return np.tensordot(x, weights[f'{path}/kernel'], 1) + bias


def cubic(distance, a=-0.75):
  x = abs(distance)
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def stretched(table, rows, columns):
  """Bicubic whose corners are those of the table."""
  grid = len(table)

  def taps(at, count):
    source = at * (grid - 1) / (count - 1) if count > 1 else 0.0
    first = int(np.floor(source)) - 1
    return [
      (min(max(i, 0), grid - 1), cubic(source - i)) for i in range(first, first + 4)
    ]

  return np.array(
    [
      [
        sum(u * v * table[i, j] for i, u in taps(r, rows) for j, v in taps(c, columns))
        for c in range(columns)
      ]
      for r in range(rows)
    ]
  )


def bilinear(mask, rows, columns, step):
  """A mask in the middle of patches that are `step` of its samples apart."""
  found = np.zeros((rows, columns))
  for r, c in np.ndindex(rows, columns):
    for axis, at in ((0, r), (1, c)):
      source = max((at + 0.5) * step[axis] - 0.5, 0.0)
      low = min(int(source), mask.shape[axis] - 1)
      high = min(low + 1, mask.shape[axis] - 1)
      if axis == 0:
        row = (1 - source % 1) * mask[low] + source % 1 * mask[high]
      else:
        found[r, c] = (1 - source % 1) * row[low] + source % 1 * row[high]
  return found


def turn(x, places, rows, columns):
  """Heads of patches (n, h, d), pairs as complex numbers: rows, then columns."""
  pairs = x[..., 0::2] + 1j * x[..., 1::2]
  half = x.shape[-1] // 2
  speed = np.array([10000.0 ** (-2 * j / half) for j in range(half // 2)])
  for n, (r, c) in enumerate(places):
    angles = np.concatenate([r * 16 / rows * speed, c * 16 / columns * speed])
    pairs[n] *= np.exp(1j * angles)
  return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def block(x, weights, path, places, grid, bias):
  """One block of a sequence that ends with the patches; bias (h, t, t)."""
  normed, count = unit_norm(x, weights, f'{path}/ln_1'), len(places)
  q, k, v = (
    linear(normed, weights, f'{path}/attn/{n}') for n in ('query', 'key', 'value')
  )
  for one in (q, k):
    one[-count:] = turn(one[-count:], places, *grid)
  heads = []
  for head in range(q.shape[1]):
    scores = q[:, head] @ k[:, head].T / np.sqrt(q.shape[-1]) + bias[head]
    p = np.exp(scores - scores.max(-1, keepdims=True))
    heads.append(p / p.sum(-1, keepdims=True) @ v[:, head])
  flat = unit_norm(np.concatenate(heads, -1), weights, f'{path}/attn/norm')
  kernel = weights[f'{path}/attn/out/kernel']
  x = x + flat @ kernel.reshape(-1, kernel.shape[-1]) + weights[f'{path}/attn/out/bias']
  normed = unit_norm(x, weights, f'{path}/ln_2')
  gate, up = (linear(normed, weights, f'{path}/mlp/{n}') for n in ('gate', 'up'))
  hidden = unit_norm(gate / (1 + np.exp(-gate)) * up, weights, f'{path}/mlp/norm')
  return x + linear(hidden, weights, f'{path}/mlp/down')


def by_hand(weights, photo, logits, sees_itself=True):
  """Vectors of the masks of one photo; logits at a quarter of its padded size."""
  hw, patch = np.array(photo.shape[:2]), CLIP.patch_size
  seen = (hw * min(SHORT / hw.min(), LONG / hw.max()) + 0.5).astype(int)
  channels = [Image.fromarray(photo[..., c].astype(np.float32)) for c in range(3)]
  small = np.stack(
    [np.asarray(c.resize(seen[::-1], Image.Resampling.BILINEAR)) for c in channels], -1
  )
  rows, columns = grid = -(-seen // patch)
  pixels = np.zeros((*grid * patch, 3))
  pixels[: seen[0], : seen[1]] = (small / 255 - MEAN) / STD
  table = weights['visual/positional_embedding']
  positions = stretched(table[1:].reshape(4, 4, -1), rows, columns)
  places = list(np.ndindex(rows, columns))
  tokens = [weights['visual/class_embedding'] + table[0]]
  for r, c in places:
    square = pixels[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
    value = np.tensordot(square, weights['visual/conv1/kernel'], 3)
    tokens.append(value + weights['visual/conv1/bias'] + positions[r, c])
  x, count, heads = np.array(tokens), len(logits), CLIP.vision_heads
  step = patch * hw / seen / 4
  shares = [bilinear(m > 0, rows, columns, step).reshape(-1) for m in logits]
  first = CLIP.vision_layers - CLIP.mask_blocks
  for number in range(CLIP.vision_layers):
    if number == first:
      x = np.concatenate([np.repeat(x[:1], count, 0), x])
    bias = np.zeros((heads, len(x), len(x)))
    if number >= first:
      bias[:, count:, :count] = -np.inf
      bias[:, :count, : count + 1] = -100
      scales = weights['visual/mask_scale'][CLIP.vision_layers - 1 - number]
      for i, share in enumerate(shares):
        inside = share > share.max() / 2
        for head in range(heads):
          weighted = share * np.exp(scales[head])
          bias[head, i, count + 1 :] = np.where(inside, weighted, -100)
        if sees_itself:
          bias[:, i, i] = 0
    path = f'visual/transformer/resblocks/{number}'
    x = block(x, weights, path, places, grid, bias)
  return linear(unit_norm(x[:count], weights, 'visual/ln_post'), weights, 'visual/proj')


def weights_of(made) -> dict[str, np.ndarray]:
  return {
    path.removeprefix('clip/'): np.asarray(x, np.float64)
    for path, x in params.flatten(made).items()
    if path.startswith('clip/')
  }


def encoded(made, some=slice(None)):
  images = Images.from_arrays(photos()[some], CANVAS)
  hw = images.padded_hw // 4
  return official.run(
    made, images, jnp.asarray(masks()[some]), hw, method='encode_masks'
  )


def test_a_batch_of_two_shapes_is_what_each_photo_gives_by_hand():
  found, weights = encoded(model()), weights_of(model())
  for row, (photo, logits) in enumerate(zip(photos(), masks(), strict=True)):
    padded = -(-np.array(photo.shape[:2]) // 32) * 32 // 4
    expected = by_hand(weights, photo, logits[:, : padded[0], : padded[1]])
    # Float32 against float64, three blocks deep.
    np.testing.assert_allclose(found.vectors[row], expected, rtol=2e-4, atol=2e-4)
  assert found.empty.tolist() == [[False] * 4 + [True]] * 2
  assert np.ptp(np.asarray(found.vectors), axis=1).max() > 0.1


@pytest.mark.slow
def test_masks_that_do_not_see_themselves():
  made = model(sees_itself=False)
  found, photo, logits = encoded(made, slice(1)), photos()[0], masks()[0, :4]
  expected = by_hand(weights_of(made), photo, logits[:, :16], sees_itself=False)
  np.testing.assert_allclose(found.vectors[0, :4], expected, rtol=2e-4, atol=2e-4)
  # Nothing attracts the token of an empty mask, which is still a vector.
  assert np.isfinite(np.asarray(found.vectors)).all()


def test_masks_can_be_means_and_probabilities():
  """Of a photo that fills its patches, the mean is that of the samples in a patch."""
  images = Images.from_arrays([np.zeros((64, 64, 3), np.uint8)])
  grid = PatchGrid.of(images, 8, 32, 56)
  soft = np.random.default_rng(0).random((1, 2, 16, 16)).astype(np.float32)
  hw = jnp.array([[16, 16]])
  shares = jax.jit(grid.shares, static_argnums=(3, 4))
  mean = shares(images, soft, hw, 8, 'area')
  assert mean.shape == (1, 2, 28)
  # Bilinear doubling shifts a little of the neighbours into a patch.
  blocks = soft.reshape(1, 2, 4, 4, 4, 4).mean((3, 5)).reshape(1, 2, 16)
  np.testing.assert_allclose(mean[..., :16], blocks, atol=0.05)
  np.testing.assert_array_equal(mean[..., 16:], 0)
  # A spot between the middles of patches is inside by its mean alone.
  spot = np.zeros((1, 1, 16, 16), np.float32)
  spot[..., 4, 4] = 1
  spots = np.concatenate([spot, spot], 1)
  assert not shares(images, spots, hw, 8, 'bilinear').any()
  assert (shares(images, spots, hw, 8, 'area').argmax(-1) == 5).all()


@pytest.mark.parametrize(
  ('hw', 'seen', 'grid'),
  [
    ((800, 1333), (392, 653), (28, 47)),
    ((1333, 666), (658, 329), (47, 24)),
    ((800, 800), (392, 392), (28, 28)),
    ((1, 1333), (1, 658), (1, 47)),
    ((4, 4), (392, 392), (28, 28)),
  ],
)
def test_every_shape_has_its_patches_among_as_many_tokens(hw, seen, grid):
  images = Images(jnp.zeros((1, 1344, 1344, 3)), jnp.array([hw]), jnp.array([[32, 32]]))
  found = PatchGrid.of(images, 14, 392, 658)
  assert tuple(found.photo_hw[0].tolist()) == seen
  assert tuple(found.rows_columns[0].tolist()) == grid
  assert found.real.shape == (1, 28 * 47)
  assert int(found.real.sum()) == np.prod(grid)


def test_a_square_of_the_towers_own_size_is_what_the_tower_sees():
  tower, pixels = model().clip.visual, np.full((32, 32, 3), 90, np.uint8)
  pixels[:, 7:] = 200
  images = Images.from_arrays([pixels])
  grid = PatchGrid.of(images, 8, 32, 32)
  square = ((pixels / 255 - MEAN) / STD)[None].astype(np.float32)
  ours, theirs = jax.jit(
    lambda images: (grid.embed(tower, CLIP, images, 'bilinear'), tower.embed(square))
  )(images)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(grid.turns(16)[:, 0], eva._turns(4, 16), atol=1e-6)


def test_turns_are_those_of_timm():
  timm = pytest.importorskip('timm.layers.pos_embed_sincos')
  theirs = timm.RotaryEmbeddingCat(
    16, in_pixels=False, feat_shape=[3, 5], ref_feat_shape=[16, 16]
  )
  sin, cos = np.split(theirs.get_embed().numpy(), 2, axis=-1)
  places = jnp.array(list(np.ndindex(3, 5)))
  ours = eva.turns_at(places, jnp.array([[3, 5]]), 16)
  np.testing.assert_allclose(ours[0], cos[:, ::2], atol=1e-5)
  np.testing.assert_allclose(ours[1], sin[:, ::2], atol=1e-5)


def test_the_mixer_is_both_layers_before_the_best_word_counts():
  rng = np.random.default_rng(0)
  mixer = eva.Mixer(8, rngs=nnx.Rngs(0))
  mixer.inner.bias[...] = jnp.asarray(rng.normal(size=8), jnp.float32)
  # Similarities that count the other way round: which word is best changes.
  flip = float((mixer.inner.kernel[...] @ mixer.outer.kernel[...])[0, 0]) > 0
  if flip:
    mixer.outer.kernel[...] = -mixer.outer.kernel[...]
  words, vectors = rng.normal(size=(3, 16)), rng.normal(size=(1, 2, 16))
  text = TextBank.build(words, [True] * 2, rows=[2, 1], buckets=(4,))
  found = class_similarity(jnp.asarray(vectors, jnp.float32), text, 7.0, mixer=mixer)
  unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (words, vectors)]
  similarity = 7 * unit[1] @ unit[0].T
  mixed = mixer.outer(mixer.inner(jnp.asarray(similarity, jnp.float32)[..., None]))
  mixed = np.asarray(mixed)[..., 0]
  assert (mixed[..., :2].argmax(-1) != similarity[..., :2].argmax(-1)).all()
  np.testing.assert_allclose(
    found[..., 0], mixed[..., :2].max(-1), rtol=1e-5, atol=1e-5
  )
  np.testing.assert_allclose(found[..., 1], mixed[..., 2], rtol=1e-5, atol=1e-5)


def test_the_floor_is_inside_the_logarithm():
  trained, general = np.random.default_rng(0).normal(size=(2, 1, 3, 5)) * 20
  text = TextBank.build(
    np.ones((4, 2)), [True] * 4, learned_void=True, seen=[1, 0, 0, 1], buckets=(5,)
  )
  found = geometric_ensemble(
    jnp.asarray(trained, jnp.float32),
    jnp.asarray(general, jnp.float32),
    text,
    Scores(0.9, 1.0),
    floor=1e-8,
  )

  def softmax(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)

  p, q, void = softmax(trained[..., :4]), softmax(general[..., :4]), softmax(trained)
  weight = np.array([0.9, 1, 1, 0.9])
  joint = p ** (1 - weight) * q**weight + 1e-8
  void = void[..., 4:]
  joint = joint / joint.sum(-1, keepdims=True) * (1 - void)
  expected = np.concatenate([joint, void], -1)
  np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4, atol=2e-8)


def test_what_cannot_be_a_maskclippp():
  with pytest.raises(ValueError, match='has not learned to read masks'):
    MaskCLIPPPConfig(None, dataclasses.replace(CLIP, mask_blocks=0))
  with pytest.raises(ValueError, match='long_edge 10 must be at least short_edge 32'):
    MaskCLIPPPConfig(None, CLIP, short_edge=32, long_edge=10)
  with pytest.raises(ValueError, match='mask_blocks must be at most 3'):
    dataclasses.replace(CLIP, mask_blocks=4)


@pytest.mark.slow
def test_words_are_read_by_two_towers_and_compile_once():
  segmenter = Segmenter.from_preset('maskclippp_tiny')
  photo = np.random.default_rng(0).integers(0, 256, (70, 120, 3), np.uint8)
  segmenter(photo, 'cat; sofa, couch; stuff:floor')
  before = segmenter.compilations()
  found = segmenter(photo[:, :100], 'dog; sky; tree, shrub')
  assert segmenter.compilations() == before
  assert found.panoptic.shape == (70, 100)
  plan = segmenter.plan('cat; sofa, couch')
  bank = segmenter.text_bank(plan.words)
  rows = bank.proposal_embeddings
  assert rows.shape == (len(bank.embeddings), 32)
  own = Segmenter.from_preset('fcclip_tiny')
  own = own.with_weights(
    {
      path: x
      if not path.startswith('clip/text/')
      else segmenter.as_function()[1][f'proposals/{path}']
      for path, x in own.as_function()[1].items()
    }
  )
  theirs = own.text_bank(own.vocabulary('cat; sofa, couch'))
  np.testing.assert_allclose(rows, theirs.embeddings, atol=1e-5)
  np.testing.assert_array_equal(bank.columns, theirs.columns)
  # Where this CLIP alone counts, the segmenter still says what is void.
  images = Images.from_arrays([photo[:64, :96]])
  outputs = official.run(segmenter.model, images, bank, Scores(1.0, 1.0))
  found = official.run(
    segmenter.model.proposals, images, bank.as_proposals_read(), method='propose_masks'
  )
  everything = jax.nn.softmax(jnp.where(bank.valid, found.class_logits, -jnp.inf))
  void = jnp.exp(outputs.class_logits)[..., 2]
  np.testing.assert_allclose(void, everything[..., 2], rtol=1e-3, atol=1e-6)
  with pytest.raises(ValueError, match='reads words by two text towers'):
    dataclasses.replace(bank, proposal_embeddings=None).as_proposals_read()
  with pytest.raises(ValueError, match='two text towers, and an artefact has one'):
    photo_program(segmenter, {}, (64, 96), (64, 96))
