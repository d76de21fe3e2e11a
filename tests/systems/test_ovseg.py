"""OVSeg against the official code, and what its parts must not do."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import official
import ovseg_golden
import pytest
import seeded
from flax import nnx

from maskclip_jax.nn.clip import CLIPConfig, unit
from maskclip_jax.postprocess import NO_CLASS, postprocess
from maskclip_jax.postprocess.best_regions import best_regions
from maskclip_jax.postprocess.class_scores import class_probabilities
from maskclip_jax.postprocess.semantic import semantic, semantic_scores
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.systems.crops import Crop
from maskclip_jax.systems.ovseg.model import SCORES
from maskclip_jax.systems.ovseg.presets import PRESETS

GEOMETRY = Geometry(*ovseg_golden.SIZES)


def weighted(weight: float, **changes):
  """The published scores with one weight for all words."""
  return dataclasses.replace(
    SCORES, seen_weight=weight, unseen_weight=weight, **changes
  )


# What the recorded runs are called: the ensemble, CLIP alone, and no CLIP at all.
RUNS = {
  'full': SCORES,
  'full_clip_only': weighted(1.0, drop_empty=True),
  'full_no_clip': weighted(0.0),
}


@functools.cache
def program():
  """The recorded model as one compiled function of images, words and scores."""
  graphdef, state = nnx.split(ovseg_golden.model())

  @jax.jit
  def run(state, images, bank, scores):
    return nnx.merge(graphdef, state)(images, bank, scores)

  return run, state


def forward(images, scores=SCORES, bank=None):
  run, state = program()
  return run(state, images, bank or ovseg_golden.bank(), scores)


def probabilities(outputs, bank):
  return class_probabilities(
    outputs.class_logits[0], bank.valid, bank.void, outputs.objectness[0]
  )


def test_proposals():
  g, images = golden.load('ovseg'), ovseg_golden.images()
  config = ovseg_golden.PROPOSALS
  pixels = images.standardised(config.pixel_mean, config.pixel_std)
  (found,) = official.run(ovseg_golden.model().proposals, pixels, images.padded_hw)
  masks = found.mask_logits[:, :, :32, :40]
  golden.assert_close(masks, g['out/full/pred_masks'], name='masks')
  golden.assert_close(
    found.class_vectors, g['out/full/pred_embeddings'], name='vectors'
  )


def test_the_vector_of_no_object():
  ours = unit(ovseg_golden.model().non_object_embedding[...])[0]
  golden.assert_close(ours, golden.load('ovseg')['out/text_features'][7], name='void')


@pytest.mark.parametrize('run', RUNS)
def test_semantic_scores(run):
  """Within rounding, and the same class wherever two do not tie."""
  g, bank = golden.load('ovseg'), ovseg_golden.bank()
  outputs = forward(ovseg_golden.images(), RUNS[run])
  scores = probabilities(outputs, bank)
  arguments = outputs.mask_logits[0], scores, GEOMETRY
  maps = semantic_scores(*arguments, order='scores_first')[:7]
  if run == 'full':
    recorded = g['out/full/sem_seg']
    golden.assert_close(maps, recorded, name=run)
    ids = recorded.argmax(0)
  else:
    golden.assert_close(maps[:, ::3, ::3], g[f'out/{run}/sem_seg_every3'], name=run)
    ids = g[f'out/{run}/sem_seg_ids']
  best = np.sort(maps, axis=0)
  near = best[-1] - best[-2] < 1e-5 * best[-1]
  print(f'{run}: {near.sum()} near ties of {near.size} pixels')
  found = semantic(*arguments, order='scores_first')
  np.testing.assert_array_equal(found[~near], ids[~near])


def test_the_best_region_of_each_word_as_in_the_demo():
  """The recorded run cuts masks at 0.4; blank is what its map has no score for."""
  g, bank = golden.load('ovseg'), ovseg_golden.bank()
  outputs = forward(ovseg_golden.images(), RUNS['full_clip_only'])
  scores = probabilities(outputs, bank)
  found, best = best_regions(outputs.mask_logits[0], scores, GEOMETRY, 0.4)
  recorded = g['out/demo/sem_seg_every3']
  golden.assert_close(best[::3, ::3], recorded.max(0), name='scores')
  blank = recorded[0] == 0
  assert 0 < blank.sum() < blank.size
  np.testing.assert_array_equal(found[::3, ::3][blank], NO_CLASS)
  ids = g['out/demo/sem_seg_ids']
  np.testing.assert_array_equal(found[found != NO_CLASS], ids[found != NO_CLASS])


def adapter_case():
  """A photo and made-up mask probabilities at its own size."""
  g = golden.load('ovseg')
  masks = g['in/adapter/masks'].clip(1e-6, 1 - 1e-6)
  logits = np.full((1, 8, 128, 160), -20.0, np.float32)
  logits[0, :, :121, :150] = np.log(masks / (1 - masks))
  images = Images.from_arrays([g['in/adapter/image_uint8']])
  return images, jnp.asarray(logits), jnp.array([[128, 160]])


@functools.cache
def encoder():
  graphdef, state = nnx.split(ovseg_golden.model())

  @jax.jit
  def run(state, images, masks, mask_hw, scores):
    return nnx.merge(graphdef, state).encode_masks(images, masks, mask_hw, scores)

  return functools.partial(run, state)


@pytest.mark.parametrize(
  ('name', 'prompted'), [('features_mask_prompt', True), ('features_plain', False)]
)
def test_vectors_of_masks(name, prompted):
  g = golden.load('ovseg')
  scores = dataclasses.replace(SCORES, mask_prompts=prompted)
  encoded = encoder()(*adapter_case(), scores)
  valid = np.asarray(~encoded.empty[0])
  np.testing.assert_array_equal(valid, g['out/adapter/valid'])
  golden.assert_close(
    unit(encoded.vectors[0][valid]), g[f'out/adapter/{name}'], name=name
  )
  if prompted:
    logits = regions.class_similarity(encoded.vectors, ovseg_golden.bank())
    recorded = g['out/adapter/sim_logits'][:, :7]
    golden.assert_close(logits[0, valid, :7], recorded, name='logits')


@pytest.mark.parametrize('kept', [0, 1, 8])
def test_no_mask_one_mask_and_all_masks(kept):
  """The official code fails on the first two [ovseg 8]."""
  images, masks, mask_hw = adapter_case()
  all_of_them = encoder()(images, masks, mask_hw, SCORES)
  chosen = jnp.arange(8) >= 8 - kept
  some = jnp.where(chosen[None, :, None, None], masks, -20.0)
  encoded = encoder()(images, some, mask_hw, SCORES)
  expected = np.asarray(all_of_them.empty[0]) | ~np.asarray(chosen)
  np.testing.assert_array_equal(encoded.empty[0], expected)
  assert np.isfinite(encoded.vectors).all()
  # The same crop in another place of a batch: float32 rounding.
  np.testing.assert_allclose(
    encoded.vectors[0][~expected], all_of_them.vectors[0][~expected], atol=1e-5
  )


def test_without_any_mask_the_proposals_decide():
  bank, images = ovseg_golden.bank(), ovseg_golden.images()
  nothing = forward(images, weighted(0.7, mask_threshold=0.9999))
  proposals = probabilities(forward(images, weighted(0.0)), bank)
  # Powers of probabilities, once through logarithms.
  np.testing.assert_allclose(
    probabilities(nothing, bank).probabilities,
    proposals.probabilities**0.3,
    rtol=1e-4,
    atol=1e-9,
  )
  dropped = forward(images, weighted(0.7, mask_threshold=0.9999, drop_empty=True))
  assert not probabilities(dropped, bank).probabilities.any()


def test_words_seen_in_training_have_a_weight_of_their_own():
  vectors = golden.load('ovseg')['out/text_features'][:7]
  seen = [True, True, True, False, False, False, False]
  bank = TextBank.build(vectors, [True] * 7, void_last=False, seen=seen)
  images = ovseg_golden.images()
  scores = dataclasses.replace(SCORES, seen_weight=0.2, unseen_weight=0.9)
  mixed = forward(images, scores, bank).class_logits[0, :, :7]
  for weight, columns in ((0.2, slice(0, 3)), (0.9, slice(3, 7))):
    uniform = forward(images, weighted(weight)).class_logits[0, :, :7]
    np.testing.assert_array_equal(mixed[:, columns], uniform[:, columns])


def test_scores_and_words_are_data():
  """Other weights, thresholds, switches or words run the same program."""
  images, run = ovseg_golden.images(), program()[0]
  forward(images)
  before = run._cache_size()
  for scores in (*RUNS.values(), weighted(0.6, mask_threshold=0.35)):
    forward(images, scores)
  forward(images, dataclasses.replace(SCORES, mask_prompts=False))
  words = np.eye(32, dtype=np.float32)[:3]
  forward(images, SCORES, TextBank.build(words, [False] * 3, void_last=False))
  assert run._cache_size() == before


def test_panoptic_and_instances_come_from_the_same_masks():
  """Ours: the official code has semantic output only."""
  bank = ovseg_golden.bank()
  outputs = forward(ovseg_golden.images())
  config = PRESETS['ovseg_tiny'].postprocessing
  config = dataclasses.replace(config, object_threshold=0.0, overlap_threshold=0.0)
  results = postprocess(
    outputs.mask_logits[0],
    probabilities(outputs, bank),
    bank.thing,
    GEOMETRY,
    config,
    ('semantic', 'panoptic', 'instance'),
  )
  assert results.semantic.shape == results.panoptic.shape == (96, 118)
  assert results.segments
  assert len(results.instances.scores)
  assert np.isfinite(results.instances.scores).all()


@functools.cache
def prompted_clip():
  """The CLIP recorded with the training of mask prompts, inside an OVSeg."""
  config = dataclasses.replace(
    ovseg_golden.CONFIG,
    clip=CLIPConfig(32, 64, 16, 128, 3, 2, 64, 2, 1, vocab_size=512, prompt_depth=3),
  )
  weights = {
    key: array
    for key, array in golden.weights('ovseg').items()
    if not key.startswith('clip_adapter.clip_model.')
  }
  for key, array in golden.weights('ovseg_mpt').items():
    weights[f'clip_adapter.clip_model.{key}'] = array
  return ovseg_golden.load(config, weights)


def test_prompts_as_in_training():
  g, model = golden.load('ovseg_mpt'), prompted_clip()
  pixels = jnp.moveaxis(g['in/image'], 1, -1)
  crops = Crop(pixels, jnp.asarray(g['in/mask'][:, 0] > 0))
  vectors = official.run(model, crops, method='encode_crop')
  golden.assert_close(vectors, g['out/encode_image_masked'], name='prompted')
  plain = official.run(model, crops, False, method='encode_crop')
  golden.assert_close(plain, g['out/encode_image_plain'], name='plain')


def test_prompts_replace_exactly_the_blank_patches():
  """Nothing hidden is the plain tower; all hidden depends on no pixel [ovseg 10]."""
  model = prompted_clip()
  key = jax.random.key(0)
  pixels = jax.random.normal(key, (2, 64, 64, 3))
  whole, none = jnp.ones((2, 64, 64), bool), jnp.zeros((2, 64, 64), bool)
  encode = functools.partial(official.run, model, method='encode_crop')
  plain = official.run(model.clip.visual, pixels)
  np.testing.assert_array_equal(encode(Crop(pixels, whole)), plain)
  hidden = encode(Crop(pixels, none))
  np.testing.assert_array_equal(hidden, encode(Crop(2 * pixels, none)))
  # One pixel of a patch keeps it; the prompts of other patches do not change.
  corner = none.at[:, 17, 31].set(True)
  shown = encode(Crop(pixels, corner))
  assert not np.allclose(shown, hidden)
  outside = pixels.at[:, 16:32, 16:32].set(0.0)
  np.testing.assert_array_equal(shown, encode(Crop(pixels - outside, corner)))


def test_more_prompts_than_blocks_are_refused():
  with pytest.raises(ValueError, match=r'prompt_depth must be in 0\.\.3'):
    dataclasses.replace(ovseg_golden.CONFIG.clip, prompt_depth=4)


def test_a_backbone_must_be_chosen():
  with pytest.raises(ValueError, match='either swin or deeplab'):
    dataclasses.replace(ovseg_golden.PROPOSALS, swin=None)


def test_the_words_are_those_of_the_official_code():
  """Fourteen templates a word, and no word for the rest."""
  segmenter = Segmenter(ovseg_golden.model(), PRESETS['ovseg_tiny'])
  names = golden.load('ovseg')['in/toy_names'].tolist()
  bank = segmenter.text_bank(segmenter.vocabulary('; '.join(names)))
  recorded = golden.load('ovseg')['out/text_features'][:7]
  golden.assert_close(bank.embeddings[:7], recorded, name='words')
  assert not bank.void.any()


@pytest.mark.full_size
def test_full_size():
  """Swin-B and ViT-L/14 with seeded weights give the recorded outputs."""
  record = golden.full_size('ovseg')
  clip = seeded.clip_state_dict('vit_l14')
  prefix, weights = 'clip_adapter.clip_model.', {}
  for key, row in record['state_dict'].items():
    plain = key.removeprefix(prefix)
    if key.startswith(prefix) and plain in clip:
      weights[key] = clip[plain]
    elif not key.endswith(('relative_position_index', 'pixel_mean', 'pixel_std')):
      weights[key] = seeded.seeded_array(key, row['shape'])
  preset = PRESETS['ovseg_swin_b_vit_l14']
  model = ovseg_golden.load(preset.config, weights)
  del weights, clip
  outputs = record['outputs']['256x320']
  segmenter = Segmenter(model, preset)
  names = golden.load('ovseg')['in/toy_names'].tolist()
  bank = segmenter.text_bank(segmenter.vocabulary('; '.join(names)))
  text = np.concatenate([bank.embeddings[:7], unit(model.non_object_embedding[...])])
  golden.assert_matches_samples(text, outputs['text_features'], name='words')
  images = Images.from_arrays([golden.photo('coffee.png', (320, 256))])
  pixels = images.standardised(
    preset.config.proposals.pixel_mean, preset.config.proposals.pixel_std
  )
  for name, x in official.run(model.proposals.backbone, pixels).items():
    x = np.moveaxis(x, -1, 1)
    golden.assert_matches_samples(x, outputs[f'backbone_{name}'], name=name)
  (found,) = official.run(model.proposals, pixels)
  golden.assert_matches_samples(
    found.class_vectors, outputs['pred_embeddings'], name='vectors'
  )
  golden.assert_matches_samples(found.mask_logits, outputs['pred_masks'], name='masks')
  # How both opinions are joined does not depend on the size: `test_semantic_scores`.
  # ViT-L/14 on a hundred crops takes a minute and a half, so these are the ten of which
  # most is recorded.
  recorded = outputs['clip_sim_logits']
  query, word = np.divmod(recorded['flat_index'], 8)
  times = np.bincount(query, minlength=100)
  chosen = np.sort(np.argsort(-times, kind='stable')[:10])
  mask_hw = jnp.array([[64, 80]])
  masks = found.mask_logits[:, chosen]
  encoded = official.run(model, images, masks, mask_hw, method='encode_masks')
  assert not encoded.empty.any()
  logits = regions.LOGIT_SCALE * np.asarray(unit(encoded.vectors[0])) @ text.T
  there = np.isin(query, chosen)
  rows = np.searchsorted(chosen, query[there])
  values = np.array(recorded['values'])[there]
  assert len(values) > 20
  golden.assert_close(logits[rows, word[there]], values, name='crops')
