"""Safetensors files: the reference library agrees, and damage is found."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors


@pytest.fixture
def tensors():
  rng = np.random.default_rng(0)
  normal = rng.standard_normal((3, 4, 5), np.float32)
  return {
    'b/kernel': normal,
    'view': normal.transpose(2, 0, 1),
    'half': normal.astype(np.float16),
    'brain': normal.astype(ml_dtypes.bfloat16),
    'scalar': np.asarray(2.5, np.float32),
    'empty': np.zeros((0, 3), np.float32),
    'steps': np.arange(7),
    'flags': np.asarray([True, False, True]),
    'double': normal.astype(np.float64),
  }


def equal(ours, theirs):
  assert ours.keys() == theirs.keys()
  for name, array in theirs.items():
    assert ours[name].dtype == array.dtype, name
    assert ours[name].shape == array.shape, name
    assert ours[name].tobytes() == array.tobytes(), name


def test_the_reference_library_reads_what_we_write(tmp_path, tensors):
  write_tensors(tmp_path / 'x', tensors, {'format': 'np', 'note': 'größer'})
  equal(safetensors.numpy.load_file(tmp_path / 'x'), tensors)
  with safetensors.safe_open(tmp_path / 'x', 'np') as file:
    assert file.metadata() == {'format': 'np', 'note': 'größer'}


def test_we_read_what_the_reference_library_writes(tmp_path, tensors):
  # The library stores an array's memory as it lies, so a view must be copied first.
  plain = {
    name: np.ascontiguousarray(a).reshape(a.shape) for name, a in tensors.items()
  }
  safetensors.numpy.save_file(plain, tmp_path / 'x', {'format': 'pt'})
  file = TensorFile(tmp_path / 'x')
  equal(file, tensors)
  assert file.metadata == {'format': 'pt'}
  assert file.shapes() == {name: array.shape for name, array in tensors.items()}


def test_our_own_round_trip_starts_the_data_on_eight_bytes(tmp_path, tensors):
  write_tensors(tmp_path / 'x', tensors)
  equal(TensorFile(tmp_path / 'x'), tensors)
  assert int.from_bytes((tmp_path / 'x').read_bytes()[:8], 'little') % 8 == 0


def test_every_truncation_is_found(tmp_path, tensors):
  write_tensors(tmp_path / 'x', tensors)
  whole = (tmp_path / 'x').read_bytes()
  for length in (0, 4, 8, 9, 50, len(whole) // 2, len(whole) - 1):
    (tmp_path / 'cut').write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r'cut (is cut short|is not a safetensors)'):
      TensorFile(tmp_path / 'cut')


def _file(path, header, data=b''):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + data)
  return path


@pytest.mark.parametrize(
  'entry',
  [
    {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 4]},
    {'dtype': 'F32', 'shape': [-1], 'data_offsets': [0, -4]},
    {'dtype': 'F32', 'shape': [1], 'data_offsets': [-4, 0]},
    {'dtype': 'F7', 'shape': [1], 'data_offsets': [0, 4]},
    {'dtype': 'F32', 'shape': 1, 'data_offsets': [0, 4]},
    {'dtype': 'F32', 'shape': [1]},
    'text',
  ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, entry):
  path = _file(tmp_path / 'x', {'weight': entry}, bytes(8))
  with pytest.raises(ValueError, match="the header describes 'weight'"):
    TensorFile(path)


def test_metadata_may_be_null_and_nothing_else(tmp_path):
  entry = {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}
  path = _file(tmp_path / 'x', {'__metadata__': None, 'a': entry}, bytes(4))
  assert TensorFile(path).metadata == {}
  with pytest.raises(ValueError, match='__metadata__ of the header is not a table'):
    TensorFile(_file(tmp_path / 'x', {'__metadata__': 'text', 'a': entry}, bytes(4)))


@pytest.mark.parametrize(
  'header', [b'not json', b'[1, 2]', b'\xff\xfe', b'{"a":' + b'[' * 5000]
)
def test_foreign_bytes_are_refused(tmp_path, header):
  with pytest.raises(ValueError, match='not a safetensors file: no JSON header'):
    TensorFile(_file(tmp_path / 'x', header))


def test_a_huge_header_length_is_refused_without_reading_it(tmp_path):
  (tmp_path / 'x').write_bytes((2**62).to_bytes(8, 'little') + b'{}')
  with pytest.raises(ValueError, match='not a safetensors file'):
    TensorFile(tmp_path / 'x')


def test_a_dtype_the_format_lacks_is_refused(tmp_path):
  with pytest.raises(ValueError, match='x: complex64 cannot be stored'):
    write_tensors(tmp_path / 'x', {'x': np.zeros(2, np.complex64)})
