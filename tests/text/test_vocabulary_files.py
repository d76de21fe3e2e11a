"""Lists of words as people have them: files of every ending, numbers, odd letters."""

import json
import re
import time

import numpy as np
import pytest

from maskclip_jax.text import tokenizer
from maskclip_jax.text.vocabulary import Vocabulary


def classes(spec):
  """Name, words and number of every class."""
  return [(c.name, c.words, c.id) for c in Vocabulary.parse(spec).classes]


def plain(*names):
  return [(name, (name,), None) for name in names]


@pytest.mark.parametrize(
  'name', ['classes.csv', 'coco.names', 'classes', 'a.TXT', 'list.lst', 'my words.tsv']
)
def test_a_text_that_names_a_file_is_the_file(tmp_path, monkeypatch, name):
  (tmp_path / name).write_text('cat\ndog\n')
  assert classes(str(tmp_path / name)) == plain('cat', 'dog')
  assert Vocabulary.parse(f'{tmp_path / name}@masqclip').void == 'background'
  monkeypatch.chdir(tmp_path)
  assert classes(name) == plain('cat', 'dog')
  # A mark makes a word of a name.
  assert classes(f'thing: {name}') == plain(name)


@pytest.mark.parametrize('name', ['none.csv', 'none.YAML', 'none.names', 'x/none.txt'])
def test_a_name_of_a_file_that_is_not_there(name):
  with pytest.raises(FileNotFoundError, match='no vocabulary file'):
    Vocabulary.parse(name)


def test_a_folder_is_a_word_unless_given_as_a_path(tmp_path, monkeypatch):
  (tmp_path / 'cat').mkdir()
  monkeypatch.chdir(tmp_path)
  assert classes('cat; dog') == plain('cat', 'dog')
  assert classes('cat') == plain('cat')
  with pytest.raises(FileNotFoundError, match='no vocabulary file'):
    Vocabulary.parse(tmp_path / 'cat')


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('names:\n  0: cat\n  1: dog\n', [('cat', ('cat',), 0), ('dog', ('dog',), 1)]),
    ('names: [cat, "sofa, couch"]', [*plain('cat'), ('sofa', ('sofa', 'couch'))]),
    ('path: data\nnames:\n- cat\n- dog\n', plain('cat', 'dog')),
    ('- cat\n- dog\n', plain('cat', 'dog')),
  ],
)
def test_yaml_of_detectors(tmp_path, text, expected):
  (tmp_path / 'data.yaml').write_text(text)
  found = classes(str(tmp_path / 'data.yaml'))
  assert [c[: len(e)] for c, e in zip(found, expected, strict=True)] == expected


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('names: [', 'not valid YAML'),
    ('[' * 5000, 'not valid YAML'),
    ('nc: 3', "one under 'names'"),
    ('names: [no, cat]', 'a class must be a text'),
    ('a: &a [x]\nnames: !!python/object:os.system 1', 'not valid YAML'),
  ],
)
def test_yaml_that_makes_no_classes(tmp_path, text, message):
  (tmp_path / 'data.yaml').write_text(text)
  with pytest.raises(ValueError, match=message) as error:
    Vocabulary.parse(tmp_path / 'data.yaml')
  assert '\n' not in str(error.value)


CAT_AND_DOG = [('cat', ('cat',), 1), ('dog', ('dog', 'puppy'), 18)]


