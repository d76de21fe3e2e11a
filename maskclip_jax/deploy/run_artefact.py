"""Segments a photo by the artefact that this file lies in.

Needs `pip install jax flatbuffers pillow`; in the place of jax and flatbuffers a
SavedModel needs `tensorflow` and ONNX `onnxruntime`.

python run_artefact.py PHOTO [--words WORDS.npz] [--out RESULT.npz]
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import pathlib
import zipfile

import numpy as np
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).parent
# NumPy knows bfloat16 once jax is there.
TYPES = {'F32': '<f4', 'BF16': 'bfloat16', 'I32': '<i4', 'I64': '<i8', 'BOOL': '?'}


@contextlib.contextmanager
def reading(path, advice='copy the artefact again'):
  """Ends with one line that names the file, whatever is wrong with it."""
  try:
    yield
  except Exception as error:
    reason = ' '.join(str(error).split())
    raise SystemExit(f'{path} cannot be read: {advice} ({reason})') from error


def library(name, package=None):
  """A library that this artefact needs; ends with one line where it is missing."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise SystemExit(
      f'this artefact needs {name}: pip install {package or name} ({error})'
    ) from None


def sha256(path):
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def read_manifest(place=HERE):
  """What an artefact holds."""
  path = place / 'manifest.json'
  with reading(path):
    manifest = json.loads(path.read_text())
    if not str(manifest['format']).startswith('maskclip_jax artefact'):
      raise ValueError('it belongs to something else')
  return manifest


def read_weights(path):
  """Name -> array of a safetensors file."""
  data = np.memmap(path, np.uint8, 'r')
  start = 8 + int(data[:8].view('<u8')[0])
  entries = json.loads(data[8:start].tobytes())
  entries.pop('__metadata__', None)
  return {
    name: data[slice(*(start + offset for offset in entry['data_offsets']))]
    .view(TYPES[entry['dtype']])
    .reshape(entry['shape'])
    for name, entry in entries.items()
  }


def load_program(entry, place=HERE):
  """A program of the manifest: inputs -> outputs, by name."""
  path, weights = place / entry['file'], entry['weights'] and place / entry['weights']
  if weights:
    with reading(weights):
      if sha256(weights) != entry['weights_sha256']:
        raise ValueError('it holds other weights than manifest.json says')
  if path.is_dir():
    tf = library('tensorflow')
    with reading(path):
      loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures['serving_default']
    # Its functions live as long as `loaded` does.
    return lambda inputs, loaded=loaded: serve(
      **{name: tf.constant(array) for name, array in inputs.items()}
    )
  if path.suffix == '.onnx':
    onnxruntime = library('onnxruntime')
    with reading(path):
      session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]

    def run(inputs):
      arrays = {name: np.asarray(array) for name, array in inputs.items()}
      return dict(zip(names, session.run(names, arrays), strict=True))

    return run
  jax, _ = library('jax'), library('flatbuffers')
  advice = (
    f'copy it again, or install the jax of manifest.json: this is {jax.__version__}'
  )
  with reading(path, advice):
    call = jax.jit(jax.export.deserialize(path.read_bytes()).call)
  if not weights:
    return call
  with reading(weights):
    arrays = jax.device_put(read_weights(weights))
  return lambda inputs: call(arrays, inputs)


def network_size(size, rule):
  """Height and width of a photo as the network sees it: the short edge first, then the
  long one if need be, each rounded."""
  scale = rule['short_edge'] / min(size)
  h, w = (rule['short_edge'] if n == min(size) else scale * n for n in size)
  if max(h, w) > rule['long_edge']:
    scale = rule['long_edge'] / max(h, w)
    h, w = h * scale, w * scale
  return max(int(h + 0.5), 1), max(int(w + 0.5), 1)


def resize(photo, height, width, rule):
  """Bilinear on uint8, by the library that the model was tested with."""
  if rule['resample'] == 'opencv' and photo.size != (width, height):
    cv2 = library('cv2', 'opencv-python-headless')
    return cv2.resize(np.asarray(photo), (width, height))
  return np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))


