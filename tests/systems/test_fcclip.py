"""FC-CLIP against the official code, stage by stage, and its properties."""

import dataclasses
import functools

import fcclip_golden
import golden
import jax
import jax.numpy as jnp
import numpy as np
import official
import plain_postprocess as plain
import pytest
import seeded
from flax import nnx

from maskclip_jax import zoo
from maskclip_jax.checkpoints import params
from maskclip_jax.mapping.rules import convert
from maskclip_jax.nn.clip import PIXEL_MEAN, PIXEL_STD
from maskclip_jax.nn.pooled_decoder import pool_masks
from maskclip_jax.ops.resize import resize
from maskclip_jax.postprocess import OUTPUT_KINDS
from maskclip_jax.postprocess.class_scores import class_probabilities
from maskclip_jax.postprocess.panoptic import panoptic
from maskclip_jax.postprocess.semantic import semantic_scores
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems import pooling, regions
from maskclip_jax.systems.contract import Images, Scores, TextBank
from maskclip_jax.systems.fcclip.adapter import MaskAdapter, MaskAdapterConfig
from maskclip_jax.systems.fcclip.checkpoint import rules
from maskclip_jax.systems.fcclip.model import SCORES, FCCLIPConfig
from maskclip_jax.systems.fcclip.transfer import ContentTransfer, scrambled
from maskclip_jax.systems.score_rules import geometric_ensemble, lower_void
from maskclip_jax.text import tokenizer
from maskclip_jax.text.vocabulary import Vocabulary

BANKS = {'official_text': 'out/text/bank', 'crafted': 'in/crafted_bank'}
MASK_HW = jnp.array([[24, 32]] * 2)
# Each compiles for as long again; `test_photo_to_scores` has it among the fast ones.
LARGER = pytest.param((128, 192), marks=pytest.mark.slow)


def run(method, *arguments):
  return official.run(fcclip_golden.model(), *arguments, method=method)


def recorded(name: str):
  return golden.load('fcclip')[name]


@functools.cache
def bank(key: str = 'in/crafted_bank') -> TextBank:
  return fcclip_golden.bank(recorded(key))


# Words.


def toy_of(names: list[str]) -> Vocabulary:
  """A vocabulary of the recordings, as FC-CLIP reads it."""
  classes = [
    {'name': text.split(',')[0], 'words': [word.strip() for word in text.split(',')]}
    for text in names
  ]
  return Vocabulary.from_json({'classes': classes}).treated('fcclip')


def toy(key: str) -> Vocabulary:
  return toy_of(recorded(key).tolist())


def test_words_become_the_official_vectors():
  vocabulary = toy('in/test_names')
  prompts, groups = vocabulary.prompts()
  assert prompts[:28] == recorded('out/text/prompts_first_class').tolist()
  tokens = tokenizer.tokenize(prompts)
  np.testing.assert_array_equal(tokens, recorded('out/text/tokens'))
  raw = official.run(fcclip_golden.model().clip.text, jnp.asarray(tokens))
  golden.assert_close(raw, recorded('out/text/raw'), name='prompt vectors')
  assert len(groups) == 10
  golden.assert_close(
    vocabulary.pool(raw), recorded('out/text/bank'), name='word vectors'
  )
  columns = vocabulary.columns()
  assert columns['rows'] == recorded('out/text/num_names_per_class').tolist()
  assert columns['learned_void']
  assert not columns['void_last']


def test_seen_classes_share_a_word_with_training():
  seen = toy('in/test_names').seen_in(toy('in/train_names'))
  np.testing.assert_array_equal(seen, recorded('out/text/overlap').astype(bool))


def test_the_void_vector():
  void = fcclip_golden.model().void_embedding.embedding[...]
  golden.assert_close(regions.unit(void), recorded('out/text/void'), name='void')


# Stages.


