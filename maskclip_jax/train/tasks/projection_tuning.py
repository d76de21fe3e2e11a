"""Tuning one matrix: the projection of CLIP's image vectors into the space of words.

The least that can be tuned of a whole model. Proposals and CLIP stay as they are; masks
are labelled as in MasQ-tuning, and their vectors learn to lie nearer to their words.
What learns is a map of vectors, not a list of classes, so any words may be asked for
afterwards. Not of a paper.
"""

import dataclasses

from maskclip_jax.losses.matching import LABEL_RULES
from maskclip_jax.train.tasks.query_tuning import QueryTuning, QueryTuningConfig


@dataclasses.dataclass(frozen=True)
class ProjectionTuning(QueryTuning):
  """Classification of frozen proposals, of which only the last linear map learns."""

  title = 'tuning of the projection'
  system = ('clip_baseline', 'maskclip', 'masqclip')

  @classmethod
  def defaults(cls, profile: str) -> QueryTuningConfig:
    return QueryTuningConfig(
      rule=LABEL_RULES[profile], trainable=('clip/visual/proj/kernel',)
    )


TASK = ProjectionTuning
