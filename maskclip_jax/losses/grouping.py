"""What SegCLIP's groups learn from besides captions: superpixels, and hidden patches.

Source: [segclip 2.2, 2.3].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def superpixel_kl(
  assignment: Float[Array, 'b g n'], superpixels: Int[Array, 'b n']
) -> Float[Array, ' b']:
  """How far the assignment of patches is from that of their whole superpixel.

  Half of the two Kullback-Leibler divergences between each patch's assignment and the
  mean of its superpixel, both after a softmax over groups, although they are one-hot
  and means of one-hots already; a mean over the patches and groups of each photo. The
  gradient goes through both sides [segclip 2.2].

  Args:
    assignment: each patch's share in the groups, as the groups were made with it.
    superpixels: number of each patch's superpixel; only equality counts.
  """
  same = (superpixels[:, :, None] == superpixels[:, None]).astype(jnp.float32)
  weights = same / same.sum(-1, keepdims=True)
  own = assignment.astype(jnp.float32).swapaxes(1, 2)
  highest = jax.lax.Precision.HIGHEST
  mean = jnp.einsum('bnm,bmg->bng', weights, own, precision=highest)
  log_p, log_q = jax.nn.log_softmax(own), jax.nn.log_softmax(mean)
  both = (jnp.exp(log_q) - jnp.exp(log_p)) * (log_q - log_p)
  return both.mean((1, 2)) / 2


def patches_of_pixels(
  pixels: Float[Array, 'b r r 3'], patch: int
) -> Float[Array, 'b n p']:
  """Square photos as patches row by row, each as (row, column, channel) in a row."""
  batch, side, _, channels = pixels.shape
  grid = side // patch
  patches = pixels.reshape(batch, grid, patch, grid, patch, channels)
  return patches.swapaxes(2, 3).reshape(batch, grid**2, -1)


def hidden_patch_error(
  painted: Float[Array, 'b n p'],
  pixels: Float[Array, 'b r r 3'],
  hidden: Bool[Array, 'b n'],
) -> Float[Array, ' b']:
  """Mean squared error of each photo's hidden patches.

  Args:
    painted: the prediction for every patch.
    pixels: the photos as the tower sees them; patches are not normalised one by one.
    hidden: patches that count.
  """
  patch = round((painted.shape[-1] // pixels.shape[-1]) ** 0.5)
  target = patches_of_pixels(pixels, patch)
  error = jnp.square(painted - target).mean(-1)
  return (error * hidden).sum(-1) / hidden.sum(-1)
