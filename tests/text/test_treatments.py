"""How each system reads each data set's names, against docs/spec.

The expected values are typed from there ([masqclip 4.6, 6], [ovseg 6], [segclip 4.1])
or are hashes stated there, not read from the data files under test.
"""

import hashlib

import numpy as np
import pytest

from maskclip_jax.text import tokenizer
from maskclip_jax.text.treatment import Treatment, systems, template_sets
from maskclip_jax.text.vocabulary import Vocabulary

SIZES = {
  'ade20k-150': 150,
  'ade20k-847': 847,
  'cityscapes-19': 19,
  'coco-base48': 48,
  'coco-instances65': 65,
  'coco-instances80': 80,
  'coco-novel17': 17,
  'coco-panoptic-133': 133,
  'coco-stuff-171': 171,
  'lvis-1203': 1203,
  'mapillary-65': 65,
  'miniature-116': 116,
  'miniature-base': 80,
  'miniature-base-things': 72,
  'miniature-far': 54,
  'miniature-far-base': 44,
  'miniature-far-base-things': 36,
  'miniature-near': 18,
  'miniature-novel': 36,
  'miniature-things': 108,
  'pascal-context-459': 459,
  'pascal-context-59': 59,
  'pascal-context-59-ovseg': 59,
  'voc-20': 20,
  'voc-21': 21,
}
# SHA-256 of the stripped names joined by newlines: [ovseg B].
NAME_HASHES = {
  'coco-stuff-171': '8ea44449837dceb30923012b201fe0152adc612160d0d040c9cfcd77e95f6801',
  'ade20k-150': 'aaab84ac88c425d4587c5792b4a8b5cda081e81723df78c2e3a2e02c2b6c905d',
  'voc-20': '7d877f185c807bc51b4cfb4f4202fc0b4e1c6724b782ba245fe36f8d254f0ad7',
  'pascal-context-59-ovseg': (
    'd19f875de36b2b482ebafb2171ef1fc85ae3791f5dd845f690a39dc724beea9d'
  ),
  'pascal-context-459': (
    'c9fe8ff7083d2572021691666a700755d8f4e1c634585ba9919a3f3a2c834538'
  ),
  'ade20k-847': 'ee311c5f3b780a16a58f40726927f6c41149860a5fca6c1116ea1dca129efd8b',
}
MASQCLIP_COCO = {
  'door-stuff': 'door',
  'mirror-stuff': 'mirror',
  'wall-stone': 'stone wall',
  'wall-wood': 'wood wall',
  'window-blind': 'window blind',
  'floor-wood': 'wood floor',
  'wall-brick': 'brick wall',
  'wall-tile': 'wall tile',
  'water-other': 'water',
  'window-other': 'window',
  'tree-merged': 'branch|tree|bush|leaves',
  'fence-merged': 'cage|fence|railing',
  'ceiling-merged': 'ceiling tile|ceiling',
  'sky-other-merged': 'clouds|sky|fog',
  'cabinet-merged': 'cupboard|cabinet',
  'table-merged': 'desk stuff|table',
  'floor-other-merged': 'marble floor|floor|floor tile',
  'pavement-merged': 'stone floor|pavement',
  'mountain-merged': 'hill|mountain',
  'grass-merged': 'moss|grass|straw',
  'dirt-merged': 'mud|dirt',
  'paper-merged': 'napkin|paper',
  'food-other-merged': 'salad|vegetable|food',
  'building-other-merged': 'skyscraper|building',
  'rock-merged': 'stone|rock',
  'wall-other-merged': 'wall|concrete wall|panel wall',
  'rug-merged': 'mat|rug|carpet',
}
BASE_48 = """1 2 3 4 7 8 9 15 16 19 20 23 24 25 27 31 33 34 35 38 42 44 48 50 51 52 53
  54 55 56 57 59 60 62 65 70 72 73 74 75 78 79 80 82 84 85 86 90"""
NOVEL_17 = '5 6 17 18 21 22 28 32 36 41 47 49 61 63 76 81 87'
ADE_STUFF = """0 1 2 3 4 5 6 9 11 13 16 17 21 25 26 28 29 34 40 46 48 51 52 54 59 60 61
  63 68 77 79 84 91 94 96 99 100 101 105 106 109 113 114 117 122 128 131 140 141 145"""


