"""Opening official files: what they hold, and one line for each way they are bad."""

import io
import pickle
import re
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

from maskclip_jax.checkpoints import files

STATE = {
  'visual.proj': np.arange(6, dtype=np.float32).reshape(2, 3),
  'logit_scale': np.asarray(4.6, np.float32),
}


class Bomb:
  """Unpickling this would create a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (open, (str(self.path), 'w'))


def assert_state(read):
  assert set(read) == set(STATE)
  for key, array in STATE.items():
    np.testing.assert_array_equal(read[key], array)


def refused(path, *words):
  """The file is refused in one line that names it."""
  with pytest.raises(ValueError, match=re.escape(path.name)) as error:
    files.read_checkpoint(path)
  message = str(error.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message


def zip_of(path, members):
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  return path


def test_safetensors_whatever_the_name(tmp_path):
  safetensors.numpy.save_file(STATE, tmp_path / 'weights.bin')
  assert_state(files.read_checkpoint(tmp_path / 'weights.bin'))


def test_half_precision_arrives(tmp_path):
  for dtype in (np.float16, ml_dtypes.bfloat16):
    half = {key: array.astype(dtype) for key, array in STATE.items()}
    safetensors.numpy.save_file(half, tmp_path / 'x.safetensors')
    read = files.read_checkpoint(tmp_path / 'x.safetensors')
    for key, array in half.items():
      np.testing.assert_array_equal(np.asarray(read[key], np.float32), array)


def test_npz(tmp_path):
  np.savez(tmp_path / 'x.npz', **STATE)
  assert_state(files.read_checkpoint(tmp_path / 'x.npz'))


def test_msgpack_trees_are_flattened(tmp_path):
  tree = {'params': {'visual': {'resblocks.0': {'kernel': STATE['visual.proj']}}}}
  (tmp_path / 'x.msgpack').write_bytes(serialization.msgpack_serialize(tree))
  read = files.read_checkpoint(tmp_path / 'x.msgpack')
  assert list(read) == ['params/visual/resblocks.0/kernel']


def test_data_parallel_prefixes_go(tmp_path):
  named = {f'module.{key}': array for key, array in STATE.items()}
  safetensors.numpy.save_file(named, tmp_path / 'x.safetensors')
  assert_state(files.read_checkpoint(tmp_path / 'x.safetensors'))
  compiled = {f'module._orig_mod.{key}': array for key, array in STATE.items()}
  safetensors.numpy.save_file(compiled, tmp_path / 'x.safetensors')
  assert_state(files.read_checkpoint(tmp_path / 'x.safetensors'))


def test_a_prefix_on_some_keys_stays(tmp_path):
  mixed = {'module.a': STATE['visual.proj'], 'b': STATE['logit_scale']}
  safetensors.numpy.save_file(mixed, tmp_path / 'x.safetensors')
  assert set(files.read_checkpoint(tmp_path / 'x.safetensors')) == set(mixed)


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'none\.pth does not exist'):
    files.read_checkpoint(tmp_path / 'none.pth')


def test_directories(tmp_path):
  """A repository's folder stands for the weights in it."""
  refused(tmp_path, 'is a directory without weights', 'give the checkpoint file')
  (tmp_path / 'pytorch_model.bin').touch()
  safetensors.numpy.save_file(STATE, tmp_path / 'model.safetensors')
  assert_state(files.read_checkpoint(tmp_path))
  (tmp_path / 'other.safetensors').touch()
  refused(tmp_path, 'several weights', 'model.safetensors, other.safetensors')
  safetensors.numpy.save_file(STATE, tmp_path / 'open_clip_model.safetensors')
  assert_state(files.read_checkpoint(tmp_path))


def test_a_repository_with_the_weights_of_two_libraries(tmp_path):
  """LAION's have open_clip's and transformers' files, whole or in parts."""
  (tmp_path / 'open_clip_pytorch_model.bin').touch()
  for part in (1, 2):
    (tmp_path / f'pytorch_model-0000{part}-of-00002.bin').touch()
  assert files.find_weights(tmp_path).name == 'open_clip_pytorch_model.bin'
  for part in (1, 2):
    (tmp_path / f'model-0000{part}-of-00002.safetensors').touch()
  assert files.find_weights(tmp_path).name == 'model-00001-of-00002.safetensors'


