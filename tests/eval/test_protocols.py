"""The benchmarks' table against the papers' configurations."""

import dataclasses

import pytest

from maskclip_jax import zoo
from maskclip_jax.eval import protocols
from maskclip_jax.eval.protocols import PROTOCOLS, find_protocols
from maskclip_jax.systems.system import Preprocessing

MASQCLIP = zoo.presets()['masqclip_r50_vit_l14_336']
MASKCLIP = zoo.presets()['maskclip_r50_vit_l14_336']


# Classes, short edge, long edge, and both thresholds (None: not used).
@pytest.mark.parametrize(
  ('name', 'preset', 'expected'),
  [
    ('ade150', MASQCLIP, (150, 640, 2560, 0.3, 0.3)),
    ('ade150', MASKCLIP, (150, 640, 2560, 0.3, 0.5)),
    ('ade150_semantic', MASQCLIP, (150, 512, 2048, None, None)),
    ('ade847', MASQCLIP, (847, 512, 2048, None, None)),
    ('pc59', MASQCLIP, (59, 512, 2048, None, None)),
    ('pc60', MASQCLIP, (60, 512, 2048, None, None)),
    ('pc459', MASQCLIP, (459, 512, 2048, None, None)),
    ('voc20', MASQCLIP, (20, 512, 2048, None, None)),
    ('voc21', MASQCLIP, (21, 512, 2048, None, None)),
    ('coco_panoptic', MASQCLIP, (133, 800, 1333, 0.3, 0.3)),
    ('coco_panoptic', MASKCLIP, (133, 800, 1333, 0.5, 0.5)),
    ('coco_instance48_17_base', MASQCLIP, (48, 800, 1333, None, None)),
    ('coco_instance48_17_novel', MASQCLIP, (17, 800, 1333, None, None)),
    ('coco_instance48_17_generalised', MASQCLIP, (65, 800, 1333, None, None)),
    ('coco_object', MASQCLIP, (81, 800, 1333, None, None)),
  ],
)
def test_sizes_and_thresholds_are_the_papers(name, preset, expected):
  classes, short, long, object_threshold, overlap_threshold = expected
  run = PROTOCOLS[name].for_system(preset.system)
  assert len(run.vocabulary()) == classes
  assert run.preprocessing(preset) == Preprocessing(short, long)
  config = run.postprocessing(preset)
  if object_threshold is not None:
    assert config.object_threshold == object_threshold
    assert config.overlap_threshold == overlap_threshold
  # Only semantic output: the official code resizes the score maps, not the masks.
  semantic = set(run.views) == {'semantic'}
  assert config.semantic_order == ('scores_first' if semantic else 'masks_first')
  assert config.reject_void == preset.postprocessing.reject_void
  assert config.top_k == 100