@functools.cache
def proposals(canvas: tuple[int, int] | None = None):
  """Features, predictions and their class logits, by the parts of the model."""
  graphdef, state = nnx.split(fcclip_golden.model())

  @jax.jit
  def stages(state, images, text):
    model = nnx.merge(graphdef, state)
    pixel = model.pixel_decoder(model.features(images), images.padded_hw)
    predictions = model.predictor(pixel, images.padded_hw, aux=True)
    scale = model.predictor.logit_scale[...]
    logits = [model.class_logits(p.class_vectors, text, scale) for p in predictions]
    return pixel, predictions, logits

  return stages(state, fcclip_golden.images(canvas), bank('out/text/bank'))


@pytest.mark.parametrize('canvas', [None, LARGER])
def test_every_prediction_is_the_official_one(canvas):
  """Also on a larger canvas, whose rest no pooling must see."""
  pixel, predictions, logits = proposals(canvas)
  features = pixel.mask_features[:, :24, :32]
  golden.assert_close(
    jnp.moveaxis(features, -1, 1),
    recorded('out/pixel_decoder/mask_features'),
    name='mask features',
  )
  assert len(predictions) == 5
  for number, (prediction, found) in enumerate(zip(predictions, logits, strict=True)):
    layer = f'out/decoder/layer{number}'
    golden.assert_close(found[..., :8], recorded(f'{layer}/pred_logits'), name=layer)
    if number in (0, 4):
      golden.assert_close(
        prediction.mask_logits[:, :, :24, :32],
        recorded(f'{layer}/pred_masks'),
        name=f'{layer} masks',
      )
      golden.assert_close(
        prediction.class_vectors, recorded(f'{layer}/class_embed'), name=f'{layer} e'
      )


def test_pooling_by_recorded_masks():
  features = jnp.moveaxis(recorded('out/pixel_decoder/mask_features'), 1, -1)
  predictor = fcclip_golden.model().predictor
  for layer in ('out/decoder/layer0', 'out/decoder/layer4'):
    pooled = pool_masks(features, recorded(f'{layer}/pred_masks') > 0)
    golden.assert_close(pooled, recorded(f'{layer}/pooled'), name='pooled')
    projected = predictor.pool_proj(predictor.pool_norm(pooled))
    golden.assert_close(projected, recorded(f'{layer}/pooled_proj'), name='projected')


def test_clips_vectors_of_recorded_masks():
  for prefix, masks in (
    ('out', recorded('out/decoder/layer4/pred_masks')),
    ('out/proposals', recorded('in/proposals/pred_masks')),
  ):
    found = run('encode_masks', fcclip_golden.images(), jnp.asarray(masks), MASK_HW)
    golden.assert_close(
      found.vectors, recorded(f'{prefix}/clip_pooled_embedding'), name='vectors'
    )
  np.testing.assert_array_equal(found.empty, (masks <= 0).all((-2, -1)))


def test_masks_that_clips_map_covers():
  masks = jnp.asarray(recorded('out/decoder/layer4/pred_masks'))
  covered = pooling.covered(masks, MASK_HW, jnp.array([[96, 128]] * 2), (3, 4))
  np.testing.assert_array_equal(covered, recorded('out/pool_mask'))


def test_a_mask_of_the_whole_photo_has_clips_image_vector():
  images = Images.from_arrays([golden.photo('coffee.png', (96, 64))])
  found = run('encode_masks', images, jnp.ones((1, 1, 16, 24)), jnp.array([[16, 24]]))
  clip = fcclip_golden.model().clip
  mean, std = (tuple(255 * x for x in v) for v in (PIXEL_MEAN, PIXEL_STD))
  vector = official.run(clip.visual, images.standardised(mean, std))
  np.testing.assert_allclose(found.vectors[:, 0], vector, rtol=1e-4, atol=1e-5)


# Scores.


def joined(prefix: str, trained, key: str, scores: Scores = SCORES, empty=None):
  """The rule on recorded logits of both classifiers."""
  text = bank(key)
  room = ((0, 0), (0, 0), (0, len(text.valid) - 8))
  trained, general = (
    jnp.pad(x, room) for x in (trained, recorded(f'{prefix}/out_vocab_logits'))
  )
  return geometric_ensemble(trained, general, text, scores, empty=empty)[..., :8]


CASES = {
  'official_text': ('out/decoder/layer4/pred_logits', 'out/text/bank'),
  'crafted': ('out/crafted/pred_logits', 'in/crafted_bank'),
  'proposals': ('in/proposals/pred_logits', 'in/proposals/bank'),
}