@pytest.mark.parametrize(
  'text',
  [
    'id,name\n1,cat\n18,"dog, puppy"\n',
    'name,supercategory,ID\ncat,animal,1\n"dog, puppy",animal,18\n',
    '\ufeff1,cat\r\n18,"dog, puppy"\r\n',
    'cat,1\n"dog, puppy",18\n',
    '1;cat\n18;dog, puppy\n',
    'id;name;stuff\n1;cat;0\n18;dog, puppy;0\n',
    'id\tname\n1\tcat\n18\tdog, puppy\n',
    'id|name\n1|cat\n18|dog, puppy\n',
    '"id";"name"\n1;cat\n\n18;"dog, puppy"\n',
  ],
)
def test_tables(tmp_path, text):
  (tmp_path / 'x.csv').write_text(text, 'utf-8')
  assert classes(tmp_path / 'x.csv') == CAT_AND_DOG


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('cat,animal\ndog,animal\n', "2 columns without a heading: write one with 'name'"),
    ('id,name\n1,cat\n2\n', 'differ in length'),
    ('# classes\nid,name\n1,cat\n', 'differ in length'),
    ('id,name\nx,cat\n', "the number of a class is 'x'"),
    ('id,name\n1,cat\n1,dog\n', 'two classes have the number 1'),
    ('1,2\n3,4\n', 'without a heading'),
    ('a,"b\n', 'not a table'),
    ('', 'the vocabulary is empty'),
    ('name\n', 'the vocabulary is empty'),
  ],
)
def test_tables_that_make_no_classes(tmp_path, text, message):
  (tmp_path / 'x.csv').write_text(text)
  with pytest.raises(ValueError, match=message):
    Vocabulary.parse(tmp_path / 'x.csv')


@pytest.mark.parametrize(
  'text',
  [
    '1,cat\n18,dog, puppy',
    '1: cat\n18: dog, puppy',
    '1. cat\n18. dog, puppy',
    '1) cat\n18) dog, puppy\n',
    '# number, name\n1\tcat\n18\tdog, puppy',
    '1;cat\n18;dog, puppy',
    '1, "cat"\n18, "dog", "puppy"',
    '1, cat; 18, dog, puppy',
  ],
)
def test_numbers_in_front_are_the_ids(tmp_path, text):
  (tmp_path / 'x.txt').write_text(text)
  assert classes(tmp_path / 'x.txt') == CAT_AND_DOG


def test_numbers_that_are_words_stay_words():
  assert classes('cat; 7 up; dog')[1][0] == '7 up'
  assert classes('2 wheels; 4 wheels') == plain('2 wheels', '4 wheels')
  assert [c[2] for c in classes('0 cat\n1 dog\n2 bird')] == [0, 1, 2]
  assert classes('1; 2; 3') == plain('1', '2', '3')


def test_quotes_are_no_part_of_a_word():
  expected = [('cat', ('cat',), None), ('dog', ('dog', 'puppy'), None)]
  assert classes('"cat"\n"dog, puppy"') == expected
  assert classes('\'cat\'; dog, "puppy"') == expected
  assert classes('baker\'s shop; 5" pipe')[0][0] == "baker's shop"
  assert any('has a "' in note for note in Vocabulary.parse('cat; 5" pipe').check())


def test_signs_of_other_keyboards_separate():
  text = 'cat\uff1bdog\uff0cpuppy\uff1bstuff\uff1afloor'
  assert [c[1] for c in classes(text)] == [('cat',), ('dog', 'puppy'), ('floor',)]


@pytest.mark.parametrize(
  'twin', ['cat\u200b', '\ufeffcat', 'c\u00adat', 'cat\u2060', '\uff43\uff41\uff54']
)
def test_words_that_look_the_same_are_the_same(twin):
  with pytest.raises(ValueError, match=r'given twice|is in class'):
    Vocabulary.parse(f'{twin}; cat')
  with pytest.raises(ValueError, match='two classes are called'):
    Vocabulary.parse([twin, 'cat'])
  with pytest.raises(ValueError, match='two classes are called'):
    Vocabulary.from_json([{'name': twin}, {'name': 'cat'}])


def test_marks_without_width_leave_the_words():
  assert classes('hot\u200b dog; cat\ufeff')[0][1] == ('hot dog',)
  with pytest.raises(ValueError, match=r'has no name|empty'):
    Vocabulary.parse(['\u200b'])