def test_a_header_that_begins_like_a_pickle(tmp_path):
  """One file in 32: the length of the header ends in the byte 0x80."""
  path = tmp_path / 'x.safetensors'
  for length in range(100):
    safetensors.numpy.save_file({'a' * length: np.zeros(1, np.float32)}, path)
    if path.read_bytes()[:1] == b'\x80':
      break
  assert path.read_bytes()[:1] == b'\x80'
  assert list(files.read_checkpoint(path)) == ['a' * length]


def test_parts_of_a_checkpoint(tmp_path):
  for i, (key, array) in enumerate(STATE.items(), 1):
    part = tmp_path / f'model-0000{i}-of-00002.safetensors'
    safetensors.numpy.save_file({f'module.{key}': array}, part)
  assert_state(files.read_checkpoint(tmp_path))
  assert_state(files.read_checkpoint(part))
  assert len(files.shards(part)) == 2
  safetensors.numpy.save_file(dict.fromkeys(['module.visual.proj'], array), part)
  refused(part, 'hold a tensor twice')
  (tmp_path / 'model-00001-of-00002.safetensors').unlink()
  refused(part, 'one of 2 parts', 'model-00001-of-00002.safetensors is not beside it')


def test_empty_file(tmp_path):
  (tmp_path / 'x.pth').touch()
  refused(tmp_path / 'x.pth', 'is empty')


def test_failed_downloads(tmp_path):
  page, pointer = tmp_path / 'page.pth', tmp_path / 'pointer.safetensors'
  page.write_text('\n<!DOCTYPE html><html>Google Drive cannot scan this file')
  refused(page, 'web page')
  pointer.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3')
  refused(pointer, 'Git LFS', 'git lfs pull')


def test_foreign_files(tmp_path):
  (tmp_path / 'photo.pth').write_bytes(b'\xff\xd8\xff\xe0' + bytes(100))
  refused(tmp_path / 'photo.pth', 'not a checkpoint we know')
  refused(zip_of(tmp_path / 'x.zip', {'readme.txt': 'hello'}), 'zip archive')
  (tmp_path / 'bad.msgpack').write_bytes(b'\x93\x01\x02\x03')
  refused(tmp_path / 'bad.msgpack', 'msgpack')