def _prompts(vocabulary):
  """Prompts by class name; the void column under None."""
  prompts, groups = vocabulary.prompts()
  names = [c.name for c in vocabulary.classes]
  names += [None] if vocabulary.void is not None else []
  return {
    name: [prompts[i] for i in group] for name, group in zip(names, groups, strict=True)
  }


def test_all_bundled_vocabularies_are_known():
  assert {name: len(Vocabulary.named(name)) for name in Vocabulary.names()} == SIZES


@pytest.mark.parametrize('name', NAME_HASHES)
def test_names_are_the_published_ones(name):
  names = '\n'.join(c.name.strip() for c in Vocabulary.named(name).classes)
  assert hashlib.sha256(names.encode()).hexdigest() == NAME_HASHES[name]


def test_things_and_ids_of_coco():
  panoptic = Vocabulary.named('coco-panoptic-133')
  assert panoptic.things.sum() == 80
  ids = [c.id for c in panoptic.classes]
  assert ids[:80] == sorted(ids[:80])
  assert ids[80:] == sorted(ids[80:])
  assert panoptic.things[:80].all()
  assert max(ids[:80]) == 90 < min(ids[80:]) == 92
  assert ids[-1] == 200
  assert all(c.color is not None for c in panoptic.classes)
  assert len({c.color for c in panoptic.classes}) == 133

  stuff = Vocabulary.named('coco-stuff-171')
  assert [c.id for c in stuff.classes if not c.thing] == list(range(92, 183))
  missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
  assert {c.id for c in stuff.classes} == set(range(1, 183)) - missing


def test_base_and_novel_splits():
  base, novel, both, every = (
    [(c.id, c.name) for c in Vocabulary.named(name).classes]
    for name in ('coco-base48', 'coco-novel17', 'coco-instances65', 'coco-instances80')
  )
  assert [i for i, _ in base] == list(map(int, BASE_48.split()))
  assert [i for i, _ in novel] == list(map(int, NOVEL_17.split()))
  assert both == sorted(base + novel)
  assert (87, 'scissors') in novel
  assert (90, 'toothbrush') in base
  unused = {name for _, name in set(every) - set(both)}
  assert len(unused) == 15
  assert {'traffic light', 'hair drier', 'wine glass'} < unused


def test_things_and_ids_of_ade():
  ade = Vocabulary.named('ade20k-150')
  assert [c.id for c in ade.classes] == list(range(150))
  assert [c.id for c in ade.classes if not c.thing] == list(map(int, ADE_STUFF.split()))
  assert ade.classes[8].name == 'window '
  full = Vocabulary.named('ade20k-847')
  ids = {c.name: c.id for c in full.classes}
  assert [c.id for c in full.classes][:4] == [2978, 312, 2420, 2855]
  assert ids['minibike, motorbike'] != ids['boat']
  assert len(set(ids.values())) == 847


def test_pascal_ids_agree_between_orders():
  ids = {c.name: c.id for c in Vocabulary.named('pascal-context-459').classes}
  assert list(ids.values()) == list(range(1, 460))
  for name in ('pascal-context-59', 'pascal-context-59-ovseg'):
    classes = Vocabulary.named(name).classes
    for category in classes:
      assert category.id == ids[category.name.replace('diningtable', 'table')]
  ours = [c.id for c in Vocabulary.named('pascal-context-59').classes]
  assert ours == sorted(ours)
  assert [c.name for c in classes][:3] == ['aeroplane', 'bicycle', 'bird']
  assert [c.id for c in classes][39:45] == [259, 260, 105, 296, 355, 295]
  assert [c.id for c in Vocabulary.named('voc-20').classes] == list(range(1, 21))


def test_masqclip_rewrites_27_coco_names():
  prompts = _prompts(Vocabulary.parse('coco-panoptic-133', 'masqclip'))
  assert list(prompts)[-1] is None
  assert prompts.pop(None) == ['background']
  rewritten = {n: '|'.join(words) for n, words in prompts.items() if words != [n]}
  assert rewritten == MASQCLIP_COCO


@pytest.mark.parametrize('name', ['coco-panoptic-133', 'ade20k-150', 'ade20k-847'])
def test_maskclip_reads_raw_names(name):
  prompts = _prompts(Vocabulary.parse(name, 'maskclip'))
  assert prompts.pop(None) == ['other']
  assert all(words == [name.strip()] for name, words in prompts.items())