@pytest.mark.parametrize('case', CASES)
def test_both_classifiers_joined(case):
  trained, key = CASES[case]
  prefix = f'out/{case}'
  ours = joined(prefix, recorded(trained), key)
  golden.assert_close(ours, recorded(f'{prefix}/ensemble_log'), name=case)
  scores = class_probabilities(ours[0], void=np.arange(8) == 7)
  expected = jax.nn.softmax(recorded(f'{prefix}/ensemble_log')[0])
  golden.assert_close(scores.void, expected[:, 7], name='void')


@pytest.mark.parametrize('seen', [0.0, 1.0])
def test_other_weights(seen):
  scores = Scores(seen_weight=seen, unseen_weight=0.0)
  name = f'out/crafted_alpha{seen:.0f}_beta0/ensemble_log'
  trained, key = CASES['crafted']
  ours = joined('out/crafted', recorded(trained), key, scores)
  golden.assert_close(ours, recorded(name), name=name)


@pytest.mark.parametrize('coat', [0.0, 0.5, 1.0])
def test_void_gives_way_where_clip_is_sure(coat):
  """OVRCOAT's rule [fcclip 9.1]."""
  trained, key = CASES['proposals']
  scores = dataclasses.replace(SCORES, coat=coat)
  ours = joined('out/proposals', recorded(trained), key, scores)
  name = f'out/ovrcoat/w{coat}/ensemble_log'
  golden.assert_close(ours, golden.load('fcclip_family')[name], name=name)


def test_the_same_rule_for_one_classifier():
  """In double precision, as the paper writes it; 0 is no rule at all."""
  text = bank()
  logits = 10 * jax.random.normal(jax.random.key(0), (2, 5, len(text.valid)))
  np.testing.assert_array_equal(lower_void(logits, text, 0.0), logits)
  without = dataclasses.replace(text, void=jnp.zeros_like(text.void))
  np.testing.assert_array_equal(lower_void(logits, without, 0.5), logits)
  p = np.exp(np.asarray(logits[..., :8], np.float64))
  q = p[..., :7] / p[..., :7].sum(-1, keepdims=True)
  for coat in (0.5, 1.0):
    void = p[..., 7] / p.sum(-1) * (1 - coat * q.max(-1))
    ours = jax.nn.softmax(lower_void(logits, text, coat)[..., :8])
    np.testing.assert_allclose(ours[..., 7], void, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
      ours[..., :7], q * (1 - void)[..., None], rtol=1e-5, atol=1e-7
    )


def test_clip_has_no_say_on_empty_masks_if_so_wanted():
  masks = recorded('in/proposals/pred_masks')
  found = run('encode_masks', fcclip_golden.images(), jnp.asarray(masks), MASK_HW)
  assert found.empty.any()
  trained, key = CASES['proposals']
  wanted = dataclasses.replace(SCORES, skip_empty=True)
  ours = joined('out/proposals', recorded(trained), key, wanted, found.empty)
  golden.assert_close(ours, recorded('out/proposals_valid/ensemble_log'), name='valid')
  without = joined('out/proposals', recorded(trained), key, SCORES, found.empty)
  golden.assert_close(without, recorded('out/proposals/ensemble_log'), name='plain')


def test_probabilities_that_underflow_make_no_nan():
  text = bank()
  trained = jnp.zeros((1, 1, len(text.valid))).at[..., 0].set(1e4)
  found = geometric_ensemble(trained, -trained, text, SCORES)
  assert jnp.isfinite(found).all()
  np.testing.assert_allclose(jnp.exp(found[..., :8]).sum(), 1, atol=1e-5)


def test_a_synonym_more_that_is_the_same_changes_nothing():
  vectors = recorded('in/crafted_bank')
  rows = recorded('out/text/num_names_per_class').tolist()
  again = np.concatenate([vectors[:1], vectors])
  choices = {'thing': [True] * 7, 'learned_void': True}
  one = TextBank.build(vectors, rows=rows, **choices)
  two = TextBank.build(again, rows=[rows[0] + 1, *rows[1:]], **choices)
  regions_ = jax.random.normal(jax.random.key(0), (1, 5, 32))
  void = jnp.ones(32)
  ours = [
    regions.class_similarity(regions_, text, 100.0, void_vector=void)
    for text in (one, two)
  ]
  np.testing.assert_array_equal(*ours)


