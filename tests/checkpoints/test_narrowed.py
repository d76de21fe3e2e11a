"""Weights in the compute type: which they are, and that results do not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax import zoo
from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.systems.system import all_systems, find_system

HALF = jnp.bfloat16
# What hands a weight on as it is.
SAME = {'reshape', 'squeeze', 'transpose', 'slice', 'broadcast_in_dim', 'copy'}
SMALLEST = [
  next(name for name in sorted(system.presets) if name.endswith('_tiny'))
  for system in all_systems()
]
FAST = 'masqclip_tiny'


def uses(jaxpr, variable) -> set[str]:
  """What is done with a variable first of all, by the names of primitives; 'half' is
  its conversion to bfloat16."""
  found = set()
  for equation in jaxpr.eqns:
    for position, given in enumerate(equation.invars):
      if given is not variable:
        continue
      inner = equation.params.get('jaxpr') or equation.params.get('call_jaxpr')
      if equation.primitive.name in SAME:
        found |= uses(jaxpr, equation.outvars[0])
      elif equation.primitive.name == 'convert_element_type':
        found.add('half' if equation.params['new_dtype'] == HALF else 'other type')
      elif equation.primitive.name in ('jit', 'custom_jvp_call', 'scan'):
        found |= uses(inner.jaxpr, inner.jaxpr.invars[position])
      elif equation.primitive.name == 'remat2':
        found |= uses(inner, inner.invars[position])
      elif equation.primitive.name == 'cond':
        for branch in equation.params['branches']:
          found |= uses(branch.jaxpr, branch.jaxpr.invars[position - 1])
      elif equation.primitive.name == 'while':
        body = equation.params['body_jaxpr'].jaxpr
        first = equation.params['cond_nconsts']
        found |= uses(body, body.invars[position - first])
      else:
        found.add(equation.primitive.name)
  return found


@pytest.mark.parametrize(
  'name',
  [
    name if name == FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in SMALLEST
  ],
)
def test_narrow_weights_are_read_in_the_compute_type_alone(name):
  preset = zoo.find_preset(name)
  model = params.abstract_model(preset.system, preset.config, dtype=HALF)
  build, weights = params.split(model)
  narrow = params.read_narrowly(model, HALF)
  config = getattr(preset.config, 'clip', preset.config)
  programs = {}
  if hasattr(config, 'context_length'):
    tokens = jax.ShapeDtypeStruct((2, config.context_length), jnp.int32)
    text = (lambda w, t: getattr(build(w), 'clip', build(w)).text(t)), (tokens,)
    programs['text'] = text
  if not find_system(preset.system).segments:
    side = getattr(config, 'image_size', 64)
    pixels = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    programs['photo'] = (lambda w, p: build(w).visual(p)), (pixels,)
  else:
    images = Images.from_arrays([np.zeros((64, 64, 3), np.uint8)], (64, 64))
    width = getattr(config, 'embed_dim', 4)
    others = None
    if getattr(preset.config, 'proposal_words', ''):
      others = np.ones((2, preset.config.proposals.clip.embed_dim))
    bank = TextBank.build(
      np.ones((2, width)), [True], void_last=True, proposal_embeddings=others
    )
    programs['photo'] = (lambda w, i, t: build(w)(i, t)), (images, bank)
  read = set()
  for function, arguments in programs.values():
    jaxpr = jax.make_jaxpr(function)(weights, *arguments).jaxpr
    for path, variable in zip(sorted(weights), jaxpr.invars, strict=False):
      found = uses(jaxpr, variable)
      if found and path in narrow:
        assert found == {'half'}, path
      read |= {path} if found else set()
  assert len(narrow & read) > len(weights) / 4


@pytest.mark.slow
def test_results_are_those_of_float32_weights():
  narrow = Segmenter.from_preset(FAST, dtype='bfloat16')
  preset = narrow.preset
  wide = Segmenter(random_model(preset.system, preset.config, dtype=HALF), preset)
  photo = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
  (one,), (other,) = (
    segmenter.outputs([photo], [photo.shape[:2]], segmenter.plan('cat; stuff:sky'))
    for segmenter in (narrow, wide)
  )
  np.testing.assert_array_equal(one.mask_logits, other.mask_logits)
  np.testing.assert_array_equal(one.class_logits, other.class_logits)


def test_half_of_the_memory_is_left():
  preset = zoo.find_preset('masqclip_r50_vit_l14_336')
  model = params.abstract_model(preset.system, preset.config, dtype=HALF)
  sizes = (
    sum(x.size * x.dtype.itemsize for x in params.flatten(one).values())
    for one in (params.narrowed(model, HALF), model)
  )
  assert next(sizes) / next(sizes) < 0.51


def test_weights_stay_float32_where_they_are_asked_to():
  preset = zoo.find_preset(FAST)
  model = random_model(preset.system, preset.config, dtype=HALF)
  types = {leaf.dtype for leaf in params.flatten(model).values()}
  assert types == {jnp.dtype('float32')}
  kept = Segmenter.from_preset(FAST, dtype='bfloat16', float32_weights=True)
  _, weights = kept.as_function()
  assert {leaf.dtype for leaf in weights.values()} == types
  exact = params.abstract_model(preset.system, preset.config)
  assert params.read_narrowly(exact, HALF) == frozenset()


def test_the_pixel_decoder_is_half_where_it_is_asked_to():
  decoder = {}
  for pixel_dtype in ('float32', 'bfloat16'):
    preset = zoo.find_preset(FAST).with_pixel_dtype(pixel_dtype)
    model = params.abstract_model(preset.system, preset.config, dtype=HALF)
    narrow = params.read_narrowly(model, HALF)
    decoder[pixel_dtype] = [path for path in narrow if 'pixel_decoder' in path]
  assert not decoder['float32']
  assert len(decoder['bfloat16']) > 10
  with pytest.raises(ValueError, match='is float32 or bfloat16'):
    zoo.find_preset(FAST).with_pixel_dtype('half')
  with pytest.raises(ValueError, match='segclip has no pixel decoder'):
    zoo.find_preset('segclip_tiny').with_pixel_dtype('bfloat16')
