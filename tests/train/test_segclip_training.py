"""SegCLIP's training task: what trains, what is refused, and many devices.

The losses and their gradients with the official draws are in systems/test_segclip.py.
"""

import dataclasses
import functools
import math
import re

import jax
import numpy as np
import pytest
import tiny_stages
from device_runs import starting
from small_towers import loss_and_gradients
from two_processes import run_both

from configs import segclip as shipped
from maskclip_jax.data.pipeline import train_stream
from maskclip_jax.train.config import read
from maskclip_jax.train.mesh import MeshConfig, make_mesh
from maskclip_jax.train.optim import factors
from maskclip_jax.train.step import make_program
from maskclip_jax.train.task import Layout, make_task

LOSSES = {
  'contrastive': 'loss_clip',
  'superpixel': 'loss_superpixel',
  'reconstruction': 'loss_reconstruction',
}


def count(shapes, paths) -> int:
  return sum(math.prod(shapes[path].shape) for path in paths)


def published():
  """The shipped configuration, with a name in the place of a CLIP."""
  values = shipped.get_config().to_dict()
  values['start']['clip']['source'] = 'CLIP'
  return read(values)


def test_what_trains_how_fast_and_what_decays():
  """Counts of the specification; the rates are 4e-3 and 4e-6 [segclip 3.4, 3.5]."""
  config = published()
  layout = Layout.of(make_task(config))
  trained = layout.trained
  assert count(layout.shapes, trained) == 162_644_169
  rates = factors(trained, config.optim.lr_factors)
  slow = [path for path, factor in rates.items() if factor == 1e-3]
  assert round(count(layout.shapes, slow) / 1e6, 1) == 109.0
  fast = set(trained) - set(slow)
  assert round(count(layout.shapes, fast) / 1e6, 1) == 53.7
  assert {p for p in fast if p.startswith('clip/')} == {
    p for p in trained if re.match(r'clip/visual/(.*/1[01]/|ln_post|proj)', p)
  }
  decay = factors(trained, config.optim.decay_factors)
  assert {path for path in trained if not decay[path]} == {
    path for path in trained if path.endswith('bias')
  }
  assert decay['clip/logit_scale'] == decay['reconstruction/mask_token'] == 1


def _program(**settings):
  """The loss of a batch of generated pictures as a function, and its arguments."""
  config = tiny_stages.stage('segclip', settings=settings)
  task = make_task(config)
  layout = Layout.of(task)
  values = dict(starting('segclip'))
  with train_stream(config.data) as stream:
    batch = {k: v for k, v in next(stream).items() if k != 'image_id'}

  def loss(values, batch, key):
    return task.loss(layout.merge(values), values, batch, key)

  return loss, (values, batch, jax.random.key(1))


def test_the_loss_is_the_weighted_sum():
  weights = {'contrastive': 0.5, 'superpixel': 20.0, 'reconstruction': 2.0}
  loss, arguments = _program(**weights)
  value, terms = jax.jit(loss)(*arguments)
  total = sum(weight * terms[LOSSES[name]] for name, weight in weights.items())
  np.testing.assert_allclose(value, total, rtol=1e-6)
  assert 1 <= terms['groups'] <= 4


def test_a_loss_of_no_weight_is_not_computed():
  """Nothing is painted and no superpixels are read."""
  loss, (values, batch, key) = _program(superpixel=0.0, reconstruction=0.0)
  del batch['superpixels']
  _, terms = jax.eval_shape(loss, values, batch, key)
  assert set(terms) == {'loss_clip', 'accuracy', 'scale', 'groups'}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data': {'canvas': 32}}, 'canvas is 32 and this CLIP sees 64'),
    ({'data': {'caption_tokens': 78}}, 'caption_tokens is 78 and this CLIP reads at m'),
    (
      {'data': {'superpixel_patch': 0}},
      'superpixel_patch is 0 and the patches of this',
    ),
    ({'data': {'caption_tokens': 0}}, 'must be more than 0 for segclip'),
    ({'settings': {'mixed': 3}}, 'mixed is 3: it must divide the batch of 2'),
    (
      {'settings': {'mixed': 2}, 'optim': {'accumulate': 2}},
      'must not be accumulated in parts',
    ),
    (
      {'settings': dict.fromkeys(LOSSES, 0.0)},
      'all weights of the losses are 0',
    ),
    ({'preset': 'clip_vit_tiny', 'model': {}}, 'trains a segclip, not a clip'),
  ],
)
def test_what_does_not_fit_is_one_line(changes, message):
  with pytest.raises(ValueError, match=message):
    make_task(tiny_stages.stage('segclip', **changes))


