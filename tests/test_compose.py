"""Crosses: masks are the proposals' own, names the classifier's own."""

import dataclasses
import functools
import pathlib

import golden
import jax.numpy as jnp
import numpy as np
import official
import pytest
import tiny_stages
import tiny_tokenizer

import maskclip_jax
from maskclip_jax import zoo
from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.cross import cross, open_ingredient, rules
from maskclip_jax.checkpoints.restore import load_model, read_preset
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.systems.contract import Images, Scores, TextBank
from maskclip_jax.systems.parts import logits_of
from maskclip_jax.systems.regions import LOGIT_SCALE, class_similarity
from maskclip_jax.systems.system import Preset, find_system
from maskclip_jax.train import config_files
from maskclip_jax.train.config import read
from maskclip_jax.train.starting import starting_values
from maskclip_jax.train.task import Layout, make_task

SHIPPED = 'clip_baseline_miniature'
MASKS = ('proposals', 'maskformer', 'ovseg', 'fcclip', 'segclip', 'maskclip')
# Families of CLIPs, and models that have one.
PRESETS = {
  'clip': 'clip_vit_tiny',
  'convnext': 'clip_convnext_tiny',
  'resnet': 'clip_rn_tiny',
  'eva': 'clip_eva02_tiny',
  'siglip': 'clip_siglip_tiny',
  'naflex': 'clip_siglip_tiny',
}
CLIPS = (*PRESETS, 'ovseg', 'fcclip', 'segclip', 'maskclip', 'masqclip')
_CONVOLUTIONS = {'convnext', 'resnet', 'fcclip'}
_SIGLIPS = {'siglip', 'naflex'}
# What a rule is not for.
UNSUITED = {
  'masq': _CONVOLUTIONS | _SIGLIPS,
  'rma': _CONVOLUTIONS | _SIGLIPS | {'eva'},
  'pool': _SIGLIPS,
  # None of these has learned to read masks.
  'bias': set(CLIPS),
}
SMALL = {
  'naflex': {'position_grid': 3},
  'ovseg': {'proposals': {'swin': {'depths': [1, 1, 1, 1]}}},
}


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """From a name to the bundle of a small model of random weights."""
  folder = tmp_path_factory.mktemp('models')

  @functools.cache
  def made(name: str) -> pathlib.Path:
    preset = PRESETS.get(name, f'{name}_tiny')
    tiny_stages.random_bundle(folder / name, preset, **SMALL.get(name, {}))
    return folder / name

  return made


@functools.cache
def photo() -> Images:
  pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
  return Images.from_arrays([pixels], (64, 96))


def text_bank(model) -> TextBank:
  width = model.config.clip.embed_dim
  rows = np.random.default_rng(1).normal(size=(3, width))
  return TextBank.build(rows, [True, False, True], buckets=(4,))


def assert_same(ours, theirs):
  # Two programs of the same operations: XLA may add in another order.
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('rule', ['bias', 'crop', 'masq', 'pool', 'rma'])
@pytest.mark.parametrize('clip', CLIPS)
def test_every_rule_with_every_clip_or_the_reason(models, rule, clip):
  """Without computing: what fits is of the rule's system and has all its parameters."""
  masks, classifier = (open_ingredient(models(n)) for n in ('ovseg', clip))
  if clip in UNSUITED.get(rule, ()):
    with pytest.raises(ValueError, match=f'rule {rule} is not for .*: (its|what) '):
      cross(masks, classifier, rule)
    return
  made = cross(masks, classifier, rule)
  assert find_system(made.preset.system) is rules()[rule]
  assert type(made.preset.config.proposals) is type(masks.preset.config)
  for path in made.parameters:
    if path.startswith('proposals/'):
      own = masks.parameters[path.removeprefix('proposals/')]
      np.testing.assert_array_equal(made.parameters[path], own)
  assert not any(path.startswith('proposals/clip/') for path in made.parameters)


@pytest.mark.parametrize('masks', MASKS)
def test_all_masks_go_with_a_clip(models, masks, tmp_path):
  """The bundle is read again as it was written."""
  made = cross(open_ingredient(models(masks)), open_ingredient(models('clip')), 'masq')
  made.save(tmp_path / 'cross')
  opened = bundle.load(tmp_path / 'cross')
  assert read_preset(opened) == made.preset
  assert set(opened.parameters) == set(made.parameters)
  card = (tmp_path / 'cross' / bundle.CARD).read_text()
  assert 'MasQCLIP' in card
  assert 'the terms of' in card


