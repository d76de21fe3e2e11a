"""Score rules: classifiers of one region joined, and void lowered [fcclip 6, 9.1].

Of two classifiers one was trained with the masks and knows the words of its training;
the other is CLIP as it came, which knows all words less exactly.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maskclip_jax.systems.contract import Outputs, Scores, TextBank

# Added to probabilities before the logarithm.
_EPS = 1e-8


def geometric_ensemble(
  trained: Float[Array, '*b k'],
  general: Float[Array, '*b k'],
  text: TextBank,
  scores: Scores,
  *,
  empty: Bool[Array, '*b'] | None = None,
  floor: float = 0.0,
) -> Float[Array, '*b k']:
  """Log-probabilities over classes and void of two classifiers.

  Classes compete without void. Their probabilities are p^(1 - w) * q^w, normalised,
  times 1 - p(void); the weight w depends on whether training named the class.

  Args:
    trained: logits of the trained classifier, the void column among them.
    general: logits of the general classifier; its void column is not read.
    text: says which columns are classes and which were seen in training.
    scores: weights.
    empty: regions without a pixel of the general classifier's map.
    floor: added to p^(1 - w) * q^w before it is normalised [fcclip 9.4].

  Returns:
    Logarithms of numbers that add to 1 up to 1e-8 a column; columns that are not
    `valid` hold numbers to be ignored.
  """
  classes = text.valid & ~text.void
  trained, general = (x.astype(jnp.float32) for x in (trained, general))
  log_p, log_q = (
    jnp.where(classes, jax.nn.log_softmax(jnp.where(classes, x, -jnp.inf)), 0.0)
    for x in (trained, general)
  )
  everything = jax.nn.softmax(jnp.where(text.valid, trained, -jnp.inf))
  void = jnp.where(text.void, everything, 0.0).sum(-1, keepdims=True)
  weight = jnp.where(text.seen, scores.seen_weight, scores.unseen_weight)
  if empty is not None:
    ignored = empty & scores.skip_empty
    weight = jnp.where(ignored[..., None], 0.0, weight)
  # In logarithms no power of a probability that underflows can make a NaN.
  joint = (1 - weight) * log_p + weight * log_q
  if floor:
    joint = jnp.logaddexp(joint, jnp.log(floor))
  joint = jax.nn.softmax(jnp.where(classes, joint, -jnp.inf))
  surest = jnp.where(classes, jnp.exp(log_q), 0.0).max(-1, keepdims=True)
  void = void * (1 - scores.coat * surest)
  return jnp.log(jnp.where(text.void, void, joint * (1 - void)) + _EPS)


def give_way(
  void: Float[Array, '*b'],
  other: Float[Array, '*b'],
  surest: Float[Array, '*b'],
  coat: float | Float[Array, ''],
) -> tuple[Float[Array, '*b'], Float[Array, '*b']]:
  """Void where CLIP is sure of a class: p(void) times 1 - coat * surest [fcclip 9.1].

  Args:
    void: log p(void).
    other: log of 1 - p(void), given apart because either may underflow.
    surest: CLIP's probability of the class that it finds most likely.
    coat: 0 changes nothing.

  Returns:
    Both logarithms anew.
  """
  share = coat * surest
  # The logarithm of no share, which nothing takes, would still have a gradient.
  given = jnp.log(jnp.where(share > 0, share, 1.0)) + void
  given = jnp.where(share > 0, given, -jnp.inf)
  return void + jnp.log1p(-share), jnp.logaddexp(other, given)


def surest_class(logits: Float[Array, '*b k'], text: TextBank) -> Float[Array, '*b']:
  """The largest probability of a class, where classes compete without void."""
  classes = text.valid & ~text.void
  among = jnp.where(classes, logits.astype(jnp.float32), -jnp.inf)
  return jax.nn.softmax(among).max(-1)


def with_coat(
  outputs: Outputs, text: TextBank, coat: float | Float[Array, '']
) -> Outputs:
  """OVRCOAT's rule for a system of one classifier: whatever says 'no object' gives way.

  That is the void column of the classifier, if the bank has one, and what the proposal
  network thinks of a mask, if it does; a mask without a pixel stays nothing.

  Args:
    outputs: class logits before any softmax, and log-probabilities of objects.
    text: says which columns are classes.
    coat: 0 leaves everything as it is.
  """
  if isinstance(coat, float) and coat == 0:
    # As in training, which pays nothing for the rule.
    return outputs
  logits = outputs.class_logits
  return dataclasses.replace(
    outputs,
    class_logits=lower_void(logits, text, coat),
    objectness=_surer_objects(outputs.objectness, logits, text, coat),
  )


def _surer_objects(
  objectness: Float[Array, 'b q'] | None,
  logits: Float[Array, 'b q k'],
  text: TextBank,
  coat: float | Float[Array, ''],
) -> Float[Array, 'b q'] | None:
  """Log-probabilities of objects, where CLIP's logits make 'no object' give way."""
  if objectness is None:
    return None
  # At most 0, but for rounding.
  void = jnp.log(-jnp.expm1(jnp.minimum(objectness, 0.0)))
  _, higher = give_way(void, objectness, surest_class(logits, text), coat)
  return jnp.where(jnp.isneginf(objectness) | (coat == 0), objectness, higher)


