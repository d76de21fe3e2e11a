"""Which assignment solver training uses: ours, optax's, or SciPy's on the host.

    python benchmarks/matching.py            # prints a table, compiles each once

One training step of Mask2Former matches ten layers of every image. The costs below are
of three kinds: independent noise; `trained`, where a few queries fit each target; and
`untrained`, where all queries are nearly alike, which is what the first steps see and
what makes augmenting paths long. All solvers must reach the same optimum.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

from maskclip_jax.losses.assignment import assign

PROBLEMS = 20  # ten layers of two images
CASES = [(100, 20, 20), (100, 100, 12), (100, 100, 100), (100, 200, 40)]
KINDS = ('noise', 'trained', 'untrained')
REPEATS = 5


def costs(kind: str, queries: int, targets: int) -> np.ndarray:
  """[PROBLEMS, queries, targets] of a kind."""
  rng = np.random.default_rng(0)
  shape = (PROBLEMS, queries, targets)
  noise = rng.normal(size=shape)
  if kind == 'noise':
    return noise.astype(np.float32)
  target = 3 * rng.normal(size=(PROBLEMS, 1, targets))
  if kind == 'untrained':
    return (target + rng.normal(size=(PROBLEMS, queries, 1)) + 0.05 * noise).astype(
      np.float32
    )
  good = rng.integers(targets, size=(PROBLEMS, queries, 1))
  fits = good == np.arange(targets)
  return (target + 10 - 8 * fits + noise).astype(np.float32)


def ours(cost, valid):
  return jax.vmap(assign)(cost, valid)


def optax_solver(cost, valid):
  """Rows that do not exist cost the same everywhere, which keeps the optimum."""

  def one(cost, valid):
    filled = jnp.where(valid, cost, 0.0)
    query, target = optax.assignment.hungarian_algorithm(filled)
    found = jnp.full(len(valid), -1).at[target].set(query)
    return jnp.where(valid, found, -1)

  return jax.vmap(one)(cost, valid)


def host(cost, valid):
  """SciPy on the host, called from the compiled program."""

  def solve(cost, valid):
    found = np.full(valid.shape, -1, np.int32)
    for row, c, v in zip(found, cost, valid, strict=True):
      rows = np.flatnonzero(v)
      query, target = linear_sum_assignment(np.asarray(c)[:, rows])
      row[rows[target]] = query
    return found

  shape = jax.ShapeDtypeStruct(valid.shape, jnp.int32)
  return jax.pure_callback(solve, shape, cost, valid)


def total(cost: np.ndarray, found: np.ndarray) -> float:
  """Sum of the costs of all assignments."""
  problem, target = np.nonzero(found >= 0)
  return float(cost[problem, found[problem, target], target].sum(dtype=np.float64))


def measure(solver, cost, valid) -> tuple[float, float, float]:
  """Total cost, milliseconds per call, seconds to compile."""
  arguments = jnp.asarray(cost), jnp.asarray(valid)
  start = time.perf_counter()
  program = jax.jit(solver).lower(*arguments).compile()
  compiled = time.perf_counter() - start
  found = np.asarray(program(*arguments))
  times = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    times.append(time.perf_counter() - start)
  return total(cost, found), 1e3 * min(times), compiled


def main() -> None:
  print(f'{jax.devices()[0]}, jax {jax.__version__}, {PROBLEMS} problems a call')
  print('| queries x targets (valid) | costs | solver | ms | compile s |')
  print('|---|---|---|---|---|')
  solvers = {'ours': ours, 'optax': optax_solver, 'SciPy on the host': host}
  for queries, targets, count in CASES:
    for kind in KINDS:
      cost = costs(kind, queries, targets)
      valid = np.broadcast_to(np.arange(targets) < count, (PROBLEMS, targets))
      best = None
      for name, solver in solvers.items():
        if name == 'optax' and targets > queries:
          continue  # It would assign padding in place of real targets.
        score, milliseconds, compiled = measure(solver, cost, valid)
        best = score if best is None else best
        assert abs(score - best) <= 1e-4 * abs(best) + 1e-3, (name, score, best)
        print(
          f'| {queries} x {targets} ({count}) | {kind} | {name} | '
          f'{milliseconds:.2f} | {compiled:.1f} |'
        )


if __name__ == '__main__':
  main()