def by_hand(models, masks: str, classifier: str):
  """Masks and vectors as the two models give them, each by itself."""
  proposing, _, _ = load_model(models(masks))
  naming, _, _ = load_model(models(classifier))
  if masks in ('maskclip', 'masqclip'):
    proposing = proposing.proposals
  found = official.run(proposing, photo(), method='propose_masks')
  logits = logits_of(found.mask_logits)
  encoded = official.run(naming, photo(), logits, found.mask_hw, method='encode_masks')
  return found, encoded


CROSSES = [
  ('segclip', 'ovseg', 'crop'),
  ('ovseg', 'maskclip', 'rma'),
  ('fcclip', 'masqclip', 'masq'),
  ('proposals', 'fcclip', 'pool'),
]


@pytest.mark.slow
@pytest.mark.parametrize(('masks', 'classifier', 'rule'), CROSSES)
def test_a_cross_equals_its_parts_by_hand(models, masks, classifier, rule):
  segmenter = maskclip_jax.compose(models(masks), models(classifier))
  assert find_system(segmenter.preset.system).rule.name == rule
  found, encoded = by_hand(models, masks, classifier)
  bank = text_bank(segmenter.model)
  settings = (segmenter.preset.scores,) if rule == 'crop' else ()
  outputs = official.run(segmenter.model, photo(), bank, *settings)
  wanted = found.mask_logits if rule != 'rma' else encoded.masks[-1]
  assert_same(np.asarray(outputs.mask_logits), np.asarray(wanted))
  real = ~np.asarray(encoded.empty)
  assert real.any()
  scale = LOGIT_SCALE
  if rule == 'pool':
    scale = min(np.exp(segmenter.model.clip.logit_scale[...]), LOGIT_SCALE)
  logits = class_similarity(encoded.vectors, bank, scale)
  assert_same(np.asarray(outputs.class_logits)[real], np.asarray(logits)[real])


@pytest.mark.slow
def test_both_opinions_of_fcclip_joined_are_fcclip(models):
  score = 'seen_weight=0.4,unseen_weight=0.8'
  segmenter = maskclip_jax.compose(models('fcclip'), models('fcclip'), score=score)
  assert segmenter.score_names == {'seen_weight', 'unseen_weight', 'skip_empty', 'coat'}
  assert segmenter.preset.words == 'fcclip'
  own, preset, _ = load_model(models('fcclip'))
  rows = np.random.default_rng(1).normal(size=(3, own.config.clip.embed_dim))
  seen = [True, False, False]
  bank = TextBank.build(
    rows, [True] * 3, learned_void=True, seen=seen, rows=[1] * 3, buckets=(4,)
  )
  ours = official.run(segmenter.model, photo(), bank, segmenter.preset.scores)
  theirs = official.run(own, photo(), bank, preset.scores)
  assert_same(ours.mask_logits, theirs.mask_logits)
  assert_same(ours.class_logits, theirs.class_logits)
  # A mask too small for CLIP's map is what the proposals say, as there.
  assert ours.objectness is None


def test_weights_need_two_opinions_in_one_space(models):
  clip, ovseg = open_ingredient(models('clip')), open_ingredient(models('ovseg'))
  made = cross(ovseg, ovseg, 'masq', 'unseen_weight=0.6')
  assert made.preset.config.joint
  assert made.preset.words == 'ovseg'
  assert made.preset.scores.seen_weight == ovseg.preset.scores.seen_weight
  with pytest.raises(ValueError, match='whose proposals are not named by words'):
    cross(open_ingredient(models('proposals')), clip, 'crop', 'unseen_weight=0.6')
  with pytest.raises(ValueError, match='have different text towers'):
    cross(ovseg, clip, 'crop', {'seen_weight': 0.5})


@pytest.mark.slow
def test_tokens_that_nothing_was_trained_for_are_copies_of_the_class_token(models):
  """So a mask of everything has the vector of the photo, by both rules."""
  everything = jnp.ones((1, 1, 8, 8)), jnp.array([[8, 8]])
  vectors = {}
  for rule in ('masq', 'rma'):
    segmenter = maskclip_jax.compose(models('proposals'), models('clip'), rule)
    model = segmenter.model
    whole = dataclasses.replace(photo(), image_hw=jnp.array([[64, 96]]))
    encoded = official.run(model, whole, *everything, method='encode_masks')
    vectors[rule] = np.asarray(encoded.vectors)
  assert_same(vectors['masq'], vectors['rma'])


