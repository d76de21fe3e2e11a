"""Who attends: cuDNN's kernel where it fits, XLA elsewhere; both say the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax.nn.layers import attend, compiling_for
from maskclip_jax.ops import fused_attention

HALF, AMPERE, HOPPER = jnp.dtype('bfloat16'), (8, 0), (9, 0)


@pytest.mark.parametrize(
  ('dtype', 'width', 'gpu', 'suits'),
  [
    ('bfloat16', 64, AMPERE, True),
    ('float16', 128, (8, 6), True),
    ('bfloat16', 256, HOPPER, True),
    ('bfloat16', 256, AMPERE, False),
    ('bfloat16', 60, HOPPER, False),
    ('float32', 64, HOPPER, False),
    ('bfloat16', 64, (7, 5), False),
    ('bfloat16', 64, None, False),
  ],
)
def test_the_kernel_suits_half_precision_on_newer_gpus(dtype, width, gpu, suits):
  assert fused_attention.suits(jnp.dtype(dtype), width, gpu) == suits


class Gpu:
  """A device as JAX shows it."""

  def __init__(self, compute_capability):
    self.compute_capability = compute_capability


@pytest.fixture
def gpu(monkeypatch):
  """A machine with a GPU, as far as the choice is concerned."""

  def pretend(text):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(jax, 'local_devices', lambda: [Gpu(text)])

  compiles = fused_attention._compiles
  compiles.cache_clear()
  yield pretend
  compiles.cache_clear()


def test_the_gpu_that_is_here_decides(gpu):
  assert fused_attention.capability() is None
  assert fused_attention.form_for('cpu', HALF) == 'XLA'
  gpu('9.0')
  assert fused_attention.capability() == HOPPER
  assert fused_attention.form_for('gpu', HALF) == 'cuDNN'
  assert fused_attention.form_for('gpu', 'float32') == 'XLA'
  assert fused_attention.form_for('tpu', HALF) == 'XLA'
  with fused_attention.never():
    assert fused_attention.form_for('gpu', HALF) == 'XLA'
  # AMD's.
  gpu('gfx90a')
  assert fused_attention.capability() is None


def random(*shape, dtype='float32'):
  return jax.random.normal(jax.random.key(sum(shape)), shape).astype(dtype)


def test_shapes_without_a_kernel_fall_back(gpu, caplog):
  """Here no shape has one: there is no cuDNN."""
  q, k = random(1, 3, 2, 8, dtype=HALF), random(1, 5, 2, 8, dtype=HALF)
  expected = attend(q, k, k)
  gpu('9.0')
  with compiling_for('gpu'):
    np.testing.assert_array_equal(attend(q, k, k), expected)
    attend(q, k, k)
  (record,) = caplog.records
  assert 'cuDNN does not attend from (1, 3, 2, 8)' in record.getMessage()


def test_the_kernel_is_taken_where_it_compiles(gpu, monkeypatch):
  q, k = random(1, 3, 2, 8, dtype=HALF), random(1, 5, 2, 8, dtype=HALF)
  gpu('8.0')
  monkeypatch.setattr(fused_attention, '_compiles', lambda *shapes: True)
  assert fused_attention.applies(q, k, None)
  assert not fused_attention.applies(q[0], k[0], None)
  with fused_attention.never():
    assert not fused_attention.applies(q, k, None)
  monkeypatch.setattr(fused_attention, 'attend', lambda *arrays: 'fused')
  with compiling_for('gpu'):
    assert attend(q, k, k) == 'fused'
    assert attend(q, k, k, adjust=lambda scores: scores).shape == q.shape
  for platform in ('cpu', 'tpu'):
    with compiling_for(platform):
      assert attend(q, k, k).shape == q.shape


@pytest.mark.parametrize(
  'mask', [None, (2, 1, 3, 5), (1, 1, 1, 5), (3, 5), (2, 4, 3, 5)]
)
def test_odd_lengths_and_masks_give_the_same(mask):
  """JAX's own form of the call, which pads as the kernel's does; only the order of
  sums differs."""
  q, k, v = random(2, 3, 4, 8), random(2, 5, 4, 8), random(2, 5, 4, 8) + 1
  arrays = ()
  if mask is not None:
    seen = jax.random.bernoulli(jax.random.key(1), 0.5, mask)
    # Every query has an open position.
    arrays = (seen.at[..., 0].set(True),)

  def fused(*qkv):
    return fused_attention.attend(*qkv, *arrays, implementation='xla')

  def plain(*qkv):
    return attend(*qkv, *arrays)

  def gradients(function):
    squares = lambda *qkv: (function(*qkv) ** 2).sum()
    return jax.jit(jax.grad(squares, (0, 1, 2)))(q, k, v)

  ours, theirs = jax.jit(fused)(q, k, v), jax.jit(plain)(q, k, v)
  np.testing.assert_allclose(ours, theirs, atol=1e-5)
  for one, other in zip(gradients(fused), gradients(plain), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.fixture
def cudnn(monkeypatch):
  """Answers to what JAX asks about a GPU before it lowers for one."""
  jax_cudnn = pytest.importorskip('jax._src.cudnn.fused_attention_stablehlo')
  answers = {
    'check_cudnn_version': lambda: 91000,
    'check_compute_capability': lambda wanted: True,
    'is_cuda_compute_capability_equal': lambda wanted: False,
  }
  for name, answer in answers.items():
    monkeypatch.setattr(jax_cudnn, name, answer)


@pytest.mark.parametrize('mask', [None, (2, 1, 3, 5)])
def test_it_lowers_for_cuda_forward_and_backward(mask, cudnn):
  q = jax.ShapeDtypeStruct((2, 3, 4, 64), HALF)
  k = jax.ShapeDtypeStruct((2, 5, 4, 64), HALF)
  masks = () if mask is None else (jax.ShapeDtypeStruct(mask, bool),)

  def total(*arrays):
    return fused_attention.attend(*arrays).astype(jnp.float32).sum()

  def calls(function):
    traced = jax.jit(function).trace(q, k, k, *masks)
    return traced.lower(lowering_platforms=('cuda',)).as_text().count('@__cudnn$fmha')

  assert calls(fused_attention.attend) == 1
  assert calls(jax.grad(total, (0, 1, 2))) == 2


def test_programs_that_are_stored_do_without(gpu, cudnn, monkeypatch):
  gpu('9.0')
  monkeypatch.setattr(fused_attention, '_compiles', lambda *shapes: True)
  q = jax.ShapeDtypeStruct((2, 4, 4, 64), HALF)

  def store():
    # Another function each time: JAX traces the same one only once.
    program = jax.jit(lambda *arrays: attend(*arrays))
    with compiling_for('gpu'):
      return jax.export.export(program, platforms=['cuda'])(q, q, q)

  with pytest.raises(ValueError, match='__cudnn'):
    store()
  with fused_attention.never():
    assert 'cudnn' not in store().mlir_module()