def prepare(photo, manifest):
  """The smallest program that holds a photo, and all its inputs but the words."""
  rule = manifest['preprocessing']
  original = photo.height, photo.width
  size = network_size(original, rule)
  entries = manifest['programs']['photo']
  fits = lambda hw, canvas: all(np.less_equal(hw, canvas))
  entry = next((one for one in entries if fits(size, one['canvas'])), None)
  if entry is None:
    canvases = ', '.join('{}x{}'.format(*one['canvas']) for one in entries)
    raise SystemExit(
      f'the network sees this photo as {size[0]}x{size[1]}, which fits no canvas of '
      f'{canvases}: export with a --canvas that holds it'
    )
  # Ids have the photo's size where their canvas holds it, else the network's.
  result = original if fits(original, entry['result_canvas']) else size
  # Where the manifest says no number, any will do.
  batch = entry['batch'] or 1
  pixels = np.zeros((batch, *entry['canvas'], 3), np.uint8)
  pixels[:, : size[0], : size[1]] = resize(photo, *size, rule)
  numbers = {
    name: np.asarray(number, entry['inputs'][name]['dtype'])
    for name, number in manifest['numbers'].items()
  }
  sizes = {'image_hw': size, 'result_hw': result}
  tiled = {name: np.tile(np.int32(hw), (batch, 1)) for name, hw in sizes.items()}
  return entry, {'pixels': pixels, **tiled, **numbers}, result


def read_words(path):
  """The names of a file of words, which are things, and its arrays as inputs."""
  with reading(path, 'write it by export --format words'):
    with open(path, 'rb') as file:
      # NumPy would take it for a pickle, and advise to trust it.
      if not zipfile.is_zipfile(file):
        raise ValueError('it is not a file of words')
    words = dict(np.load(path))
    return words.pop('names'), words.pop('things'), words


def check(words, inputs, entry, path):
  """Ends with one line where words are not those that a program takes beside its other
  inputs."""
  has = {name: list(array.shape) for name, array in words.items()}
  takes = {n: one['shape'] for n, one in entry['inputs'].items() if n not in inputs}
  for name in sorted({*has, *takes}):
    if has.get(name) != takes.get(name):
      raise SystemExit(
        f'{path} has {name} of {has.get(name)}, and the program takes '
        f'{takes.get(name)}: export the words with the model and the --bucket of this '
        'artefact'
      )


def read_photo(path):
  """A photo, upright, in RGB; what is transparent is white."""
  try:
    photo = Image.open(path)
    if is_deep(photo):
      raise SystemExit(f'{path} has more than 8 bits a channel: save it with 8')
    photo = ImageOps.exif_transpose(photo)
    if photo.has_transparency_data:
      white = Image.new('RGBA', photo.size, 'white')
      photo = Image.alpha_composite(white, photo.convert('RGBA'))
    return photo.convert('RGB')
  except Exception as error:
    # Decoders raise errors of any type on damage.
    raise SystemExit(f'{path} is not a photo that can be read: {error}') from None


def is_deep(photo):
  """Whether an opened photo has more than 8 bits a channel."""
  # Of colours with 16 Pillow keeps 8; 16 bits of a whole pixel are BGR;16.
  stored = [str(part[3]) for part in photo.tile]
  return photo.mode[0] in 'IF' or any(';16' in s and 'BGR' not in s for s in stored)


def save(path, arrays):
  """Writes a file of arrays, whole or not at all."""
  part = path.with_name(f'.{path.name}.part')
  try:
    with part.open('wb') as file:
      np.savez(file, **arrays)
    part.replace(path)
  except OSError as error:
    raise SystemExit(f'{path} cannot be written: {error.strerror}') from None
  finally:
    part.unlink(missing_ok=True)


def report(outputs, names):
  """Prints the segments, or where there are none the share of every class."""
  classes = outputs['semantic']
  if 'panoptic' in outputs:
    found = (outputs[f'segment_{name}'] for name in ('classes', 'scores', 'areas'))
    for column, score, area in zip(*found, strict=True):
      if column >= 0:
        print(f'{names[column]:32} score {score:.2f} {area / classes.size:7.1%}')
  else:
    for column in np.unique(classes):
      print(f'{names[column]:32} {(classes == column).mean():7.1%}')


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('photo', type=pathlib.Path)
  parser.add_argument('--words', type=pathlib.Path, default=HERE / 'words.npz')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('result.npz'))
  arguments = parser.parse_args()
  if not arguments.out.absolute().parent.is_dir():
    raise SystemExit(f'{arguments.out}: there is no folder {arguments.out.parent}')
  if arguments.out.is_dir():
    raise SystemExit(f'{arguments.out} is a folder: name a file, such as result.npz')
  photo = read_photo(arguments.photo)
  entry, inputs, (height, width) = prepare(photo, read_manifest())
  names, things, words = read_words(arguments.words)
  check(words, inputs, entry, arguments.words)
  outputs = load_program(entry)({**inputs, **words})
  outputs = {name: np.asarray(array)[0] for name, array in outputs.items()}
  for name in {'semantic', 'panoptic'} & set(outputs):
    outputs[name] = outputs[name][:height, :width]
  save(arguments.out, {'names': names, 'things': things, **outputs})
  report(outputs, names)


if __name__ == '__main__':
  main()
