"""Class scores of queries: a softmax over text columns, and perhaps an object score.

The stock rule (Mask2Former, MaskCLIP) has a void column that takes part in the softmax;
MasQCLIP multiplies by the proposal network's object probability and drops the void
column without normalising again [masqclip 4.8, 5.5].
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassScores:
  """Class probabilities of one image's queries.

  Attributes:
    probabilities: zero in columns that are not a class; need not sum to one.
    void: probability of the void column, zero without one.
    classes: which columns are classes (neither padding nor void).
  """

  probabilities: Float32[Array, 'q k']
  void: Float32[Array, ' q']
  classes: Bool[Array, ' k']


@jax.jit
def class_probabilities(
  class_logits: Float[Array, 'q k'] | None,
  valid: Bool[Array, ' k'] | None = None,
  void: Bool[Array, ' k'] | None = None,
  objectness: Float[Array, ' q'] | None = None,
) -> ClassScores:
  """Class scores from logits: softmax over the valid columns, void among them.

  Without `objectness` this is the stock rule; with it each row is multiplied by the
  probability of being an object and not normalised again [masqclip 5.5]. Proposal
  networks alone have no class logits: their one class is 'object'.

  Args:
    class_logits: already times the temperature; None for proposals alone.
    valid: columns that exist; all by default.
    void: the column that is never a result, if any.
    objectness: log-probabilities.

  Raises:
    ValueError: neither class logits nor objectness.
  """
  if class_logits is None:
    if objectness is None:
      raise ValueError('scores need class logits, objectness, or both')
    p = jnp.exp(objectness.astype(jnp.float32))[:, None]
    return ClassScores(p, jnp.zeros(len(p)), jnp.ones(1, bool))
  columns = class_logits.shape[-1]
  valid = jnp.ones(columns, bool) if valid is None else valid
  void = jnp.zeros(columns, bool) if void is None else void
  logits = jnp.where(valid, class_logits.astype(jnp.float32), -jnp.inf)
  log_p = jax.nn.log_softmax(logits, axis=-1)
  if objectness is not None:
    log_p += objectness.astype(jnp.float32)[:, None]
  p = jnp.exp(log_p)
  classes = valid & ~void
  # A NaN must stay visible, also where it stands in the void column only.
  return ClassScores(
    jnp.where(classes, p, 0.0), jnp.where(valid & void, p, 0.0).sum(-1), classes
  )


def checked(
  scores: ClassScores, queries: int, thing: Bool[Array, ' k'] | None = None
) -> tuple[Float32[np.ndarray, 'q k'], Float32[np.ndarray, ' q']]:
  """Probabilities and void probabilities on the host, if they are usable.

  Raises:
    ValueError: NaN, or sizes that do not fit the masks or the thing flags.
  """
  probabilities, void = np.asarray(scores.probabilities), np.asarray(scores.void)
  if len(probabilities) != queries:
    raise ValueError(f'{len(probabilities)} rows of scores for {queries} masks')
  if thing is not None and len(thing) != probabilities.shape[1]:
    raise ValueError(
      f'{len(thing)} thing flags for {probabilities.shape[1]} columns of scores'
    )
  if np.isnan(probabilities).any() or np.isnan(void).any():
    raise ValueError(
      'class scores contain NaN: the weights or the input image are damaged, or half '
      'precision overflowed; try float32'
    )
  return probabilities, void
