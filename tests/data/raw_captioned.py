"""Small pairs of photo and text in every form that `data.captioned` reads."""

import io
import json
import pathlib
import tarfile

from raw_files import jpeg, tarred, write

SIZE = (40, 48)
CAPTIONS = {
  'cat': ['a cat on a sofa', 'a sleeping cat'],
  'dog': ['a dog'],
  'hen': ['two hens'],
}


def photo(name: str) -> bytes:
  """The photo of a pair."""
  return jpeg(list(CAPTIONS).index(name), SIZE)


def shard(*names: str, **texts: str) -> bytes:
  """A webdataset tar; `texts` replace captions, '' writes none."""
  files = {}
  for name in names:
    files[f'{name}.jpg'] = photo(name)
    text = texts.get(name, '\n'.join(CAPTIONS[name]))
    if text:
      files[f'{name}.txt'] = text.encode()
      files[f'{name}.json'] = b'{"url": "somewhere"}'
  return tarred(files)


def without_end(tar: bytes) -> bytes:
  """A tar that stops after its last file."""
  with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
    archive.getmembers()
    return tar[: archive.offset]


def write_tars(root: pathlib.Path) -> pathlib.Path:
  write(root, {'00000.tar': shard('cat', 'dog'), '00001.tar': shard('hen')})
  return root


def write_folder(root: pathlib.Path) -> pathlib.Path:
  write(
    root,
    {
      'a/cat.jpg': photo('cat'),
      'a/cat.txt': '\n'.join(CAPTIONS['cat']).encode(),
      'a/dog.jpg': photo('dog'),
      'a/dog.json': json.dumps({'caption': 'a dog'}).encode(),
      'hen.JPG': photo('hen'),
      'hen.txt': b' two hens \n\n',
      'README.txt': b'not a pair',
    },
  )
  return root


def write_coco(root: pathlib.Path) -> pathlib.Path:
  numbers = {name: number for number, name in enumerate(CAPTIONS, 1)}
  rows = [(name, text) for name, texts in CAPTIONS.items() for text in texts]
  data = {
    'images': [{'id': n, 'file_name': f'{name}.jpg'} for name, n in numbers.items()],
    'annotations': [
      {'id': position, 'image_id': numbers[name], 'caption': text}
      for position, (name, text) in enumerate(rows)
    ],
  }
  photos = {f'photos/{name}.jpg': photo(name) for name in CAPTIONS}
  write(root, {'captions_train.json': json.dumps(data).encode(), **photos})
  return root


def _rows(separator: str) -> str:
  return '\n'.join(
    f'images/{name}.jpg{separator}{text}'
    for name, texts in CAPTIONS.items()
    for text in texts
  )


def write_list(root: pathlib.Path) -> pathlib.Path:
  """As CC3M for open_clip: a head, tabs, although it is called CSV."""
  photos = {f'images/{name}.jpg': photo(name) for name in CAPTIONS}
  text = 'filepath\ttitle\n' + _rows('\t')
  write(root, {'train.csv': text.encode(), **photos})
  return root


def write_headless(root: pathlib.Path) -> pathlib.Path:
  photos = {f'images/{name}.jpg': photo(name) for name in CAPTIONS}
  write(root, {'train.tsv': _rows('\t').encode(), **photos})
  return root


def write_parquet(root: pathlib.Path) -> pathlib.Path:
  """As on a hub of datasets: photos in a struct, row groups of two."""
  import pyarrow
  import pyarrow.parquet

  table = pyarrow.table(
    {
      'image': [{'bytes': photo(name), 'path': f'{name}.jpg'} for name in CAPTIONS],
      'caption': list(CAPTIONS.values()),
    }
  )
  buffer = io.BytesIO()
  pyarrow.parquet.write_table(table, buffer, row_group_size=2)
  write(root, {'train-00000.parquet': buffer.getvalue()})
  return root