@pytest.mark.slow
def test_pooling_a_vit_is_the_mean_of_the_patches_that_a_mask_touches(models):
  segmenter = maskclip_jax.compose(models('proposals'), models('clip'), 'pool')
  masks = np.full((1, 3, 4, 4), -1.0, np.float32)
  masks[0, 0] = 1
  masks[0, 1, :, :2] = 1
  photos = Images(jnp.full((1, 64, 64, 3), 90.0), jnp.array([[64, 64]]))
  encoded = official.run(
    segmenter.model, photos, masks, jnp.array([[4, 4]]), method='encode_masks'
  )
  tower = segmenter.model.clip.visual
  square = (jnp.full((1, 64, 64, 3), 90.0) / 255 - jnp.array(_MEAN)) / jnp.array(_STD)
  tokens = tower.transformer(tower.ln_pre(tower.embed(square)))
  places = np.asarray(tower.project(tokens[:, 1:]))[0].reshape(4, 4, -1)
  assert_same(encoded.vectors[0, 0], places.mean((0, 1)))
  assert encoded.empty.tolist() == [[False, False, True]]


_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def test_scores_are_those_that_are_asked_for(models):
  masks, clip = open_ingredient(models('proposals')), open_ingredient(models('ovseg'))
  made = cross(masks, clip, 'crop', 'mask_threshold=0.3,coat=0.5')
  assert made.preset.scores.coat == 0.5
  assert made.preset.scores.mask_threshold == 0.3
  # What is not asked for is the classifier's.
  assert cross(masks, clip).preset.scores == clip.preset.scores
  assert cross(masks, clip, 'pool', {'coat': 1}).preset.scores == Scores(coat=1.0)
  with pytest.raises(ValueError, match='rule pool reads no score mask_threshold'):
    cross(masks, clip, 'pool', 'mask_threshold=0.3')


@pytest.mark.parametrize(
  ('masks', 'clip', 'rule', 'message'),
  [
    ('clip', 'clip', 'crop', 'which proposes no masks'),
    ('proposals', 'proposals', 'crop', 'which has no CLIP'),
    ('proposals', 'clip', None, 'say how it should by a rule, one of crop, '),
    ('proposals', 'segclip', None, 'names no masks: say how'),
    ('proposals', 'clip', 'crops', "did you mean 'crop'"),
  ],
)
def test_what_does_not_go_together(models, masks, clip, rule, message):
  with pytest.raises(ValueError, match=message):
    cross(open_ingredient(models(masks)), open_ingredient(models(clip)), rule)


def test_a_classifier_of_two_opinions_gives_its_own_alone(models, tmp_path):
  fcclip = open_ingredient(models('fcclip'))
  cross(fcclip, fcclip, None, 'unseen_weight=0.6').save(tmp_path / 'joint')
  preset = cross(
    open_ingredient(models('proposals')), open_ingredient(tmp_path / 'joint')
  ).preset
  usual = zoo.find_preset('clip_pooling_tiny')
  assert not preset.config.joint
  assert (preset.words, preset.training) == (usual.words, None)
  assert preset.postprocessing == usual.postprocessing


def test_a_cross_does_not_replace_what_it_is_made_of(models):
  with pytest.raises(ValueError, match='is one of the two models: write to another'):
    maskclip_jax.compose(models('proposals'), models('clip'), 'masq', to=models('clip'))
  assert read_preset(bundle.load(models('clip'))).system == 'clip'


def test_an_unknown_type_writes_nothing(models, tmp_path):
  with pytest.raises(ValueError, match="not 'float16'"):
    maskclip_jax.compose(
      models('proposals'), models('clip'), 'masq', dtype='float16', to=tmp_path / 'to'
    )
  assert not (tmp_path / 'to').exists()


def test_an_official_file_goes_with_a_bundle(tmp_path, capsys):
  file = tmp_path / 'clip.safetensors'
  write_tensors(file, golden.weights('clip'))
  flags = ['--proposals', SHIPPED, '--classifier', str(file), '--rule', 'crop']
  assert main(['convert', *flags, '--to', str(tmp_path / 'cross')]) == 0
  assert f'{file}: activation quick_gelu' in capsys.readouterr().out
  files = bundle.load(tmp_path / 'cross').source['files']
  assert 'clip.safetensors' in [one['name'] for one in files]


def test_the_tokenizer_goes_with_the_cross_and_with_its_training(models, tmp_path):
  pytest.importorskip('tokenizers')
  siglip = dataclasses.replace(
    open_ingredient(models('siglip')), tokenizer=tiny_tokenizer.write(tmp_path / 'own')
  )
  made = tmp_path / 'cross'
  cross(open_ingredient(models('proposals')), siglip, 'crop').save(made)
  segmenter = maskclip_jax.load(made).uncached()
  vectors = segmenter.encode_text(['a cat', 'a dog'])
  assert not np.allclose(vectors[0], vectors[1])
  config = read(tiny_stages.values('masq', preset=str(made), model={}))
  assert config.tokenizer == made / bundle.TOKENIZER


