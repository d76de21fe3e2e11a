"""The optimiser as the papers used it: AdamW by parameter groups [masqclip 10].

Learning rates and weight decay are chosen by regular expressions over parameter paths,
and schedules are given in fractions of the run, so that a shorter run is the same
recipe. Gradients are clipped by their global norm before Adam sees them.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from maskclip_jax.plain import above, at_least

Params = Mapping[str, Float[Array, '*n']]

# No decay of norms and embedding tables, as in detectron2; biases do decay.
NO_DECAY = (
  r'(.*/)?(\w*norm\w*|ln_\w+)/(scale|bias)',
  r'(.*/)?(query_feat|query_embed|level_embed)/embedding',
  r'(.*/)?(relative_position_bias_table|absolute_pos_embed)',
)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Learning rate over the run, as a factor; all times are fractions of its length.

  Attributes:
    kind: 'constant'; 'step', times `gamma` at every milestone; 'poly',
      (1 - t) ** power; 'cosine', from 1 to 0; 'cosine_after', likewise over what is
      left after the warm-up, with steps counted from 1 [segclip 3.6].
    milestones: where 'step' lowers the rate.
    gamma: the factor by which 'step' lowers it.
    power: the exponent of 'poly'.
    warmup: fraction of the run that rises linearly to the full rate.
    warmup_from: the factor with which it begins.
  """

  kind: Literal['constant', 'step', 'poly', 'cosine', 'cosine_after'] = 'constant'
  milestones: tuple[float, ...] = ()
  gamma: float = 0.1
  power: float = 0.9
  warmup: float = 0.0
  warmup_from: float = 0.0

  def __post_init__(self):
    kinds = ('constant', 'step', 'poly', 'cosine', 'cosine_after')
    if self.kind not in kinds:
      raise ValueError(f'a schedule is one of {", ".join(kinds)}, not {self.kind!r}')
    at_least(self, 0, 'gamma', 'power', 'warmup_from')
    if not 0 <= self.warmup < 1 or not all(0 <= m <= 1 for m in self.milestones):
      raise ValueError(
        'warmup and milestones are fractions of the run, 0.9 for nine tenths, not '
        f'{self.warmup} and {list(self.milestones)}'
      )

  def factor(self, step: Int[Array, ''] | int, total_steps: int) -> Float[Array, '']:
    """The factor at a step, counted from 0."""
    first = 1 if self.kind == 'cosine_after' else 0
    t = (jnp.asarray(step, jnp.float32) + first) / total_steps
    value = jnp.ones(())
    if self.kind == 'step':
      for milestone in self.milestones:
        # Whole steps, so that 0.9 of 10,000 is 9,000 in any precision.
        value *= jnp.where(step >= round(milestone * total_steps), self.gamma, 1.0)
    elif self.kind == 'poly':
      value = (1 - t) ** self.power
    elif self.kind == 'cosine':
      value = 0.5 * (1 + jnp.cos(jnp.pi * t))
    elif self.kind == 'cosine_after':
      left = jnp.maximum((t - self.warmup) / (1 - self.warmup), 0.0)
      value = 0.5 * (1 + jnp.cos(jnp.pi * left))
    if self.warmup:
      risen = jnp.minimum(t / self.warmup, 1.0)
      value *= self.warmup_from + (1 - self.warmup_from) * risen
    return value


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """AdamW, its groups and its schedule.

  Attributes:
    lr: learning rate.
    weight_decay: decoupled, times the learning rate.
    betas: decay of the moments.
    eps: added outside the square root, after bias correction.
    clip_norm: largest global norm of the gradients; None for no clipping.
    lr_factors: (regular expression, factor) pairs; the first that matches a path
      decides, 1 without a match.
    decay_factors: likewise for the weight decay.
    limits: (regular expression, value) pairs: after every step such parameters are set
      to the value where they are above it.
    schedule: the schedule of the learning rate.
    accumulate: the network works a batch off in so many parts, one after another, and
      again in the backward pass; loss and gradient are those of the whole batch.
  """

  lr: float = 1e-4
  weight_decay: float = 0.05
  betas: tuple[float, float] = (0.9, 0.999)
  eps: float = 1e-8
  clip_norm: float | None = 0.01
  lr_factors: tuple[tuple[str, float], ...] = ()
  decay_factors: tuple[tuple[str, float], ...] = tuple((p, 0.0) for p in NO_DECAY)
  limits: tuple[tuple[str, float], ...] = ()
  schedule: Schedule = dataclasses.field(default_factory=Schedule)
  accumulate: int = 1

  def __post_init__(self):
    at_least(self, 1, 'accumulate')
    at_least(self, 0, 'lr', 'weight_decay')
    above(self, 0, 'eps', 'clip_norm')
    if not all(0 <= beta < 1 for beta in self.betas):
      raise ValueError(f'betas must be at least 0 and below 1, not {list(self.betas)}')


def factors(
  paths: Iterable[str], rules: tuple[tuple[str, float], ...], default: float = 1.0
) -> dict[str, float]:
  """The number of every path: of the first rule that matches it, or the default."""
  compiled = [(re.compile(pattern), factor) for pattern, factor in rules]
  return {
    path: next((factor for regex, factor in compiled if regex.fullmatch(path)), default)
    for path in paths
  }


def check_rules(paths: Iterable[str], config: OptimConfig) -> None:
  """Fails where a rule that was given by hand matches no parameter.

  Raises:
    ValueError: naming the rule; the rules that hold for every model are excepted.
  """
  paths = list(paths)
  for pattern, _ in (*config.lr_factors, *config.decay_factors, *config.limits):
    if pattern in NO_DECAY:
      continue
    if not any(re.fullmatch(pattern, path) for path in paths):
      raise ValueError(
        f'the optimiser rule {pattern!r} matches no trained parameter; there are '
        f'{", ".join(paths[:3])}, ...'
      )


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
  """Scales by min(1, limit / (norm + 1e-6)), as PyTorch does."""

  def update(gradients, state, params=None):
    factor = jnp.minimum(1.0, limit / (optax.tree.norm(gradients) + 1e-6))
    return jax.tree.map(lambda g: g * factor, gradients), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(
  config: OptimConfig, paths: Iterable[str], total_steps: int
) -> optax.GradientTransformation:
  """The optimiser for parameters of given paths, as a flat dictionary.

  Raises:
    ValueError: a rule matches no path.
  """
  paths = list(paths)
  check_rules(paths, config)
  lr, decay = factors(paths, config.lr_factors), factors(paths, config.decay_factors)

  def decayed(updates: Params, params: Params) -> Params:
    return {
      path: lr[path] * (update + config.weight_decay * decay[path] * params[path])
      for path, update in updates.items()
    }

  def rate(step):
    return -config.lr * config.schedule.factor(step, total_steps)

  limits = factors(paths, config.limits, math.inf)

  def limited(updates: Params, params: Params) -> Params:
    return {
      path: jnp.minimum(update, limits[path] - params[path])
      if limits[path] < math.inf
      else update
      for path, update in updates.items()
    }

  clip = optax.identity()
  if config.clip_norm is not None:
    clip = clip_by_global_norm(config.clip_norm)
  return optax.chain(
    clip,
    optax.scale_by_adam(*config.betas, config.eps),
    optax.stateless(decayed),
    optax.scale_by_schedule(rate),
    *([optax.stateless(limited)] if config.limits else []),
  )