def test_names_with_commas_are_words(tmp_path):
  rows = [{'id': 9, 'name': 'dog, puppy'}, {'id': 11, 'name': 'cat'}]
  (tmp_path / 'x.json').write_text(json.dumps({'categories': rows}))
  assert classes(tmp_path / 'x.json') == [
    ('dog, puppy', ('dog', 'puppy'), 9),
    ('cat', ('cat',), 11),
  ]
  listed = Vocabulary.from_json([{'name': 'x', 'words': ['dog, puppy']}, 'cat'])
  assert any("'dog, puppy' of class 'x' has a ," in note for note in listed.check())


def test_underscores_are_noted():
  notes = Vocabulary.parse('traffic_light; fire_hydrant').check()
  assert sum('underscores' in note for note in notes) == 2


@pytest.mark.parametrize(
  ('word', 'note'),
  [
    ('cat|dog', r'has a \| in it'),
    ('- cat', "has a '-' in it"),
    ('cat\x1bdog', r"has a '\\x1b' in it"),
    ('\u201cdog\u201d', 'has a \u201c in it'),
    ('classes.docx', 'looks like the name of a file'),
    ('n02124075 Egyptian cat', 'WordNet'),
    ('cat, 255, 128', "'255' of class 'cat' is a number"),
  ],
)
def test_what_is_hardly_a_word_is_noted(word, note):
  notes = Vocabulary.parse(f'{word}; tree').check()
  assert any(re.search(note, text) for text in notes), notes


def test_words_are_utf_8_in_the_plainest_locale():
  typed = 'Kätzchen; 狗'.encode().decode('ascii', 'surrogateescape')
  assert [name for name, _, _ in classes(typed)] == ['Kätzchen', '狗']


@pytest.mark.parametrize('text', ['/no/such', './names', '~/classes'])
def test_a_path_that_is_not_there_is_no_word(text):
  with pytest.raises(FileNotFoundError, match='no vocabulary file'):
    Vocabulary.parse(text)


def test_numbers_may_have_words():
  assert classes({3: ['cat', 'kitten']}) == [('cat', ('cat', 'kitten'), 3)]
  assert classes({np.int64(3): 'cat'}) == [('cat', ('cat',), 3)]


def test_a_yes_of_yaml_is_no_name(tmp_path):
  (tmp_path / 'data.yaml').write_text('names: {0: cat, 1: yes}')
  with pytest.raises(ValueError, match='is called True, which is not a text: put it'):
    Vocabulary.parse(tmp_path / 'data.yaml')


def test_synonyms_of_lvis_are_words():
  rows = [{'id': 2, 'name': 'cab', 'synonyms': ['taxi', 'cab', 'Taxi']}]
  assert classes({'categories': rows}) == [('cab', ('cab', 'taxi'), 2)]


def test_dictionaries_keep_their_words():
  assert classes({'disk': ['disk', 'circle'], 'star': ['star']}) == [
    ('disk', ('disk', 'circle'), None),
    ('star', ('star',), None),
  ]
  assert classes({'disk': 'disk, circle'})[0][1] == ('disk', 'circle')
  assert classes({0: 'cat', 7: 'dog'}) == [('cat', ('cat',), 0), ('dog', ('dog',), 7)]
  assert classes({'0': 'cat', '7': 'dog'})[1][2] == 7
  assert classes([['disk', 'circle'], ['star']])[0][1] == ('disk', 'circle')
  assert classes(Vocabulary.parse('cat; dog').classes) == plain('cat', 'dog')
  assert classes(Vocabulary.parse('cat')) == plain('cat')


@pytest.mark.parametrize('spec', [{'cat', 'dog'}, frozenset({'cat'}), b'cat', 5, None])
def test_what_is_no_list_is_refused(spec):
  with pytest.raises(ValueError, match='a list in a fixed order'):
    Vocabulary.parse(spec)
  with pytest.raises(ValueError, match='list of classes'):
    Vocabulary.parse({'cat': spec})


def test_typed_text_with_separators_is_text():
  assert classes('#1 shirt; cat') == plain('#1 shirt', 'cat')
  assert classes('#1 shirt') == plain('#1 shirt')
  assert classes('coco_nut; x') == plain('coco_nut', 'x')