def test_an_official_file_that_lacks_its_clip_is_told(tmp_path):
  weights = golden.weights('fcclip')
  own = {key: weights[key] for key in weights if 'clip_model' not in key}
  write_tensors(tmp_path / 'x.safetensors', own)
  with pytest.raises(ValueError, match='lacks some of its CLIP: make a bundle of it'):
    open_ingredient(tmp_path / 'x.safetensors')


def test_the_command_writes_a_bundle(tmp_path, capsys):
  made = tmp_path / 'cross'
  flags = ['--proposals', SHIPPED, '--classifier', SHIPPED, '--to', str(made)]
  assert main(['convert', *flags, '--rule', 'masq', '--scores', 'coat=0.5']) == 0
  assert f'masks of {SHIPPED}, named by {SHIPPED}' in capsys.readouterr().out
  preset = read_preset(bundle.load(made))
  shipped = zoo.find_preset(SHIPPED)
  assert preset.system == 'masqclip'
  assert preset.config.proposals == shipped.config.proposals
  assert preset.scores.coat == 0.5


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ([], 'nothing to convert'),
    (['FILE', '--rule', 'crop'], 'SOURCE is for one checkpoint and --rule'),
    (['--proposals', SHIPPED], 'needs --classifier as well'),
    (['--classifier', SHIPPED], 'needs --proposals as well'),
    (['--proposals', 'nowhere', '--classifier', SHIPPED], "no model 'nowhere'"),
    (
      ['--proposals', SHIPPED, '--classifier', SHIPPED, '--scores', 'coat=x'],
      'scores are given as',
    ),
  ],
)
def test_a_command_that_cannot_be_done_is_one_line(flags, message, tmp_path, capsys):
  assert main(['convert', *flags, '--to', str(tmp_path / 'cross')]) == 2
  out, err = capsys.readouterr()
  assert message in err
  assert (len(err.splitlines()), out) == (1, '')
  assert not (tmp_path / 'cross').exists()


@pytest.mark.slow
@pytest.mark.parametrize('clip', ['clip', 'eva'])
def test_a_cross_is_trained_by_a_line(models, tmp_path, clip):
  """A Swin's masks, and queries tuned in a ViT or in EVA02."""
  made = cross(open_ingredient(models('ovseg')), open_ingredient(models(clip)), 'masq')
  made.save(tmp_path / 'cross')
  config = f'masqclip:stage=masq,from={tmp_path / "cross"},runlocal'
  flags = ['--workdir', str(tmp_path / 'run'), '--config.total_steps=1']
  assert main(['train', '--config', config, *flags]) == 0
  run = bundle.load(bundle.locate(tmp_path / 'run'))
  assert type(read_preset(run).config.proposals) is type(made.preset.config.proposals)
  changed = {
    path
    for path, array in made.parameters.items()
    if not np.array_equal(array, run.parameters[path])
  }
  assert {path.partition('/')[0] for path in changed} == {
    'new_q_proj',
    'mask_embeddings',
  }


def test_relative_mask_attention_is_trained_on_a_cross_without_any(models, tmp_path):
  made = cross(
    open_ingredient(models('fcclip')), open_ingredient(models('clip')), 'rma'
  )
  made.save(tmp_path / 'cross')
  values = config_files.load(f'maskclip:stage=rma,from={tmp_path / "cross"},runlocal')
  task = make_task(read(values))
  layout = Layout.of(task)
  assert {path.partition('/')[0] for path in layout.trained} == {'rma'}
  start = starting_values(task, tuple(read(values).start.values()), 0)
  given = 'proposals/pixel_decoder/mask_features/kernel'
  np.testing.assert_array_equal(start[given], made.parameters[given])


def test_tuning_that_would_take_other_proposals_apart_is_refused(models, tmp_path):
  made = cross(
    open_ingredient(models('ovseg')), open_ingredient(models('clip')), 'crop'
  )
  made.save(tmp_path / 'cross')
  for what, remedy in (('masq', 'a cross of the rule masq'), ('proposals', '')):
    config = f'finetune:data=coco/panoptic,from={tmp_path / "cross"},what={what}'
    with pytest.raises(ValueError, match=f'has the proposals of OVSeg.*{remedy}'):
      config_files.load(f'{config},photos=10')


def test_a_part_of_a_system_that_there_is_not(models):
  masks, clip = open_ingredient(models('ovseg')), open_ingredient(models('clip'))
  made = cross(masks, clip, 'pool')
  values = made.preset.to_dict()
  assert values['config']['proposals']['system'] == 'ovseg'
  assert 'system' in values['config']['clip']
  values['config']['proposals']['system'] = 'oveg'
  with pytest.raises(ValueError, match="did you mean 'ovseg'"):
    Preset.from_dict(values)
