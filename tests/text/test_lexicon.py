"""Words of a vocabulary in running text."""

import pytest

from maskclip_jax.text.lexicon import Lexicon, singular
from maskclip_jax.text.vocabulary import Vocabulary

WORDS = Vocabulary.parse(
  'person; sofa, couch; traffic light; light; hot dog; dog; glass; knife; bus; house; '
  'red star, red star with stripes; t-shirt; news; potato; man'
)


def named(text: str) -> list[str]:
  found = Lexicon(WORDS).find(text)
  return [WORDS.classes[match.index].name for match in found]


@pytest.mark.parametrize(
  ('text', 'classes'),
  [
    ('A dog on a COUCH.', ['dog', 'sofa']),
    ('two dogs, three knives and potatoes', ['dog', 'knife', 'potato']),
    ('people at traffic lights', ['person', 'traffic light']),
    ('buses between houses', ['bus', 'house']),
    ('a hot-dog and hotdogs', ['hot dog', 'hot dog']),
    ("the dog's t shirt", ['dog', 't-shirt']),
    ('two red stars with stripes', ['red star']),
    ('glasses and grass', ['glass']),
    ('policemen', []),
    ('a man and women', ['man']),
    ('a new house', ['house']),
    ('', []),
  ],
)
def test_plurals_and_synonyms_are_found(text, classes):
  assert named(text) == classes


def test_what_is_written_is_kept():
  (match,) = Lexicon(WORDS).find('Some Traffic-Lights!')
  assert match.written == 'traffic lights'


def test_the_word_itself_goes_before_its_singular():
  words = Vocabulary.parse('glass; glasses')
  assert [m.index for m in Lexicon(words).find('glasses in a glass')] == [1, 0]


@pytest.mark.parametrize('name', ['coco-stuff-171', 'ade20k-847', 'miniature-116'])
def test_every_class_is_one_match(name):
  words = Vocabulary.named(name)
  lexicon = Lexicon(words)
  for category in words.classes:
    # Spellings of one word, such as 'postbox' and 'post box', are the first class.
    assert len(lexicon.find(category.words[0])) == 1, category.name


def test_singulars():
  pairs = {
    'benches': 'bench', 'boxes': 'box', 'berries': 'berry', 'ties': 'tie',
    'cookies': 'cookie', 'shoes': 'shoe', 'vases': 'vase', 'leaves': 'leaf',
    'gloves': 'glove', 'snowmen': 'snowman', 'children': 'child', 'tennis': 'tennis',
    'grass': 'grass', 'gas': 'gas', 'horses': 'horse',
  }  # fmt: skip
  assert {word: singular(word) for word in pairs} == pairs