@pytest.mark.parametrize('name', ['ade20k-150', 'ade20k-847'])
def test_masqclip_splits_ade_names(name):
  prompts = _prompts(Vocabulary.parse(name, 'masqclip'))
  assert prompts.pop(None) == ['background']
  for name, words in prompts.items():
    assert words == [word.strip() for word in name.split(', ')]
  assert any(len(words) == 8 for words in prompts.values())


@pytest.mark.parametrize(
  'name', ['pascal-context-459', 'pascal-context-59', 'coco-base48', 'coco-instances65']
)
def test_masqclip_reads_one_name_elsewhere(name):
  prompts = _prompts(Vocabulary.parse(name, 'masqclip'))
  assert prompts.pop(None) == ['background']
  assert all(words == [name] for name, words in prompts.items())


def test_traps_are_kept_for_the_published_systems():
  pascal = Vocabulary.parse('pascal-context-459', 'masqclip')
  prompts = _prompts(pascal)
  kept = ['casette recorder', 'unknown', 'pottedplant', 'tvmonitor', 'wineglass']
  assert set(kept) < prompts.keys()
  clean = _prompts(pascal.treated('clean'))
  assert [clean[name] for name in kept] == [
    ['cassette recorder'],
    ['unknown'],
    ['potted plant'],
    ['tv monitor'],
    ['wine glass'],
  ]
  small = _prompts(Vocabulary.parse('pascal-context-59', 'masqclip'))
  assert {'pottedplant', 'diningtable', 'tvmonitor'} < small.keys()
  # OVSeg calls one class by another name.
  assert (
    'a photo of a table.'
    in _prompts(Vocabulary.parse('pascal-context-59', 'ovseg'))['diningtable']
  )


def test_ovseg_reads_whole_names_in_14_sentences():
  prompts, groups = Vocabulary.parse('ade20k-150', 'ovseg').prompts()
  assert len(groups) == 150
  assert len(prompts) == 150 * 14
  assert prompts[8 * 14 : 8 * 14 + 3] == [
    'a photo of a window.',
    'This is a photo of a window',
    'There is a window in the scene',
  ]
  assert prompts[6 * 14 + 13] == 'There is a large road, route in the scene.'
  longest = Vocabulary.parse('ade20k-847', 'ovseg').prompts()[0]
  # [ovseg 6.2]: the longest A-847 prompt has 40 tokens.
  assert max(len(tokenizer.encode(p)) + 2 for p in longest) == 40


def test_segclip_renames_pascal_classes():
  renamed = {}
  for name in ('voc-20', 'pascal-context-59'):
    prompts = _prompts(Vocabulary.parse(name, 'segclip'))
    for name, words in prompts.items():
      if words != [f'a photo of a {name}.']:
        renamed.setdefault(name, []).extend(words)
  assert renamed == {
    'aeroplane': ['a photo of a airplane.'],
    'diningtable': ['a photo of a table.'] * 2,
    'pottedplant': ['a photo of a plant.'] * 2,
    'tvmonitor': ['a photo of a monitor.'] * 2,
  }
  coco = _prompts(Vocabulary.parse('coco-instances80', 'segclip'))
  assert coco['hair drier'] == ['a photo of a hair drier.']


def test_template_sets_and_systems():
  assert template_sets() == ('none', 'simple', 'vild_14', 'imagenet_80')
  sizes = [len(set(Treatment(templates=t).templates)) for t in template_sets()]
  assert sizes == [1, 1, 14, 80]
  assert systems() == (
    'clean',
    'maskclip',
    'masqclip',
    'ovseg',
    'segclip',
    'segclip_word',
    'fcclip',
    'fcclip_words',
    'clip_pooling',
    'maskclippp',
    'maskclippp_alone',
  )


def test_a_class_without_words():
  """SegCLIP's background: no prompt, a row of zeros; a word only where asked for."""
  vocabulary = Vocabulary.parse('background; cat', 'segclip')
  assert vocabulary.prompts() == (['a photo of a cat.'], [(), (0,)])
  np.testing.assert_allclose(vocabulary.pool([[3, 4]]), [[0, 0], [0.6, 0.8]], rtol=1e-6)
  assert len(vocabulary.treated('segclip_word').prompts()[0]) == 2
  assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
  with pytest.raises(ValueError, match="'background' is what other classes leave over"):
    Vocabulary.parse('Background', 'segclip').prompts()


