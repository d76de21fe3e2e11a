"""Operations are counted by hand for the programs that networks are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from maskclip_jax.train.flops import count_flops

PRODUCT = 2 * 3 * 4 * 5
X, W = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
SQUARE = np.ones((4, 4), np.float32)


def counted(f, *args) -> int:
  return count_flops(jax.jit(f).trace(*args).jaxpr)


def test_a_product_of_matrices():
  assert counted(lambda x, w: jax.nn.relu(x @ w) + 1, X, W) == PRODUCT


def test_a_batch_of_products():
  def f(x, y):
    return jnp.einsum('bij,bkj->bik', x, y)

  assert counted(f, np.ones((7, 3, 4)), np.ones((7, 5, 4))) == 7 * PRODUCT


def test_a_gradient_costs_two_more():
  def loss(w, x):
    return ((x @ w) ** 2).sum()

  # The product itself and that with the gradient.
  assert counted(jax.grad(loss), W, X) == 2 * PRODUCT
  assert counted(jax.grad(loss, (0, 1)), W, X) == 3 * PRODUCT


def test_what_is_computed_again_counts_again():
  def loss(w, x):
    return (jnp.sin(jnp.sin(x @ w) @ w) ** 2).sum()

  plain = counted(jax.grad(loss), SQUARE, X)
  again = counted(jax.grad(jax.checkpoint(loss)), SQUARE, X)
  assert again == plain + 2 * (2 * 3 * 4 * 4)


def test_a_loop_counts_as_often_as_it_runs():
  def f(x):
    return jax.lax.scan(lambda x, _: (x @ SQUARE, None), x, None, length=6)[0]

  assert counted(f, X) == 6 * 2 * 3 * 4 * 4
  # The weights are constant: only the input has a gradient.
  assert counted(jax.grad(lambda x: f(x).sum()), X) == 6 * 2 * 2 * 3 * 4 * 4


def test_the_dearest_branch_counts():
  def f(x, w, which):
    return jax.lax.cond(which, lambda: (x @ w).sum(), lambda: x.sum())

  assert counted(f, X, W, True) == PRODUCT


@pytest.mark.parametrize('stride', [1, 2])
def test_a_convolution_and_its_gradient(stride):
  image, kernel = np.ones((2, 8, 8, 3), np.float32), np.ones((3, 3, 3, 5), np.float32)

  def f(image, kernel):
    return jax.lax.conv_general_dilated(
      image,
      kernel,
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  forward = 2 * (2 * (8 // stride) ** 2 * 5) * 9 * 3
  assert counted(f, image, kernel) == forward
  both = counted(jax.grad(lambda *a: (f(*a) ** 2).sum(), (0, 1)), image, kernel)
  # Each gradient takes the products of the forward pass, padding aside.
  assert both == pytest.approx(3 * forward, rel=0.05)


@pytest.mark.eight_devices
def test_all_devices_count():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  f = jax.shard_map(lambda x: x @ W, mesh=mesh, in_specs=P('data'), out_specs=P('data'))
  assert counted(f, np.ones((24, 4), np.float32)) == 8 * PRODUCT
