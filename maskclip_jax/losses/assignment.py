"""Minimum-cost assignment on the device: the Hungarian algorithm for Q x N costs.

Shortest augmenting paths (Jonker and Volgenant, 1987) over the rows that exist. Every
step of every problem of a batch is one iteration of one loop, so problems of different
difficulty run side by side and padding costs nothing. `benchmarks/matching.py` compares
it with other solvers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class _State(NamedTuple):
  """One problem in progress. Rows are targets, columns queries.

  Attributes:
    column_of: column of each row, -1 while it has none.
    row_of: row of each column, -1 while it has none.
    price: dual variable of each column, at most 0.
    root: the row that is to get a column, -1 between two of them.
    row: the row whose edges are to be looked at.
    length: how long the shortest path to that row is.
    distance: shortest known path to each column.
    parent: the row before each column on that path.
    done: columns whose shortest path is settled.
    sink: column from which the path is being turned over; -1 during the search.
  """

  column_of: Int[Array, ' n']
  row_of: Int[Array, ' q']
  price: Float[Array, ' q']
  root: Int[Array, '']
  row: Int[Array, '']
  length: Float[Array, '']
  distance: Float[Array, ' q']
  parent: Int[Array, ' q']
  done: Bool[Array, ' q']
  sink: Int[Array, '']


def _finite(cost: Float[Array, 'n q']) -> Float[Array, 'n q']:
  """Replaces NaN and infinities by a cost above all others."""
  finite = jnp.isfinite(cost)
  worst = jnp.max(jnp.where(finite, cost, -jnp.inf))
  worst = jnp.where(jnp.isfinite(worst), worst, 0.0)
  return jnp.where(finite, cost, worst + 1.0)


def _start(cost: Float[Array, 'n q'], wanted: Bool[Array, ' n']) -> _State:
  """Every row takes its cheapest column, the first come where several want it."""
  rows, columns = cost.shape
  best = jnp.argmin(cost, axis=1)
  claims = (best[:, None] == jnp.arange(columns)) & wanted[:, None]
  first = jnp.argmax(claims, axis=0)
  row_of = jnp.where(claims.any(0), first, -1)
  column_of = jnp.where(wanted & (row_of[best] == jnp.arange(rows)), best, -1)
  return _State(
    column_of=column_of,
    row_of=row_of,
    price=jnp.zeros(columns),
    root=jnp.int32(-1),
    row=jnp.int32(0),
    length=jnp.float32(0),
    distance=jnp.full(columns, jnp.inf),
    parent=jnp.full(columns, -1),
    done=jnp.zeros(columns, bool),
    sink=jnp.int32(-1),
  )


def _begin(s: _State, wanted: Bool[Array, ' n']) -> _State:
  """Takes the next row without a column as root, where there is no root."""
  root = jnp.argmax(wanted & (s.column_of < 0)).astype(jnp.int32)
  new = s.root < 0
  return s._replace(
    root=jnp.where(new, root, s.root),
    row=jnp.where(new, root, s.row),
    length=jnp.where(new, 0.0, s.length),
    distance=jnp.where(new, jnp.inf, s.distance),
    done=jnp.where(new, False, s.done),
  )


def _search(s: _State, cost: Float[Array, 'n q']) -> _State:
  """Looks at the edges of one row and settles the nearest column."""
  column = s.column_of[s.row]
  # A matched edge is tight; the root's own dual variable is a free constant.
  potential = jnp.where(s.row == s.root, 0.0, cost[s.row, column] - s.price[column])
  distance = s.length + cost[s.row] - potential - s.price
  closer = ~s.done & (distance < s.distance)
  distance = jnp.where(closer, distance, s.distance)
  parent = jnp.where(closer, s.row, s.parent)
  open_ = jnp.where(s.done, jnp.inf, distance)
  nearest = jnp.argmin(open_).astype(jnp.int32)
  length = open_[nearest]
  owner = s.row_of[nearest]
  found = owner < 0
  done = s.done | (jnp.arange(len(open_)) == nearest)
  price = s.price + jnp.where(done, jnp.minimum(distance - length, 0.0), 0.0)
  return s._replace(
    price=jnp.where(found, price, s.price),
    row=jnp.where(found, s.row, owner),
    length=length,
    distance=distance,
    parent=parent,
    done=done,
    sink=jnp.where(found, nearest, -1),
  )


def _turn(s: _State) -> _State:
  """Gives the sink to the row before it, whose old column becomes the sink."""
  row = s.parent[s.sink]
  old = s.column_of[row]
  last = row == s.root
  return s._replace(
    column_of=jnp.where(jnp.arange(len(s.column_of)) == row, s.sink, s.column_of),
    row_of=jnp.where(jnp.arange(len(s.row_of)) == s.sink, row, s.row_of),
    root=jnp.where(last, -1, s.root),
    sink=jnp.where(last, -1, old),
  )


def assign(
  cost: Float[Array, 'q n'], valid: Bool[Array, ' n'] | None = None
) -> Int[Array, ' n']:
  """The cheapest one-to-one assignment of queries to targets.

  Args:
    cost: what giving a query to a target costs; NaN and infinities are worse than any
      other, so they never spread.
    valid: targets that exist; all by default. min(queries, valid targets) are given a
      query.

  Returns:
    The query of each target, -1 where it has none. `jax.vmap` solves many at once.
  """
  queries, targets = cost.shape
  wanted = jnp.ones(targets, bool) if valid is None else valid
  cost = _finite(jnp.where(wanted, cost.astype(jnp.float32), 0.0).T)
  # Queries that do not exist take the targets that are too many. Dearer than any real
  # query, they are used no more often than needed.
  spare = max(targets - queries, 0)
  cost = jnp.pad(cost, ((0, 0), (0, spare)), constant_values=cost.max() + 1.0)

  def unfinished(s: _State) -> Bool[Array, '']:
    return (wanted & (s.column_of < 0)).any() | (s.sink >= 0)

  def step(s: _State) -> _State:
    s = _begin(s, wanted)
    return jax.tree.map(
      lambda a, b: jnp.where(s.sink < 0, a, b), _search(s, cost), _turn(s)
    )

  s = jax.lax.while_loop(unfinished, step, _start(cost, wanted))
  return jnp.where(s.column_of < queries, s.column_of, -1)