# MAFT+ [fcclip 9.2].


@functools.cache
def maft(form: str) -> ContentTransfer:
  """The recorded transfer, width 32, 4 heads."""
  shapes = {
    'multihead_attn.in_proj_weight': (96, 32),
    'multihead_attn.in_proj_bias': (96,),
    'multihead_attn.out_proj.weight': (32, 32),
    'multihead_attn.out_proj.bias': (32,),
    'norm.weight': (32,),
    'norm.bias': (32,),
    'MLP.weight': (32, 32),
    'MLP.bias': (32,),
  }
  state = seeded.seeded_state_dict(
    {f'cdt.cross_atten.{k}': s for k, s in shapes.items()}
  )
  model = params.abstract(lambda: ContentTransfer(32, 4, form, rngs=nnx.Rngs(0)))
  rules_ = [r for r in rules() if r.pattern.startswith('cdt.')]
  wanted = {f'transfer/{path}': x for path, x in params.flatten(model).items()}
  flat = convert(state, rules_, wanted)
  return params.load_into(
    model, {k.removeprefix('transfer/'): x for k, x in flat.items()}
  )


@pytest.mark.parametrize('canvas', [False, True])
@pytest.mark.parametrize('form', ['semantic', 'panoptic'])
def test_words_that_have_seen_the_photo(form, canvas):
  family = golden.load('fcclip_family')
  dense, hw = jnp.moveaxis(recorded('out/backbone/res5'), 1, -1), None
  if canvas:
    dense = jnp.pad(dense, ((0, 0), (0, 2), (0, 3), (0, 0)), constant_values=9.0)
    hw = jnp.array([[3, 4]] * 2)
  places = fcclip_golden.model().clip.visual.head(scrambled(dense, hw))
  golden.assert_close(
    jnp.moveaxis(places[:, :3, :4], -1, 1), family['out/maft/dense_scrambled'], name='V'
  )
  words = jnp.concatenate([recorded('out/text/bank'), recorded('out/text/void')])
  moved = maft(form)(words, places, hw)
  golden.assert_close(moved, family[f'out/maft/{form}/text'], name=f'{form} words')
  model, text = fcclip_golden.model(), bank('out/text/bank')
  rows = jnp.pad(moved[:, :10], ((0, 0), (0, len(text.embeddings) - 10), (0, 0)))
  logits = model.class_logits(
    jnp.asarray(recorded('out/clip_pooled_embedding')),
    text,
    model.clip.logit_scale[...],
    rows=rows,
  )
  official_logits = family[f'out/maft/{form}/out_vocab_logits'][..., :7]
  golden.assert_close(logits[..., :7], official_logits, name=f'{form} logits')


def test_a_model_with_transfer():
  """CLIP alone names masks; the canvas makes no difference."""
  preset = zoo.find_preset('maftp_convnext_base')
  config = dataclasses.replace(
    fcclip_golden.CONFIG, transfer='semantic', transfer_heads=4
  )
  model = Segmenter.from_preset(
    dataclasses.replace(preset, config=config), seed=2
  ).model
  found = [
    official.run(model, fcclip_golden.images(canvas), bank(), preset.scores)
    for canvas in (None, (128, 192))
  ]
  golden.assert_close(
    found[1].class_logits[..., :8], found[0].class_logits[..., :8], name='canvas'
  )
  assert jnp.isfinite(found[0].class_logits[..., :8]).all()


# Mask-Adapter [fcclip 9.3].