@pytest.mark.parametrize('protocol', PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize(
  'system', ['masqclip', 'maskclip', 'ovseg', 'segclip', 'fcclip']
)
def test_words_and_ground_truth_have_the_same_order(protocol, system):
  run = protocol.for_system(system)
  truth = run.class_names()
  words = [category.name for category in run.vocabulary().classes]
  assert list(truth) == words
  for task, view in run.views.items():
    assert view.class_names() == truth[: len(view.class_names())], task
    assert task == view.kind


def test_things_come_first_where_the_objects_have_a_list_of_their_own():
  run = PROTOCOLS['coco_panoptic'].for_system('masqclip')
  things = run.vocabulary().things
  assert things[:80].all()
  assert not things[80:].any()
  assert len(run.views['instance'].class_names()) == 80


def test_what_only_some_systems_know():
  scores = {
    name: PROTOCOLS[name].for_system('ovseg').settings.scores
    for name in ('ade150', 'ade847', 'pc59', 'pc459', 'voc20')
  }
  assert all(s['seen_weight'] == s['unseen_weight'] for s in scores.values())
  weights = {name: s['seen_weight'] for name, s in scores.items()}
  assert weights == {
    'ade150': 0.7,
    'ade847': 0.7,
    'pc59': 0.6,
    'pc459': 0.6,
    'voc20': 0.45,
  }
  run = PROTOCOLS['ade150'].for_system('ovseg')
  assert set(run.views) == {'semantic'}
  assert run.preprocessing(MASQCLIP) == MASQCLIP.preprocessing
  assert PROTOCOLS['pc59'].for_system('ovseg').main_view.name.endswith('59_ovseg')
  thresholds = {
    name: PROTOCOLS[name].for_system('segclip').settings.scores['background_threshold']
    for name in ('voc21', 'pc60', 'coco_object')
  }
  assert thresholds == {'voc21': 0.80, 'pc60': 0.25, 'coco_object': 0.65}


def test_fcclip_is_run_as_its_authors_ran_it():
  preset = zoo.find_preset('fcclip_convnext_large')
  for name in ('ade150', 'ade847', 'pc59', 'pc459', 'voc20', 'voc21', 'coco_panoptic'):
    run = PROTOCOLS[name].for_system('fcclip')
    photos, config = run.preprocessing(preset), run.postprocessing(preset)
    assert (photos.short_edge, photos.long_edge) == (800, 1333)
    assert (config.object_threshold, config.overlap_threshold) == (0.0, 0.8)
    assert config.reject_void
    scores = run.scores(preset)
    assert (scores.seen_weight, scores.unseen_weight, scores.coat) == (0.4, 0.8, 0.0)
  background, *_ = PROTOCOLS['voc21'].for_system('fcclip').vocabulary().classes
  assert len(background.words_for('fcclip')) == 72


def test_groups():
  run = PROTOCOLS['coco_instance48_17_generalised'].for_system('masqclip')
  groups, names = run.groups(), run.class_names()
  assert {group: len(members) for group, members in groups.items()} == {
    'base': 48,
    'novel': 17,
  }
  assert sorted(groups['base'] + groups['novel']) == list(range(65))
  assert names[groups['novel'][0]] == 'airplane'
  seen = PROTOCOLS['ade150'].for_system('masqclip').groups()
  names = PROTOCOLS['ade150'].for_system('masqclip').class_names()
  assert names.index('bed') in seen['seen']
  assert names.index('chandelier') in seen['unseen']
  assert sorted(seen['seen'] + seen['unseen']) == list(range(150))
  # Trained on the very classes: nothing is unseen, so there is no split.
  assert PROTOCOLS['coco_panoptic'].for_system('masqclip').groups() == {}


def test_a_model_splits_classes_by_what_it_was_trained_with():
  run, coco = (PROTOCOLS[p].for_system('fcclip') for p in ('ade150', 'coco_panoptic'))
  names = run.class_names()
  fcclip, maft = (
    run.after_training(zoo.find_preset(name)).groups()['seen']
    for name in ('fcclip_convnext_large', 'maftp_convnext_large')
  )
  assert fcclip == run.groups()['seen']
  assert names.index('bed') in maft
  assert set(maft) != set(fcclip)
  own = dataclasses.replace(
    zoo.find_preset('fcclip_convnext_large'), training=('chandelier', 'Bed')
  )
  seen = run.after_training(own).groups()['seen']
  assert [names[number] for number in seen] == ['bed', 'chandelier']
  assert coco.after_training(own).groups() == {}


def test_names_and_bundles():
  found = find_protocols('pc59, coco_instance48_17,pc59')
  assert [p.name for p in found] == [
    'pc59',
    *protocols.PROTOCOL_GROUPS['coco_instance48_17'],
  ]
  with pytest.raises(
    ValueError, match="no evaluation is called 'ade-150': did you mean 'ade15"
  ):
    find_protocols('ade-150')
  with pytest.raises(ValueError, match='name an evaluation'):
    find_protocols(' , ')
