"""SegCLIP's contrastive loss with towers of one product each, over any devices."""

import types

import jax
import numpy as np

from maskclip_jax import zoo
from maskclip_jax.train import mesh as meshes
from maskclip_jax.train.mesh import MeshConfig, make_mesh
from maskclip_jax.train.task import MODEL
from maskclip_jax.train.tasks.segclip import SegCLIPLossConfig, SegCLIPTraining

_PAIRS, _SIDE, _TEXT, _WIDTH = 16, 4, 16, 32


class Towers(SegCLIPTraining):
  """The task with towers whose sums round little."""

  def photo_losses(self, model, photos, superpixels, keys):
    return photos.reshape(len(photos), -1) @ model.photos, {}


def loss_and_gradients(
  mesh_config: MeshConfig, devices: int, accumulate: int
) -> tuple[float, dict[str, np.ndarray]]:
  """Of sixteen pairs on some of the devices; every process has the whole result."""
  mesh = make_mesh(mesh_config, jax.devices()[:devices])
  config = SegCLIPLossConfig(superpixel=0.0, reconstruction=0.0)
  parts = meshes.in_parts(accumulate)
  task = Towers(zoo.find_preset('segclip_tiny'), config, in_parts=parts)
  rng = np.random.default_rng(0)
  values = {
    'photos': rng.normal(size=(3 * _SIDE**2, _WIDTH)).astype(np.float32),
    'texts': rng.normal(size=(_TEXT, _WIDTH)).astype(np.float32),
    'scale': np.float32(3),
  }
  batch = {
    'image': rng.integers(0, 256, (_PAIRS, _SIDE, _SIDE, 3), np.uint8),
    'tokens': rng.integers(0, _TEXT, (_PAIRS, 5), np.int32),
  }
  host, hosts = meshes.host_rows(mesh)
  own = slice(host * _PAIRS // hosts, (host + 1) * _PAIRS // hosts)

  def loss(values, batch):
    clip = types.SimpleNamespace(
      text=lambda tokens: values['texts'][tokens].mean(1), logit_scale=values['scale']
    )
    model = types.SimpleNamespace(clip=clip, photos=values['photos'])
    return task.loss({MODEL: model}, {}, batch, jax.random.key(0))[0]

  placed = jax.device_put(values, meshes.shardings(values, mesh, mesh_config))
  rows = meshes.to_devices({name: x[own] for name, x in batch.items()}, mesh)
  everywhere = jax.NamedSharding(mesh, jax.P())
  program = jax.jit(jax.value_and_grad(loss), out_shardings=everywhere)
  value, found = program(placed, rows)
  return float(value), {path: np.asarray(x) for path, x in found.items()}
