"""Reading vocabularies: the syntax, files, JSON, and one clear line for every error."""

import json
import pathlib
import re

import numpy as np
import pytest

from maskclip_jax.text.category import Category
from maskclip_jax.text.treatment import Treatment
from maskclip_jax.text.vocabulary import Vocabulary


def _flags(vocabulary):
  return {c.name: c.thing for c in vocabulary.classes}


def test_classes_words_and_marks():
  vocabulary = Vocabulary.parse('cat; sofa , couch;stuff:floor; THING : Sky;')
  assert [c.words for c in vocabulary.classes] == [
    ('cat',),
    ('sofa', 'couch'),
    ('floor',),
    ('Sky',),
  ]
  assert _flags(vocabulary) == {'cat': True, 'sofa': True, 'floor': False, 'Sky': True}
  np.testing.assert_array_equal(vocabulary.things, [True, True, False, True])
  assert len(vocabulary) == 4
  assert vocabulary.treatment is None


def test_unmarked_words_known_as_stuff_only_are_stuff():
  # Wall and sky are stuff in COCO and ADE20K, hill and soil in ADE20K, gravel in COCO;
  # a door is a thing in ADE20K; the first word that is known decides.
  vocabulary = Vocabulary.parse(
    'wall; skies; sky; Hills; earth, soil; gravel; door; dog; gizmo; gizmos, grass'
  )
  assert [c.name for c in vocabulary.classes if not c.thing] == [
    'wall',
    'sky',
    'Hills',
    'earth',
    'gravel',
    'gizmos',
  ]


def test_text_file_has_one_class_a_line(tmp_path):
  path = tmp_path / 'pets.txt'
  path.write_text('\ufeff# pets\ncat\n\n  dog, hound\r\nstuff: floor; wall\n', 'utf-8')
  vocabulary = Vocabulary.parse(str(path))
  assert vocabulary.name == 'pets'
  assert [c.name for c in vocabulary.classes] == ['cat', 'dog', 'floor', 'wall']
  assert Vocabulary.parse(path) == vocabulary
  inline = Vocabulary.parse('cat\ndog, hound\nstuff: floor; wall')
  assert inline.classes == vocabulary.classes


def test_json_file_forms(tmp_path):
  path = tmp_path / 'v.json'
  path.write_text('["cat", "sofa, couch", "stuff: floor"]')
  listed = Vocabulary.parse(path)
  assert listed.classes == Vocabulary.parse('cat; sofa, couch; stuff: floor').classes
  assert listed.classes == Vocabulary.parse(['cat', 'sofa, couch', 'floor']).classes

  path.write_text(
    '{"name": "mine", "treatment": "masqclip", "classes": ["cat", {"name": "sky"},'
    ' {"name": "A:B", "words": ["a; b"], "thing": false, "id": 0, "color": [1, 2, 3],'
    ' "prompts": {"ovseg": ["c"]}}]}'
  )
  objects = Vocabulary.parse(path)
  assert objects.name == 'mine'
  assert objects.treatment == Treatment.of('masqclip')
  assert objects.classes[1] == Category('sky', thing=False)
  assert objects.classes[2] == Category(
    'A:B', ('a; b',), thing=False, color=(1, 2, 3), id=0, prompts={'ovseg': ('c',)}
  )

  coco = {
    'images': [],
    'categories': [
      {'id': 7, 'name': 'cat', 'supercategory': 'animal', 'isthing': 1},
      {'id': 9, 'name': 'road', 'isthing': 0, 'color': [9, 9, 9]},
      {'id': 11, 'name': 'sky'},
    ],
  }
  path.write_text(json.dumps(coco))
  assert [(c.id, c.thing) for c in Vocabulary.parse(path).classes] == [
    (7, True),
    (9, False),
    (11, True),
  ]


