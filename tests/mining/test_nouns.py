"""Nouns of captions."""

import sys

import pytest

from maskclip_jax.mining.nouns import NounRule, check_captions, nouns_of


def texts(rule: NounRule, *captions: str) -> list[str]:
  return [noun.text for noun in nouns_of(captions, rule.tagger())]


def test_a_photo_has_each_noun_once_however_it_is_called():
  captions = 'two Dogs on a couch', 'a dog on a sofa'
  assert texts(NounRule('dog; sofa, couch'), *captions) == ['dogs', 'couch']
  rule = NounRule('dog; sofa, couch', form='name')
  assert texts(rule, *captions) == ['dog', 'sofa']


def test_captions_without_nouns_are_told_before_anything_runs():
  rule = NounRule('cat')
  check_captions([['a dog'], ['two cats']], rule)
  with pytest.raises(ValueError, match=r"first 2 photos.*cat.*'a dog'.*--nouns"):
    check_captions([['a dog'], []], rule)


def test_spacy_that_is_not_installed(monkeypatch):
  monkeypatch.setitem(sys.modules, 'spacy', None)
  with pytest.raises(ImportError, match=r'maskclip_jax\[spacy\].*vocabulary'):
    NounRule('spacy:en_core_web_sm').tagger()


def test_unknown_choices():
  with pytest.raises(ValueError, match="'written' or 'name', not 'bare'"):
    NounRule('cat', form='bare')
  with pytest.raises(ValueError, match='no tags'):
    NounRule('cat', tags=())


@pytest.fixture(scope='module')
def pipeline(tmp_path_factory):
  """A pipeline of rules, as none with weights can be had offline; and an empty one."""
  spacy = pytest.importorskip('spacy')
  nlp = spacy.blank('en')
  ruler = nlp.add_pipe('attribute_ruler')
  for word, tag, lemma in (
    ('dogs', 'NNS', 'dog'),
    ('traffic', 'NN', 'traffic'),
    ('lights', 'NNS', 'light'),
    ('Paris', 'NNP', 'Paris'),
    ('near', 'IN', 'near'),
  ):
    ruler.add([[{'TEXT': word}]], {'TAG': tag, 'LEMMA': lemma})
  folder = tmp_path_factory.mktemp('spacy') / 'rules'
  nlp.to_disk(folder)
  blank = folder.with_name('blank')
  spacy.blank('en').to_disk(blank)
  return folder, blank


def test_nouns_by_their_tags(pipeline):
  caption = 'dogs near traffic lights near Paris'
  rule = f'spacy:{pipeline[0]}'
  assert texts(NounRule(rule), caption) == ['dogs', 'traffic', 'lights', 'paris']
  assert texts(NounRule(rule, compounds=True, form='name'), caption) == [
    'dog',
    'traffic light',
    'paris',
  ]
  assert texts(NounRule(rule, tags=('NNP',)), caption) == ['paris']


def test_a_pipeline_that_tags_nothing(pipeline):
  with pytest.raises(ValueError, match='has no tagger'):
    texts(NounRule(f'spacy:{pipeline[1]}'), 'a dog')


def test_a_pipeline_that_there_is_not(tmp_path):
  pytest.importorskip('spacy')
  with pytest.raises(FileNotFoundError, match='no spaCy pipeline'):
    NounRule(f'spacy:{tmp_path / "none"}').tagger()
