"""What a training step leaves out at random: single values, or whole branches.

Every photo of a batch draws by a key of its own, so that what it loses does not depend
on how the batch is divided over devices. Without `Drops` nothing is left out.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['keys', 'depth'],
  meta_fields=['dropout'],
)
@dataclasses.dataclass(frozen=True)
class Drops:
  """How much is left out, and the random numbers for it.

  Attributes:
    keys: one per photo.
    dropout: share of values that become zero (Srivastava et al., 2014).
    depth: chance that a residual branch is left out for a photo (stochastic depth,
      Huang et al., 2016). A network's first block never is, its last one this often.
  """

  keys: Key[Array, ' b']
  dropout: float = 0.0
  depth: float | Float[Array, ''] = 0.0

  def block(self, number: Int[Array, ''] | int, blocks: int) -> 'Drops':
    """Those of one block, counted from 0, of so many."""
    depth = self.depth * number / max(blocks - 1, 1)
    return Drops(self._keys(number), self.dropout, depth)

  def part(self) -> 'Drops':
    """Those of another network, which draws other numbers."""
    # No block is counted so high.
    return Drops(self._keys(2**16), self.dropout, self.depth)

  def _keys(self, number: Int[Array, ''] | int) -> Key[Array, ' b']:
    return jax.vmap(jax.random.fold_in, (0, None))(self.keys, number)

  def _kept(self, number: int, share, shape: tuple[int, ...]):
    draw = functools.partial(jax.random.bernoulli, p=1 - share, shape=shape)
    return jax.vmap(draw)(self._keys(number))


def drop_values(
  x: Float[Array, 'b *n'], drops: Drops | None, number: int
) -> Float[Array, 'b *n']:
  """Zeroes single values and scales up the others; `number` tells draws apart."""
  if drops is None or not drops.dropout:
    return x
  kept = drops._kept(number, drops.dropout, x.shape[1:])
  return jnp.where(kept, x / (1 - drops.dropout), 0).astype(x.dtype)


def drop_branch(
  x: Float[Array, 'b *n'], drops: Drops | None, number: int
) -> Float[Array, 'b *n']:
  """Zeroes all values of some photos and scales up the others."""
  if drops is None:
    return x
  kept = drops._kept(number, drops.depth, ()).reshape(-1, *(1,) * (x.ndim - 1))
  return jnp.where(kept, x / (1 - drops.depth), 0).astype(x.dtype)
