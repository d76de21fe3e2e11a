"""The state of a run, and the program that changes it, step by step.

State is explicit and flat: parameters by path, the optimiser's slots beside them, and
what is frozen. Only trained parameters have gradients, slots and a place in
checkpoints. The step is one program whose inputs and outputs lie where the mesh says.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from maskclip_jax.data.examples import Arrays
from maskclip_jax.data.pipeline import DataConfig, Stream, train_stream
from maskclip_jax.ops import deformable
from maskclip_jax.train import mesh as meshes
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.optim import make_optimizer
from maskclip_jax.train.task import Layout, Task, Terms, make_task

# What the losses read; the rest of a batch stays on the host.
ON_DEVICE = (
  *('image', 'image_hw', 'tokens', 'superpixels'),
  *('class', 'valid', 'crowd', 'segments', 'masks'),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """What a step takes and gives.

  Attributes:
    step: updates made so far.
    params: trained parameters by path.
    opt: the optimiser's slots.
    frozen: everything else the loss reads: frozen parameters and constants.
  """

  step: Int[Array, '']
  params: dict[str, Array]
  opt: optax.OptState
  frozen: dict[str, Array]


Step = Callable[
  [TrainState, Mapping[str, Array], Array], tuple[TrainState, dict[str, Array]]
]


@dataclasses.dataclass(frozen=True)
class Program:
  """A task laid out over a mesh, without any value.

  Attributes:
    config: the run's configuration.
    mesh: the devices.
    task: the loss.
    layout: which paths train.
    tx: the optimiser.
    placed: the sharding of every array of the state.
    step: (state, batch, key) -> (state, what to log), compiled when it first runs.
  """

  config: TrainConfig
  mesh: Mesh
  task: Task
  layout: Layout
  tx: optax.GradientTransformation
  placed: TrainState
  step: Step

  def stream(self, step: int) -> Stream:
    """This process's part of the batches from a step on."""
    host, hosts = meshes.host_rows(self.mesh)
    return train_stream(self.config.data, step, host=host, hosts=hosts)

  def batch(self, rows: Arrays) -> dict[str, Array]:
    """This process's rows of a batch, of what a loss reads, as arrays over the mesh."""
    kept = {name: rows[name] for name in ON_DEVICE if name in rows}
    return meshes.to_devices(kept, self.mesh)

  def trace(self) -> jax.stages.Traced:
    """The step traced from shapes alone, to be compiled or to be asked."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = abstract_state(self.layout, self.tx)
    return self.step.trace(state, abstract_batch(self.config.data), key)

  def start(self, values: Mapping[str, np.ndarray]) -> TrainState:
    """The state before the first step, from the values of all its paths."""
    layout, placed = self.layout, self.placed

    def put(value, sharding: NamedSharding) -> Array:
      value = np.asarray(value)
      return jax.make_array_from_callback(
        value.shape, sharding, lambda index: value[index]
      )

    trained = {path: put(values[path], placed.params[path]) for path in layout.trained}
    frozen = (*layout.frozen, *layout.constants)
    frozen = {path: put(values[path], placed.frozen[path]) for path in frozen}
    opt = jax.jit(self.tx.init, out_shardings=placed.opt)(trained)
    return TrainState(put(np.int32(0), placed.step), trained, opt, frozen)


def make_program(config: TrainConfig, mesh: Mesh) -> Program:
  """Lays a configuration out over a mesh.

  Raises:
    ValueError: parts of the configuration that do not fit each other.
  """
  accumulate = config.optim.accumulate
  meshes.check_batch(mesh, config.data.batch_size, accumulate)
  task = make_task(config, meshes.batched(mesh), meshes.in_parts(accumulate))
  layout = Layout.of(task)
  tx = make_optimizer(config.optim, layout.trained, config.total_steps)
  placed = meshes.shardings(abstract_state(layout, tx), mesh, config.mesh)
  step = make_step(task, layout, tx, mesh, placed)
  return Program(config, mesh, task, layout, tx, placed, step)


def abstract_state(layout: Layout, tx: optax.GradientTransformation) -> TrainState:
  """Shapes and types of a run's state."""

  def shape(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)

  trained = {path: shape(layout.shapes[path]) for path in layout.trained}
  frozen = {path: shape(layout.shapes[path]) for path in layout.frozen}
  frozen |= {path: shape(x) for path, x in layout.constants.items()}
  step = jax.ShapeDtypeStruct((), jnp.int32)
  return TrainState(step, trained, jax.eval_shape(tx.init, trained), frozen)


def abstract_batch(data: DataConfig) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and types of a batch of all processes, as `Program.batch` makes it."""
  b, n, side = data.batch_size, data.max_segments, data.canvas
  shapes = {'image': ((b, side, side, 3), np.uint8), 'image_hw': ((b, 2), np.int32)}
  if data.caption_tokens:
    shapes['tokens'] = ((b, data.caption_tokens), np.int32)
    if data.regions:
      shapes['segments'] = ((b, side, side), np.int16)
  else:
    shapes |= dict.fromkeys(('valid', 'crowd'), ((b, n), np.bool_))
    shapes['class'] = ((b, n), np.int32)
    if data.overlapping:
      shapes['masks'] = ((b, n, side, side // 8), np.uint8)
    else:
      shapes['segments'] = ((b, side, side), np.int16)
  if data.superpixel_patch:
    shapes['superpixels'] = ((b, (side // data.superpixel_patch) ** 2), np.int32)
  return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


def step_memory(compiled: jax.stages.Compiled) -> tuple[int, int]:
  """Bytes of a compiled step on each device: of state and batch, and of the rest."""
  memory = compiled.memory_analysis()
  return memory.argument_size_in_bytes, memory.temp_size_in_bytes


def make_step(
  task: Task,
  layout: Layout,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  placed: TrainState,
) -> Step:
  """The training step, to be compiled once.

  Args:
    task: the loss.
    layout: how parameters become modules.
    tx: the optimiser.
    mesh: the devices.
    placed: the sharding of every array of the state.

  Returns:
    (state, batch, key) -> (state, what to log). The given state is used up. The key is
    the run's: every step derives its own from it.
  """

  own_rows, platform = meshes.batched(mesh), mesh.devices.flat[0].platform

  def loss(params, frozen, batch, key) -> tuple[Array, Terms]:
    flat = {**frozen, **params}
    with deformable.divided(own_rows, platform):
      value, terms = task.loss(layout.merge(flat), flat, batch, key)
    return value, {**terms, 'loss': value}

  gradient = jax.grad(loss, has_aux=True)

  def train_step(state: TrainState, batch, key):
    key = jax.random.fold_in(key, state.step)
    gradients, terms = gradient(state.params, state.frozen, batch, key)
    updates, opt = tx.update(gradients, state.opt, state.params)
    params = task.constrained(optax.apply_updates(state.params, updates))
    terms = {**terms, 'grad_norm': optax.tree.norm(gradients)}
    return TrainState(state.step + 1, params, opt, state.frozen), terms

  rows, everywhere = meshes.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
  return jax.jit(
    train_step,
    donate_argnums=0,
    in_shardings=(placed, rows, everywhere),
    out_shardings=(placed, everywhere),
  )