MESHES = [
  (MeshConfig(data=1), 1),
  (MeshConfig(data=8), 8),
  (MeshConfig(data=2, fsdp=4, min_size=64), 8),
]


@functools.cache
def alone() -> tuple[float, dict[str, np.ndarray]]:
  """The reference: one device, all pairs at once."""
  return loss_and_gradients(*MESHES[0], 1)


def assert_same_as_alone(value: float, found: dict[str, np.ndarray]):
  """Equal to 1e-6 to what one device finds at once: sums are in another order."""
  expected, others = alone()
  assert expected > 1
  assert value == pytest.approx(expected, rel=1e-6)
  assert set(found) == set(others)
  for path, gradient in found.items():
    atol = 1e-6 * np.abs(others[path]).max()
    np.testing.assert_allclose(gradient, others[path], rtol=0, atol=atol, err_msg=path)


@pytest.mark.eight_devices
@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize(('mesh', 'devices'), MESHES)
def test_the_contrastive_loss_is_that_of_the_whole_batch(mesh, devices, accumulate):
  """Sixteen pairs, each the wrong answer of all others, wherever they are."""
  assert_same_as_alone(*loss_and_gradients(mesh, devices, accumulate))


# Prints nothing but errors; the first process saves what it found.
_PROGRAM = """
import numpy as np
from small_towers import loss_and_gradients
from maskclip_jax.train.mesh import MeshConfig
for accumulate in (1, 2):
  value, found = loss_and_gradients(MeshConfig(2, 4, min_size=64), 8, accumulate)
  if number == '0':
    np.savez(f'{arguments[0]}/{accumulate}.npz', loss=value, **found)
"""


@pytest.mark.slow
def test_the_contrastive_loss_in_two_processes(tmp_path):
  """Each has half of the pairs, and all are compared; at once and in parts."""
  run_both(_PROGRAM, str(tmp_path))
  for accumulate in (1, 2):
    with np.load(tmp_path / f'{accumulate}.npz') as found:
      gradients = dict(found)
    assert_same_as_alone(float(gradients.pop('loss')), gradients)


def of_the_network(mesh_config: MeshConfig, devices: int, accumulate: int):
  """Loss and gradients of the whole task: sixteen pairs, all three losses."""
  config = tiny_stages.stage(
    'segclip', data={'batch_size': 16}, optim={'accumulate': accumulate}
  )
  config = dataclasses.replace(config, mesh=mesh_config)
  program = make_program(config, make_mesh(mesh_config, jax.devices()[:devices]))
  state = program.start(starting('segclip'))
  with program.stream(0) as stream:
    batch = program.batch(next(stream))

  def loss(params, frozen, batch, key):
    flat = {**frozen, **params}
    return program.task.loss(program.layout.merge(flat), flat, batch, key)[0]

  value, found = jax.jit(jax.value_and_grad(loss))(
    state.params, state.frozen, batch, jax.random.key(3)
  )
  return float(value), {path: np.asarray(x) for path, x in found.items()}


@pytest.mark.slow
@pytest.mark.eight_devices
def test_the_whole_task_on_eight_devices_and_in_parts():
  """Draws and losses are those of one device; unscaled scores of the assignment make
  more of the rounding of float32 than the loss itself does."""
  value, found = of_the_network(*MESHES[2], accumulate=2)
  expected, others = of_the_network(*MESHES[0], accumulate=1)
  assert value == pytest.approx(expected, rel=1e-6)
  largest = max(np.abs(x).max() for x in others.values())
  for path, gradient in found.items():
    np.testing.assert_allclose(
      gradient, others[path], rtol=0, atol=2e-5 * largest, err_msg=path
    )
