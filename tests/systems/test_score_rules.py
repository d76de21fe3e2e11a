"""OVRCOAT's rule for systems of every kind: void gives way where CLIP is sure."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax import zoo
from maskclip_jax.checkpoints import params
from maskclip_jax.postprocess.class_scores import class_probabilities
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Outputs, RegionVectors, Scores, TextBank
from maskclip_jax.systems.ovseg.model import SCORES, OVSeg
from maskclip_jax.systems.score_rules import named, with_coat

CLASSES = 5
# (a void column, objectness): MaskCLIP, the CLIP baseline, and MasQCLIP.
KINDS = [(True, False), (False, True), (True, True)]


def softmax(x):
  p = np.exp(x - x.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def outputs_of(void: bool, objectness: bool) -> tuple[Outputs, TextBank]:
  keys = jax.random.split(jax.random.key(0), 2)
  text = TextBank.build(
    np.ones((CLASSES + void, 4)), [True] * CLASSES, void_last=void, buckets=(8,)
  )
  logits = 3 * jax.random.normal(keys[0], (1, 20, 8))
  likely = jax.nn.log_sigmoid(2 * jax.random.normal(keys[1], (1, 20)))
  hw = jnp.array([[1, 1]])
  masks = jnp.zeros((1, 20, 1, 1))
  return Outputs(masks, logits, likely if objectness else None, hw), text


@pytest.mark.parametrize(('void', 'objectness'), KINDS)
def test_the_rule_in_double_precision(void, objectness):
  outputs, text = outputs_of(void, objectness)
  logits = np.asarray(outputs.class_logits[0, :, : CLASSES + void], np.float64)
  p, q = softmax(logits), softmax(logits[:, :CLASSES])
  for coat in (0.0, 0.5, 1.0):
    kept = 1 - coat * q.max(-1)
    expected = q
    if void:
      expected = expected * (1 - p[:, -1] * kept)[:, None]
    if objectness:
      likely = np.exp(np.asarray(outputs.objectness[0], np.float64))
      expected = expected * (1 - (1 - likely) * kept)[:, None]
    found = with_coat(outputs, text, coat)
    row = None if found.objectness is None else found.objectness[0]
    scores = class_probabilities(found.class_logits[0], text.valid, text.void, row)
    ours = scores.probabilities[:, :CLASSES]
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-7)


def test_no_rule_changes_no_bit_and_nothing_stays_nothing():
  outputs, text = outputs_of(True, True)
  empty = outputs.objectness.at[0, 3].set(-jnp.inf).at[0, 4].set(0.0)
  outputs = dataclasses.replace(outputs, objectness=empty)
  without, fully = (with_coat(outputs, text, coat) for coat in (0.0, 1.0))
  np.testing.assert_array_equal(without.class_logits, outputs.class_logits)
  np.testing.assert_array_equal(without.objectness, outputs.objectness)
  assert jnp.isneginf(fully.objectness[0, 3])
  assert fully.objectness[0, 4] == 0
  assert not jnp.isnan(fully.objectness).any()


@pytest.mark.parametrize('void', [True, False])
def test_training_without_the_rule_has_the_gradients_of_the_logits(void):
  outputs, text = outputs_of(void, True)

  @jax.grad
  def gradient(logits, coat):
    found = with_coat(dataclasses.replace(outputs, class_logits=logits), text, coat)
    return found.class_logits[..., : CLASSES + void].sum() + found.objectness.sum()

  logits = outputs.class_logits
  for coat in (0.0, jnp.zeros(())):
    expected = np.where(text.valid, 1.0, 0.0) * np.ones_like(logits)
    np.testing.assert_array_equal(gradient(logits, coat), expected)
  assert jnp.isfinite(gradient(logits, 0.5)).all()


@pytest.mark.parametrize('void', [True, False])
def test_objects_of_proposals_that_name_them_too_give_way(void):
  """Where both opinions are joined, CLIP's is the one that is sure or not."""
  found, text = outputs_of(void, True)
  by_clip = found.class_logits[:, ::-1]
  joined = named(found, by_clip, text, Scores(0.4, 0.8, coat=0.5))
  alone = dataclasses.replace(found, class_logits=by_clip)
  np.testing.assert_array_equal(
    joined.objectness, with_coat(alone, text, 0.5).objectness
  )
  assert (joined.objectness > found.objectness).all()
  without = named(found, by_clip, text, Scores(0.4, 0.8))
  np.testing.assert_array_equal(without.objectness, found.objectness)


def test_ovsegs_proposals_give_way_to_its_clip():
  """Their 'no object' leaves its share to the words; an empty mask is no opinion."""
  rng = np.random.default_rng(0)
  model = params.abstract_model('ovseg', zoo.find_preset('ovseg_tiny').config)
  width = model.config.clip.embed_dim
  model.non_object_embedding = jnp.asarray(rng.normal(size=(1, width)), jnp.float32)
  text = TextBank.build(
    rng.normal(size=(CLASSES, width)), [True] * CLASSES, buckets=(8,)
  )
  vectors, crops = rng.normal(size=(2, 1, 6, width)).astype(np.float32)
  empty = jnp.arange(6)[None] == 2
  encoded = RegionVectors(jnp.asarray(crops), (), empty)
  scores = dataclasses.replace(SCORES, seen_weight=0.0, unseen_weight=0.0)
  plain, bold = (
    OVSeg.join(model, jnp.asarray(vectors), encoded, text, one)[0, :, :CLASSES]
    for one in (scores, dataclasses.replace(scores, coat=0.5))
  )
  sure = np.asarray(model.word_logits(jnp.asarray(vectors), text), np.float64)[0]
  void = softmax(sure[:, [*range(CLASSES), -1]])[:, -1]
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  by_crop = 100 * unit(np.float64(crops[0])) @ unit(np.float64(text.embeddings[:5])).T
  surest = np.where(empty[0], 0, softmax(by_crop).max(-1))
  expected = np.log((1 - void * (1 - 0.5 * surest)) / (1 - void))
  np.testing.assert_allclose(
    bold - plain, np.broadcast_to(expected[:, None], plain.shape), rtol=1e-4, atol=1e-4
  )
  assert (np.asarray(bold[2]) == np.asarray(plain[2])).all()


@pytest.mark.parametrize(
  ('preset', 'read'),
  [
    ('maskclip_tiny', True),
    ('masqclip_tiny', True),
    ('clip_baseline_tiny', True),
    ('ovseg_tiny', True),
    ('fcclip_tiny', True),
    # Background is what all words fit too little; and there is no CLIP.
    ('segclip_tiny', False),
    ('mask2former_tiny', False),
  ],
)
def test_who_takes_the_rule(preset, read):
  preset = zoo.find_preset(preset)
  segmenter = Segmenter(params.abstract_model(preset.system, preset.config), preset)
  assert ('coat' in segmenter.score_names) == read
  words = None if preset.vocabulary else 'cat; dog'
  if read:
    assert segmenter.plan(words, coat=0.5).scores.coat == 0.5
  else:
    with pytest.raises(ValueError, match=f'unknown choice coat: {preset.system} takes'):
      segmenter.plan(words, coat=0.5)


def test_fields_are_those_of_scores():
  known = {field.name for field in dataclasses.fields(Scores)}
  for system in ('fcclip', 'ovseg', 'segclip'):
    preset = zoo.find_preset(f'{system}_tiny')
    segmenter = Segmenter(params.abstract_model(system, preset.config), preset)
    assert segmenter.score_names <= known