def named(
  found: Outputs,
  logits: Float[Array, 'b q k'],
  text: TextBank,
  scores: Scores | None,
  *,
  empty: Bool[Array, 'b q'] | None = None,
  floor: float = 0.0,
) -> Outputs:
  """Masks of any proposals with the names that CLIP gives them.

  Where the proposals named them too, both opinions are joined as by FC-CLIP.

  Args:
    found: the proposals.
    logits: what CLIP says.
    text: says which columns are classes.
    scores: how they are combined; None for the defaults of `Scores` where both named
      them, and for CLIP's logits as they are where it alone did.
    empty: masks without a pixel.
    floor: as for `geometric_ensemble`.
  """
  alone = dataclasses.replace(found, class_logits=logits)
  if found.class_logits is not None:
    scores = Scores() if scores is None else scores
    joint = geometric_ensemble(
      found.class_logits, logits, text, scores, empty=empty, floor=floor
    )
    objectness = _surer_objects(found.objectness, logits, text, scores.coat)
    return dataclasses.replace(found, class_logits=joint, objectness=objectness)
  return alone if scores is None else with_coat(alone, text, scores.coat)


def without(outputs: Outputs, empty: Bool[Array, 'b q']) -> Outputs:
  """The outputs, in which some masks are no objects."""
  objectness = 0.0 if outputs.objectness is None else outputs.objectness
  return dataclasses.replace(outputs, objectness=jnp.where(empty, -jnp.inf, objectness))


def lower_void(
  logits: Float[Array, '*b k'], text: TextBank, coat: float | Float[Array, '']
) -> Float[Array, '*b k']:
  """Class logits whose void column gives way where a class is sure [fcclip 9.1].

  OVRCOAT's rule for a single classifier: p(void) times 1 - coat * p(best class), where
  classes compete without void.

  Args:
    logits: with the void column, if the bank has one; without it nothing changes.
    text: says which columns are classes.
    coat: 0 leaves the logits as they are, to the bit.
  """
  classes = text.valid & ~text.void
  among = jnp.where(classes, logits.astype(jnp.float32), -jnp.inf)
  surest = surest_class(logits, text)[..., None]
  rival = jax.nn.logsumexp(among, axis=-1, keepdims=True)
  void, other = (jax.nn.log_sigmoid(sign * (logits - rival)) for sign in (1, -1))
  void, other = give_way(void, other, surest, coat)
  return jnp.where(text.void & (coat > 0), rival + void - other, logits)