def adapter_shapes(embed: int, width: int, maps: int) -> dict[str, tuple[int, ...]]:
  """Official keys and shapes of a head."""
  layers = {
    'mask_downscaling.0': (4, 1, 3, 3),
    'mask_downscaling.3': (16, 4, 3, 3),
    'mask_downscaling.6': (embed, 16, 1, 1),
    'fuse': (width, embed, 1, 1),
    'final': (maps, width, 1, 1),
  }
  norms = {'mask_downscaling.1': 4, 'mask_downscaling.4': 16, 'norm': width}
  shapes = {}
  for i in (1, 2, 3):
    block = f'cnext{i}'
    layers |= {
      f'{block}.dwconv': (width, 1, 7, 7),
      f'{block}.pwconv1': (4 * width, width),
      f'{block}.pwconv2': (width, 4 * width),
    }
    norms[f'{block}.norm'] = width
    shapes[f'{block}.gamma'] = (width,)
  for name, shape in layers.items():
    shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[:1]}
  for name, size in norms.items():
    shapes |= {f'{name}.weight': (size,), f'{name}.bias': (size,)}
  return {f'mask_adapter.{name}': shape for name, shape in shapes.items()}


@pytest.mark.parametrize('canvas', [False, True])
def test_where_an_adapter_looks(canvas):
  """The recorded head on the masks of recorded proposals; also on a larger canvas."""
  config = MaskAdapterConfig(width=24, maps=3)
  model = params.abstract(lambda: MaskAdapter(640, config, rngs=nnx.Rngs(0)))
  wanted = {f'adapter/{path}': x for path, x in params.flatten(model).items()}
  flat = convert(
    seeded.seeded_state_dict(adapter_shapes(640, 24, 3)),
    [rule for rule in rules() if rule.pattern.startswith('mask_adapter.')],
    wanted,
  )
  model = params.load_into(
    model, {path.removeprefix('adapter/'): x for path, x in flat.items()}
  )
  family = golden.load('fcclip_family')
  places = jnp.moveaxis(
    jnp.asarray(family['in/mask_adapter/dense'], jnp.float32), 1, -1
  )
  inside = (recorded('in/proposals/pred_masks')[:1] > 0).astype(np.float32)
  masks, hw = resize(jnp.asarray(inside), (12, 16)), None
  if canvas:
    places = jnp.pad(places, ((0, 0), (0, 2), (0, 3), (0, 0)), constant_values=9.0)
    masks = jnp.pad(masks, ((0, 0), (0, 0), (0, 8), (0, 12)))
    hw = jnp.array([[3, 4]])
  weights = official.run(model, places, masks, hw)[..., :3, :4]
  golden.assert_close(
    weights.reshape(1, 30, 12), family['out/mask_adapter/pool_weights'], name='weights'
  )
  maps = model.maps(places, masks[:, 0], hw)[0, :3, :4]
  expected = family['out/mask_adapter/maps'][0, :3]
  golden.assert_close(jnp.moveaxis(maps, -1, 0), expected, name='maps')


@pytest.mark.parametrize('canvas', [None, LARGER])
def test_vectors_of_masks_by_an_adapter(canvas):
  """CLIP's last map, summed with the weights of each map of a mask, through the head;
  then the mean of the maps. Also on a larger canvas."""
  plain_, g = fcclip_golden.model(), golden.load('fcclip')
  config = dataclasses.replace(fcclip_golden.CONFIG, adapter=MaskAdapterConfig(24, 3))
  model = params.abstract_model('fcclip', config)
  model.adapter = MaskAdapter(32, config.adapter, rngs=nnx.Rngs(0))
  model.clip = plain_.clip
  masks = jnp.asarray(g['in/proposals/pred_masks'])
  dense = jnp.moveaxis(jnp.asarray(g['out/backbone/res5']), 1, -1)
  inside = resize((jax.nn.sigmoid(masks) > 0.4).astype(jnp.float32), (12, 16))
  weights = model.adapter(plain_.clip.visual.head(dense), inside)
  pooled = jnp.einsum('bqmhw,bhwc->bqmc', weights, dense)
  expected = plain_.clip.visual.head(pooled).mean(2)
  if canvas:
    masks = jnp.pad(masks, ((0, 0), (0, 0), (0, 8), (0, 16)), constant_values=9.0)
    dense = jnp.pad(dense, ((0, 0), (0, 1), (0, 2), (0, 0)), constant_values=9.0)
  found = model.pool(fcclip_golden.images(canvas), dense, masks, MASK_HW, 0.4)
  golden.assert_close(found.vectors, expected, name='vectors')
  np.testing.assert_array_equal(found.empty, (inside == 0).all((-2, -1)))