@pytest.mark.parametrize('name', Vocabulary.names())
def test_json_round_trip_of_bundled(name, tmp_path):
  vocabulary = Vocabulary.parse(name, 'ovseg').treated(None, void='other')
  path = tmp_path / 'copy.json'
  vocabulary.save(path)
  copy = Vocabulary.load(path)
  assert copy == vocabulary
  assert copy.content_key() == vocabulary.content_key()
  assert vocabulary.provenance
  assert vocabulary.name == name


def test_content_key_follows_what_matters():
  one = Vocabulary.parse('cat; dog')
  same = Vocabulary.parse(' cat ;dog; ')
  assert one.content_key() == same.content_key()
  # Every photo asks for it.
  assert one.content_key() is one.content_key()
  others = [
    Vocabulary.parse('dog; cat'),
    Vocabulary.parse('cat; stuff: dog'),
    Vocabulary.parse('cat; dog, hound'),
    Vocabulary.parse('cat; dog', 'masqclip'),
    Vocabulary.parse('cat; dog', 'maskclip'),
    Vocabulary.parse('cat; dog').treated('masqclip', templates='simple'),
  ]
  assert len({v.content_key() for v in [one, *others]}) == 1 + len(others)


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ('', 'the vocabulary is empty'),
    (' ; \n# only a comment\n;', 'the vocabulary is empty'),
    ('cat;;dog', 'an empty class between two semicolons'),
    ('cat,,dog', "'cat,,dog' has an empty word: remove the comma too many"),
    ('cat, ', 'has an empty word'),
    ('stuff:', 'has an empty word'),
    ('cat; Cat', "the class 'Cat' is given twice"),
    ('cat; dog,  CAT', "the word 'CAT' is in class 'cat' and in class 'dog'"),
    ('cat, kitten, cat', "class 'cat' names the word 'cat' twice"),
    ('suff: floor', "'suff: floor' starts with an unknown mark"),
    ('ade20k', "called 'ade20k': did you mean 'ade20k-150' or 'ade20k-847'"),
    ('ADE20K-151', "called 'ADE20K-151': did you mean 'ade20k-150'"),
    ('coco_panoptic_133', "did you mean 'coco-panoptic-133'"),
    ('pc59', r"no vocabulary is called 'pc59': known: ade20k-150, .*'thing: pc59'"),
    ('voc-20@masqlip', "no treatment is called 'masqlip': did you mean 'masqclip'"),
  ],
)
def test_errors_in_typed_text(spec, message):
  with pytest.raises(ValueError, match=message) as error:
    Vocabulary.parse(spec)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"classes": ["cat"', 'Expecting'),
    ('3', 'the JSON must be a list of classes'),
    ('{"classes": "cat"}', 'the JSON must be a list of classes'),
    ('{"categories": 3}', 'the JSON must be a list of classes'),
    ('[]', 'the vocabulary is empty'),
    ('["cat", "cat"]', "two classes are called 'cat'"),
    ('[7]', 'a class must be a text or an object with a name, not 7'),
    ('[{"words": ["cat"]}]', 'a class must be a text or an object with a name'),
    ('[{"name": "cat", "colour": [0, 0, 0]}]', "'colour': did you mean 'color'"),
    ('[{"name": "cat", "color": [0, 0, 256]}]', "colour of class 'cat' is"),
    ('[{"name": "cat", "color": 7}]', "colour of class 'cat' is 7"),
    ('[{"name": "cat", "id": "7"}]', "id of class 'cat' is '7': give an integer"),
    ('[{"name": "cat", "thing": 1}]', "'thing' of class 'cat' is 1"),
    ('[{"name": "cat", "words": "kitten"}]', "words of class 'cat' are not a list"),
    ('[{"name": "cat", "words": [3]}]', "class 'cat' has an empty word"),
    ('[{"name": "cat", "prompts": ["a"]}]', "prompts of class 'cat' are not an object"),
    ('[{"name": "cat", "prompts": {"ovseg": []}}]', 'among its prompts for ovseg'),
    ('[{"name": " "}]', 'a class has no name'),
    ('{"nmae": "x", "classes": ["cat"]}', "'nmae': did you mean 'name'"),
    ('{"treatment": "masq", "classes": ["cat"]}', "mean 'masqclip'"),
    ('{"treatment": {"voids": "x"}, "classes": ["cat"]}', "mean 'void'"),
    ('{"treatments": {"ovseg": "raw"}, "classes": ["cat"]}', "'ovseg' reads 'raw'"),
  ],
)
def test_errors_in_json_name_the_file(text, message, tmp_path):
  path = tmp_path / 'v.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=message) as error:
    Vocabulary.load(path)
  assert str(error.value).startswith(f'{path}: ')
  assert '\n' not in str(error.value)


