"""The residual network against the official outputs, and its frozen statistics."""

import golden
import jax
import jax.numpy as jnp
import mask2former_golden
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.checkpoints import params
from maskclip_jax.nn.resnet import FrozenBatchNorm, ResNet, Statistic, Stem


def test_features_match_the_official_ones():
  g = golden.load('mask2former')
  features = jax.jit(mask2former_golden.model().features)(mask2former_golden.images())
  assert list(features) == ['res2', 'res3', 'res4', 'res5']
  for name, x in features.items():
    official = mask2former_golden.channels_last(g[f'out/backbone/{name}'])
    golden.assert_close(x, official, name=f'backbone/{name}')


@pytest.mark.parametrize(
  ('depth', 'kernels'),
  # Without the classifier: 25,557,032 - 2,049,000 and 44,549,160 - 2,049,000 in
  # torchvision's counts, which include two trained numbers per norm channel.
  [(50, 25_557_032 - 2_049_000 - 53_120), (101, 44_549_160 - 2_049_000 - 105_344)],
)
def test_parameter_counts(depth, kernels):
  network = params.abstract(lambda: ResNet(depth, rngs=nnx.Rngs(0)))
  trained = params.flatten(nnx.state(network, nnx.Param))
  constants = params.flatten(nnx.state(network, Statistic))
  assert params.count(trained) == kernels
  assert all(path.endswith('/kernel') for path in trained)
  assert not set(trained) & set(constants)
  assert len(constants) == 4 * len(trained)


def test_an_unknown_depth_is_refused():
  with pytest.raises(ValueError, match='depth must be one of'):
    ResNet(34, rngs=nnx.Rngs(0))


def test_statistics_get_no_gradient_but_are_part_of_the_state():
  network = mask2former_golden.model().backbone
  graphdef, trained, rest = nnx.split(network, nnx.Param, ...)
  x = jnp.ones((1, 32, 32, 3))

  def loss(trained):
    return nnx.merge(graphdef, trained, rest)(x)['res5'].sum()

  gradients = params.flatten(jax.jit(jax.grad(loss))(trained))
  assert set(gradients) == {p for p in params.flatten(network) if '/norm/' not in p}
  assert all(np.abs(v).max() > 0 for v in gradients.values())


def test_frozen_norm_is_the_batch_norm_formula():
  norm = FrozenBatchNorm(3)
  norm.scale[...] = jnp.array([1.0, 2.0, 3.0])
  norm.bias[...] = jnp.array([0.5, 0.0, -1.0])
  norm.mean[...] = jnp.array([1.0, -1.0, 0.0])
  norm.var[...] = jnp.array([4.0, 0.25, 1.0])
  x = np.random.default_rng(0).standard_normal((5, 3))
  expected = [
    (x[:, i] - m) / np.sqrt(v + 1e-5) * s + b
    for i, (s, b, m, v) in enumerate([(1, 0.5, 1, 4), (2, 0, -1, 0.25), (3, -1, 0, 1)])
  ]
  # Float32 against float64.
  np.testing.assert_allclose(norm(jnp.asarray(x)), np.stack(expected, 1), atol=1e-5)


def test_stem_pools_windows_of_three_at_stride_two():
  stem = Stem(4, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
  before = np.pad(nnx.relu(stem.conv1(x))[0], ((1, 1), (1, 1), (0, 0)))
  pooled = stem(x)
  assert pooled.shape == (1, 8, 8, 4)
  window = before[2 * 3 : 2 * 3 + 3, 2 * 7 : 2 * 7 + 3].max((0, 1))
  np.testing.assert_array_equal(pooled[0, 3, 7], window)