# Photo to result.


@functools.cache
def outputs(key: str, canvas: tuple[int, int] | None):
  return run('__call__', fcclip_golden.images(canvas), bank(key), SCORES)


@pytest.mark.parametrize('canvas', [None, (128, 192)])
@pytest.mark.parametrize('name', BANKS)
def test_photo_to_scores(name, canvas):
  found = outputs(BANKS[name], canvas)
  golden.assert_close(
    found.class_logits[..., :8], recorded(f'out/{name}/ensemble_log'), name=name
  )
  assert found.mask_hw.tolist() == [[24, 32]] * 2
  assert found.objectness is None


THING = np.isin(np.arange(64), recorded('in/test_things'))


MASKS = {'proposals': 'in/proposals/pred_masks'}


def result_of(name: str, image: int, *, of_model: bool = False):
  """Masks, scores and geometry: the recorded ones, or the model's own."""
  if of_model:
    found = outputs(BANKS[name], (128, 192))
    masks, logits = found.mask_logits, found.class_logits
  else:
    masks = recorded(MASKS.get(name, 'out/decoder/layer4/pred_masks'))
    logits = recorded(f'out/{name}/ensemble_log').astype(np.float32)
    logits = np.pad(logits, ((0, 0), (0, 0), (0, 56)))
  text = bank()
  scores = class_probabilities(logits[image], text.valid, text.void)
  photo_hw = recorded(f'in/img{image}_uint8').shape[:2]
  original = tuple(recorded('in/out_hw')[image].tolist())
  masks = jnp.asarray(masks[image], jnp.float32)
  return masks, scores, Geometry((24, 32), (96, 128), photo_hw, original)


THRESHOLDS = {
  'official_text': ('official_text', (0.0, 0.8)),
  'crafted': ('crafted', (0.0, 0.8)),
  'proposals': ('proposals', (0.0, 0.8)),
  **{
    f'{name}_thr{i}': (
      name,
      tuple(recorded(f'meta/{name}_thr{i}_object_overlap_thresholds').tolist()),
    )
    for name, count in (('crafted', 3), ('proposals', 2))
    for i in range(count)
  },
}


def panoptic_of(run: str, image: int, **choices):
  name, (object_threshold, overlap_threshold) = THRESHOLDS[run]
  masks, scores, geometry = result_of(name, image, **choices)
  ids, segments = panoptic(
    masks,
    scores,
    THING,
    geometry,
    object_threshold=object_threshold,
    overlap_threshold=overlap_threshold,
    reject_void=True,
  )
  prefix = f'out/{run}/img{image}'
  rows = [[s.id, int(s.thing), s.class_index] for s in segments]
  assert rows == recorded(f'{prefix}/segments_info').tolist()
  return ids, recorded(f'{prefix}/panoptic_seg')


@pytest.mark.parametrize('image', [0, 1])
@pytest.mark.parametrize('run', THRESHOLDS)
def test_panoptic(run, image):
  np.testing.assert_array_equal(*panoptic_of(run, image))


@pytest.mark.parametrize('image', [0, 1])
@pytest.mark.parametrize('run', [r for r, (n, _) in THRESHOLDS.items() if n in BANKS])
def test_photo_to_panoptic(run, image):
  ids, official_ids = panoptic_of(run, image, of_model=True)
  differ = int((ids != official_ids).sum())
  print(f'parity {run}, image {image}: {differ} of {ids.size} pixels differ')
  # A mask may be undecided at a pixel, to float32 rounding of the network.
  assert differ <= ids.size // 10_000


@pytest.mark.parametrize('image', [0, 1])
@pytest.mark.parametrize('name', ['official_text', 'crafted', 'proposals'])
def test_instances(name, image):
  masks, scores, geometry = result_of(name, image)
  plain.assert_same_instances(
    masks,
    scores,
    THING,
    geometry,
    golden.load('fcclip'),
    f'out/{name}/img{image}/instances',
    top_k=20,
  )