def test_missing_file():
  with pytest.raises(FileNotFoundError, match=r'no vocabulary file absent\.txt'):
    Vocabulary.parse('absent.txt')
  with pytest.raises(FileNotFoundError, match='absent'):
    Vocabulary.parse(pathlib.Path('absent'))


def test_a_mark_makes_a_name_a_class():
  assert Vocabulary.parse('thing: F-16').classes[0].name == 'F-16'
  assert Vocabulary.parse('boeing 747').classes[0].name == 'boeing 747'
  assert Vocabulary.parse('cat@home').classes[0].name == 'cat@home'


def test_check_of_a_good_vocabulary_is_silent():
  assert Vocabulary.parse('cat; sofa, couch; floor; house; horse').check() == []
  assert Vocabulary.parse('coco-panoptic-133', 'masqclip').check() == []


@pytest.mark.parametrize(
  ('vocabulary', 'message'),
  [
    (Vocabulary.parse('cat, dog, car'), 'are words for one class: separate classes'),
    (Vocabulary.parse('cat'), "'cat' is the only class, so every segment is one"),
    (Vocabulary.parse(['cat', 'dog, Cat']), "'cat' is in several classes: 'cat', 'dog"),
    (Vocabulary.parse('cat; cats'), "'cat' .* and 'cats' .* are nearly the same"),
    (Vocabulary.parse('bus; buses'), 'nearly the same word'),
    (Vocabulary.parse('tv monitor; tvmonitor'), 'nearly the same word'),
    (Vocabulary.parse('T-shirt; t shirt'), 'nearly the same word'),
    (Vocabulary.parse('bannister; cup, banister'), 'nearly the same word'),
    (Vocabulary.parse('organiser; organizer'), 'nearly the same word'),
    (Vocabulary.parse('cat; something'), "'something' of class 'something' is vague"),
    (
      Vocabulary.parse('cat; background', 'masqclip'),
      "class 'background' has the void word 'background'",
    ),
    (Vocabulary.parse('cat; кот'), "'кот' is not in Latin script"),
    (Vocabulary.parse('cat; ' + 'very ' * 76), 'has 78 tokens, and the text tower re'),
  ],
)
def test_check_warns(vocabulary, message):
  warnings = vocabulary.check()
  assert len(warnings) == 1
  assert re.search(message, warnings[0])


def test_check_counts_the_template_and_the_given_context():
  words = 'cat; ' + 'very ' * 13 + 'big dog'
  assert Vocabulary.parse(words).check(context=17) == []
  [warning] = Vocabulary.parse(words).treated('segclip').check(context=17)
  assert '22 tokens, and the text tower reads 17' in warning


def test_similar_words_that_are_different_do_not_warn():
  words = 'fountain; mountain; house; horse; mouse; scanner; spanner; grass; glass'
  assert Vocabulary.parse(words).check() == []
  # Two words of one class may be alike.
  assert Vocabulary.parse('hair drier, hair dryer; cat').check() == []


def test_overlap_with_training_classes():
  training = Vocabulary.named('coco-base48')
  seen, unseen = Vocabulary.parse('Cars; airplane; sofa, chair; zebra').overlap(
    training
  )
  assert seen == ('Cars', 'sofa', 'zebra')
  assert unseen == ('airplane',)
