"""Other words for a class."""

import pytest

from maskclip_jax.text.category import Category
from maskclip_jax.text.lexicon import plural, singular
from maskclip_jax.text.spellings import other_words
from maskclip_jax.text.vocabulary import Vocabulary


@pytest.mark.parametrize(
  ('one', 'many'),
  [
    *[('cat', 'cats'), ('box', 'boxes'), ('bus', 'buses'), ('child', 'children')],
    *[('knife', 'knives'), ('city', 'cities'), ('key', 'keys'), ('glass', 'glasses')],
    *[('potato', 'potatoes'), ('house', 'houses'), ('man', 'men')],
  ],
)
def test_plurals(one, many):
  assert plural(one) == many
  assert singular(many) == one


def test_every_plural_is_taken_back():
  words = {w for c in Vocabulary.named('lvis-1203').classes for w in c.words}
  for word in {singular(word.split()[-1]) for word in words}:
    assert singular(plural(word)) in (word, singular(word)), word


def test_spellings_and_words_of_other_vocabularies():
  words = other_words(Category('traffic light'))
  assert {'traffic lights', 'traffic-light'} <= set(words)
  assert 'traffic light' not in words
  assert 'couch' in other_words(Category('sofa'))
  # Neither glosses of many words, nor what data sets add to a name.
  walls = other_words(Category('wall'))
  assert 'walls' in walls
  assert not any(',' in word or 'merged' in word for word in walls)
  assert other_words(Category('gizmo')) == ('gizmos',)
