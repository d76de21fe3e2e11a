"""A toy system: learned queries group CLIP's patches, and the groups are the masks."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.nn.clip import CLIP, CLIPConfig
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, Outputs, TextBank


@dataclasses.dataclass(frozen=True)
class ToyConfig:
  """Sizes of the toy.

  Attributes:
    clip: the CLIP whose patches are grouped and whose words name the groups.
    queries: groups.
  """

  clip: CLIPConfig
  queries: int = 4


class Toy(nnx.Module):
  """A CLIP and one vector for each group of its patches."""

  def __init__(self, config: ToyConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.clip = CLIP(config.clip, dtype=dtype, rngs=rngs)
    shape = (config.queries, config.clip.embed_dim)
    self.queries = nnx.Param(jax.random.normal(rngs.params(), shape))
    self.config = config

  def patches(self, images: Images) -> Float[Array, 'b n d']:
    """The vectors of CLIP's patches."""
    visual = self.clip.visual
    pixels = regions.squash_photos(images, self.config.clip, (0.0, 0.0, 0.0))
    tokens = visual.transformer(visual.ln_pre(visual.embed(pixels)))
    return visual.project(tokens[:, 1:])

  def __call__(self, images: Images, text: TextBank) -> Outputs:
    """One mask a group, at the resolution of CLIP's patches."""
    patches = self.patches(images)
    groups = jnp.einsum('qd,bnd->bqn', self.queries[...], patches)
    vectors = jnp.einsum('bqn,bnd->bqd', jax.nn.sigmoid(groups), patches)
    grid = self.config.clip.image_size // self.config.clip.patch_size
    masks = groups.reshape(*groups.shape[:2], grid, grid)
    mask_hw = jnp.full((len(masks), 2), grid)
    logits = regions.class_similarity(vectors, text)
    return Outputs(masks, logits, None, mask_hw)