def test_averaging_before_or_after_normalising():
  vocabulary = Vocabulary.parse('cat; sofa, couch')
  vectors = np.array([[0, 2], [3, 0], [0, 1]], np.float32)
  assert vocabulary.prompts() == (['cat', 'sofa', 'couch'], [(0,), (1, 2)])
  late = vocabulary.treated('clean').pool(vectors)
  early = vocabulary.treated('clean', normalise_first=True).pool(vectors)
  np.testing.assert_allclose(late, [[0, 1], [0.9486833, 0.3162278]], rtol=1e-6)
  np.testing.assert_allclose(early, [[0, 1], [0.7071068, 0.7071068]], rtol=1e-6)
  assert late.dtype == np.float32
  with pytest.raises(ValueError, match=r'3 prompts need as many vectors'):
    vocabulary.pool(vectors[:2])


def test_the_system_decides_unless_the_user_did():
  plain = Vocabulary.parse('ade20k-150')
  assert plain.void is None
  assert plain.for_system('masqclip').void == 'background'
  assert plain.for_system('maskclip').void == 'other'
  chosen = Vocabulary.parse('ade20k-150@ovseg')
  assert chosen == plain.treated('ovseg')
  assert chosen.for_system('masqclip') is chosen
  bare = plain.treated('masqclip', void=None, templates=['the {}'])
  assert bare.prompts()[0][0] == 'the wall'
  assert len(bare.prompts()[1]) == 150


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'templates': 'vild'}, "template set is called 'vild': did you mean 'vild_14'"),
    ({'templates': ['a photo']}, "'a photo' must hold '{}' once"),
    ({'templates': '{} and {}'}, 'once'),
    ({'templates': []}, 'no templates'),
    ({'void': ' '}, 'the void word is empty'),
  ],
)
def test_errors_in_treatments(fields, message):
  with pytest.raises(ValueError, match=message):
    Vocabulary.parse('cat; dog').treated('clean', **fields)


def test_braces_in_a_word_are_letters():
  vocabulary = Vocabulary.parse('cat {0}; dog').treated('segclip')
  assert vocabulary.prompts()[0][0] == 'a photo of a cat {0}.'


# How many classes FC-CLIP's training named, of COCO panoptic [fcclip 4]; and how many
# words the lists have.
FCCLIP = {
  'ade20k-150': (64, 402),
  'ade20k-847': (101, 1341),
  'cityscapes-19': (17, 60),
  'coco-panoptic-133': (133, 254),
  'mapillary-65': (26, 152),
  'pascal-context-459': (85, 559),
  'pascal-context-59': (51, 160),
  'voc-20': (20, 79),
  'voc-21': (21, 151),
}


@pytest.mark.parametrize('name', FCCLIP)
def test_fcclip_reads_lists_of_its_own(name):
  vocabulary = Vocabulary.parse(name, 'fcclip')
  training = Vocabulary.named('coco-panoptic-133')
  rows = vocabulary.columns()['rows']
  assert (vocabulary.seen_in(training).sum(), sum(rows)) == FCCLIP[name]
  prompts, groups = vocabulary.prompts()
  assert len(groups) == sum(rows)
  assert all(len(group) == 14 for group in groups)
  vectors = np.random.default_rng(0).standard_normal((len(prompts), 4))
  assert vocabulary.pool(vectors).shape == (sum(rows), 4)


def test_fcclip_keeps_synonyms_apart():
  vocabulary = Vocabulary.parse('sofa, couch; cat', 'fcclip')
  prompts, groups = vocabulary.prompts()
  assert prompts[0] == 'a photo of a sofa.'
  assert groups == [tuple(range(14 * i, 14 * i + 14)) for i in range(3)]
  assert vocabulary.columns()['rows'] == [2, 1]
  assert vocabulary.void is None


def test_treatments_that_contradict_themselves():
  with pytest.raises(ValueError, match=r"synonyms must be one of .*, not 'median'"):
    Treatment(synonyms='median')
  with pytest.raises(ValueError, match="the void column is 'other' or learned"):
    Treatment(void='other', learned_void=True)