@pytest.mark.parametrize('order', ['masks_first', 'scores_first'])
def test_semantic_scores(order):
  masks, scores, geometry = result_of('crafted', 0, of_model=True)
  maps = semantic_scores(masks, scores, geometry, order=order)[:7]
  suffix = '_semantic_only' if order == 'scores_first' else ''
  golden.assert_close(maps, recorded(f'out/crafted{suffix}/img0/sem_seg'), name=order)


def test_published_counts():
  """Of the whole, and of what trains [fcclip 1]."""
  flat = params.flatten(params.abstract_model('fcclip', FCCLIPConfig()))
  count = lambda prefix: params.count(
    {path: leaf for path, leaf in flat.items() if path.startswith(prefix)}
  )
  assert count('') == 372_494_210
  assert count('clip/') == 351_772_609
  assert count('clip/visual/') == 199_770_816
  assert count('pixel_decoder/') == 5_790_144
  assert count('predictor/') == 14_930_689


@pytest.mark.full_size
def test_full_size():
  """ConvNeXt-L with seeded weights gives the recorded outputs."""
  record = golden.full_size('fcclip')
  shapes = {k: row['shape'] for k, row in record['state_dict'].items()}
  del shapes['criterion.empty_weight']
  model = fcclip_golden.load(FCCLIPConfig(), seeded.seeded_state_dict(shapes))
  outputs = record['outputs']['256x320']
  words = {key: toy_of(outputs[f'{key}_names']) for key in ('test', 'train')}
  prompts, _ = words['test'].prompts()
  preset = zoo.find_preset('fcclip_convnext_large')
  # Of the length that they need, and not of 77 tokens.
  raw = Segmenter(model, preset).encode_text(prompts)
  vectors = words['test'].pool(raw)
  golden.assert_matches_samples(vectors, outputs['text_bank'], name='words')
  columns = words['test'].columns() | {
    'thing': np.isin(np.arange(7), outputs['test_things'])
  }
  text = TextBank.build(vectors, **columns, seen=words['test'].seen_in(words['train']))
  images = Images.from_arrays([golden.photo('coffee.png', (320, 256))])
  found = official.run(model, images, text, SCORES)
  golden.assert_matches_samples(found.mask_logits, outputs['pred_masks'], name='masks')
  golden.assert_matches_samples(
    found.class_logits[..., :8], outputs['ensemble_log'], name='scores'
  )
  scores = class_probabilities(found.class_logits[0], text.valid, text.void)
  maps = semantic_scores(
    found.mask_logits[0], scores, Geometry((64, 80), *((256, 320),) * 3)
  )
  golden.assert_matches_samples(maps[:7], outputs['sem_seg'], name='semantic scores')


# As users meet it.


@functools.cache
def segmenter() -> Segmenter:
  return Segmenter.from_preset('fcclip_tiny', seed=1)


def test_words_and_weights_are_data():
  """All three tasks, other words, synonyms and score weights run the same programs."""
  photo = golden.photo('coffee.png', (150, 100))
  first = segmenter()(photo, 'cup, mug; spoon; stuff:table', OUTPUT_KINDS)
  assert first.panoptic.shape == (100, 150)
  programs = segmenter().compilations()
  for words, choices in (
    ('cup, mug, coffee cup; stuff:wall', {}),
    ('cup', {'coat': 0.5, 'seen_weight': 1.0, 'skip_empty': True}),
  ):
    segmenter()(photo, words, OUTPUT_KINDS, **choices)
  assert segmenter().compilations() == programs


def test_shares_are_between_0_and_1():
  with pytest.raises(ValueError, match=r'coat must be in \[0, 1\], not 1.5'):
    segmenter()(golden.photo('coffee.png', (64, 64)), 'cup', coat=1.5)


def test_a_class_counts_as_seen_by_its_words():
  bank = segmenter().text_bank(segmenter().vocabulary('person; dragon; mist, clouds'))
  assert bank.seen[:3].tolist() == [True, False, True]
  assert bank.void.nonzero()[0].tolist() == [3]
  assert bank.columns[:5].tolist() == [0, 1, 2, 2, 64]
