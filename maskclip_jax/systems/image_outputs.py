"""What a network says about one photo of a batch."""

import dataclasses

from jaxtyping import Array, Float

from maskclip_jax.postprocess.partition import Partition
from maskclip_jax.postprocess.tiles import Geometry


@dataclasses.dataclass(frozen=True, eq=False)
class ImageOutputs:
  """What the network says about one photo; its arrays lie on one device.

  Attributes:
    mask_logits: one map per query.
    class_logits: per query and text column.
    objectness: log-probability that a query is an object.
    geometry: how the maps lie on the photo.
  """

  mask_logits: Float[Array, 'q h w'] | Partition
  class_logits: Float[Array, 'q k'] | None
  objectness: Float[Array, ' q'] | None
  geometry: Geometry