def test_truncated_safetensors_and_archives(tmp_path):
  safetensors.numpy.save_file(STATE, tmp_path / 'x.safetensors')
  whole = (tmp_path / 'x.safetensors').read_bytes()
  (tmp_path / 'x.safetensors').write_bytes(whole[:-1])
  refused(tmp_path / 'x.safetensors', 'cut short')
  np.savez(tmp_path / 'x.npz', **STATE)
  whole = (tmp_path / 'x.npz').read_bytes()
  (tmp_path / 'x.npz').write_bytes(whole[: len(whole) // 2])
  refused(tmp_path / 'x.npz', 'damaged or cut short')


def test_a_torchscript_archive_is_refused_with_where_to_find_the_weights(tmp_path):
  members = {'x/data.pkl': b'', 'x/code/__torch__.py': b'', 'x/constants.pkl': b''}
  path = zip_of(tmp_path / 'ViT-L-14-336px.pt', members)
  refused(
    path,
    'TorchScript',
    'timm/vit_large_patch14_clip_336.openai',
    'open_clip_model.safetensors',
  )


def test_a_plain_pickle_is_refused_and_never_run(tmp_path):
  path, proof = tmp_path / 'R-50.pkl', tmp_path / 'proof'
  with path.open('wb') as file:
    pickle.dump({'model': {'a': np.zeros(2)}, 'bomb': Bomb(proof)}, file)
  refused(path, 'plain pickle', 'safetensors.numpy.save_file')
  assert not proof.exists()


def test_a_pickled_npy_inside_an_npz_is_refused_and_never_run(tmp_path):
  proof, content = tmp_path / 'proof', io.BytesIO()
  np.save(content, np.array([Bomb(proof)], dtype=object), allow_pickle=True)
  path = zip_of(tmp_path / 'x.npz', {'a.npy': content.getvalue()})
  refused(path, 'plain arrays')
  assert not proof.exists()


def test_pytorch_files_need_pytorch(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  path = zip_of(tmp_path / 'x.pth', {'x/data.pkl': b'', 'x/version': b'3'})
  refused(path, 'pip install maskclip_jax[torch]', 'convert it to safetensors')


@pytest.fixture
def torch():
  return pytest.importorskip('torch')


def tensors(torch):
  return OrderedDict((k, torch.tensor(a)) for k, a in STATE.items())


def test_pytorch_state_dicts_bare_and_wrapped(torch, tmp_path):
  state = tensors(torch)
  wrapped = {'model': state, 'optimizer': {'lr': 0.1}, 'iteration': 7}
  parallel = {'epoch': 3, 'state_dict': {f'module.{k}': v for k, v in state.items()}}
  for content in (state, wrapped, parallel):
    for zipped in (True, False):
      torch.save(content, tmp_path / 'x', _use_new_zipfile_serialization=zipped)
      assert_state(files.read_checkpoint(tmp_path / 'x'))


def test_pytorch_half_precision_arrives(torch, tmp_path):
  for dtype in (torch.float16, torch.bfloat16):
    torch.save({'a': torch.tensor([1.5, -2.0], dtype=dtype)}, tmp_path / 'x.pth')
    read = files.read_checkpoint(tmp_path / 'x.pth')
    np.testing.assert_array_equal(np.asarray(read['a'], np.float32), [1.5, -2.0])


@pytest.mark.parametrize('zipped', [True, False])
def test_pytorch_files_with_objects_are_refused_and_never_run(torch, tmp_path, zipped):
  path, proof = tmp_path / 'x.pth', tmp_path / 'proof'
  content = {'model': tensors(torch), 'bomb': Bomb(proof)}
  torch.save(content, path, _use_new_zipfile_serialization=zipped)
  refused(path, 'could execute code', 'torch.save')
  assert not proof.exists()


@pytest.mark.parametrize('zipped', [True, False])
def test_truncated_pytorch_files(torch, tmp_path, zipped):
  path = tmp_path / 'x.pth'
  content = {'a': torch.zeros(1000)}
  torch.save(content, path, _use_new_zipfile_serialization=zipped)
  whole = path.read_bytes()
  for length in (len(whole) // 2, len(whole) - 4):
    path.write_bytes(whole[:length])
    refused(path, 'damaged or cut short')


def test_real_torchscript_archives_are_refused(torch, tmp_path):
  torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / 'x.pt')
  refused(tmp_path / 'x.pt', 'TorchScript')


def test_pytorch_files_without_a_state_dict(torch, tmp_path):
  for content, words in (
    ([1, 2], 'holds a list'),
    ({}, 'holds a dict'),
    ({'epoch': 3, 'net': {'a': torch.zeros(1)}}, "'net' is not a tensor"),
    ({'epoch': 3, 'name': 'x'}, 'holds no tensors, only epoch, name'),
    ({0: torch.zeros(1)}, '0 is not a tensor with a name'),
    ({'a': torch.zeros(1).to_sparse()}, "'a' is not a plain tensor"),
  ):
    torch.save(content, tmp_path / 'x.pth')
    refused(tmp_path / 'x.pth', words)


@pytest.mark.parametrize(
  'wrap',
  [
    lambda state: {'module': state},
    lambda state: {'state_dict': {'model': state}},
    lambda state: {'state_dict_ema': state, 'epoch': 3},
    lambda state: {'model_ema': state, 'model': state},
    lambda state: {**state, 'epoch': 3, 'name': 'x', 'best': 0.5, 'note': None},
  ],
)
def test_pytorch_wrappers_of_every_kind(torch, tmp_path, wrap):
  torch.save(wrap(tensors(torch)), tmp_path / 'x.pth')
  assert_state(files.read_checkpoint(tmp_path / 'x.pth'))


def test_parameters_that_require_a_gradient(torch, tmp_path):
  state = {k: torch.nn.Parameter(v) for k, v in tensors(torch).items()}
  torch.save(state, tmp_path / 'x.pth')
  assert_state(files.read_checkpoint(tmp_path / 'x.pth'))


def test_float8_arrives(torch, tmp_path):
  values = torch.tensor([1.5, -2.0, 0.0])
  for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
    state = {'a': values.to(dtype)}
    torch.save(state, tmp_path / 'x.pth')
    pytest.importorskip('safetensors.torch').save_file(
      state, tmp_path / 'x.safetensors'
    )
    for name in ('x.pth', 'x.safetensors'):
      read = files.read_checkpoint(tmp_path / name)
      np.testing.assert_array_equal(np.asarray(read['a'], np.float32), values)