@pytest.mark.parametrize('letters', ['x', 'ab'])
def test_a_word_of_a_megabyte_takes_seconds(tmp_path, letters):
  """Ten times the length takes about ten times as long, and a message stays short."""
  times = []
  for length in (20_000, 200_000):
    (tmp_path / 'x.txt').write_text('cat\n' + letters * (length // len(letters)) + '\n')
    start = time.process_time()
    notes = Vocabulary.parse(tmp_path / 'x.txt').check()
    times.append(time.process_time() - start)
    assert all(len(note) < 300 for note in notes)
    assert any('tokens' in note for note in notes)
  # A quadratic time would be a hundred times as long.
  assert times[1] < 30 * times[0] + 1
  (tmp_path / 'x.txt').write_text('cat\n' + letters * 500_000)
  with pytest.raises(
    ValueError, match=r'has a word of [\d,]+00,000 letters'
  ) as refused:
    Vocabulary.parse(tmp_path / 'x.txt')
  assert len(str(refused.value)) < 400


def test_merging_gives_the_same_tokens_in_any_order():
  """Of equal ranks the left pair goes first, as one merge after another would do."""
  assert tokenizer.encode('aaaaaaa') == tokenizer.encode(' aaaaaaa ')
  rows = [tokenizer.encode('x' * length) for length in (7, 8, 9, 30)]
  assert all(rows)
  # Recorded with one merge after another.
  tokens = [12232, 1159, 37215, 1388, 20055]
  assert tokenizer.encode('mississippi banananana zzz') == tokens


@pytest.mark.parametrize(
  'text',
  [
    '[' * 5_000,
    '{"classes": ' * 5_000,
    '{"classes": [{"name": "a", "id": true}]}',
    '{"classes": [{"name": "a", "id": 1.5}]}',
    '{"classes": [{"name": ["a"]}]}',
    '{"classes": [{"name": {"a": 1}}]}',
    '{"classes": [{"name": "a", "words": {"b": 1}}]}',
    '{"classes": [{"name": "a", "words": [["b"]]}]}',
    '{"classes": [{"name": "a", "thing": "yes"}]}',
    '{"classes": [{"name": "a", "color": ["r", "g", "b"]}]}',
    '{"classes": [{"name": "a", "prompts": {"ovseg": "b"}}]}',
    '{"classes": [null]}',
    '{"classes": {"a": 1}}',
    '{"categories": [{"name": "a", "isthing": "0"}]}',
    '{"name": 5, "classes": ["a"]}',
    '{"provenance": [], "classes": ["a"]}',
    '{"treatment": 5, "classes": ["a"]}',
    '{"treatment": [1], "classes": ["a"]}',
    '{"treatment": {"void": 3}, "classes": ["a"]}',
    '{"treatment": {"templates": [1]}, "classes": ["a"]}',
    '{"treatment": {"templates": 1}, "classes": ["a"]}',
    '{"treatment": {"normalise_first": "x"}, "classes": ["a"]}',
    '{"treatments": 5, "classes": ["a"]}',
    '{"treatments": {"ovseg": []}, "classes": ["a"]}',
    '{}',
    'null',
    '"a"',
    '1e999',
  ],
)
def test_wrong_json_is_one_line(tmp_path, text):
  (tmp_path / 'x.json').write_text(text)
  with pytest.raises(ValueError, match=r'x\.json: ') as error:
    Vocabulary.parse(tmp_path / 'x.json').check()
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(
  'content', [b'\xff\xfeq', b'\x89PNG\r\n\x1a\n\0\0', b'cat\0dog', b'caf\xe9']
)
def test_what_is_no_text_is_one_line(tmp_path, content):
  for name in ('x.txt', 'x.json', 'x.csv', 'x.yaml'):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match='not a text in UTF-8'):
      Vocabulary.parse(tmp_path / name)


def test_windows_text(tmp_path):
  (tmp_path / 'x.txt').write_bytes('cat\r\ndog'.encode('utf-16'))
  assert classes(tmp_path / 'x.txt') == plain('cat', 'dog')
