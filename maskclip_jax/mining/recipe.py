"""The choices of the mining recipe, each of them the user's [ovseg 5.8]."""

import dataclasses
from typing import Literal

from maskclip_jax.mining.nouns import NounRule
from maskclip_jax.systems.contract import parse_scores


@dataclasses.dataclass(frozen=True)
class MiningConfig:
  """Every choice of the recipe [ovseg 5.8]; paths and sizes of files are elsewhere.

  Attributes:
    model: bundle or name of the model whose CLIP matches, and which proposes masks
      unless `proposals` does.
    nouns: what counts as a noun.
    proposals: another model that proposes the masks; any proposal network.
    captions: captions of a photo that are read, the first ones; 0 for all.
    words: how a noun becomes a vector: a treatment of `text/treatments.json`.
    scores: changes as `parse_scores` reads them: 'mask_threshold=0.4'.
    region: what is stored: the box of the mask with CLIP's mean outside the mask, or
      the whole box.
    repeats: a noun that a photo's captions repeat makes as many pairs, all alike; else
      it makes one.
    min_score: pairs of a lower cosine are left out.
    min_lead: pairs of a lower lead are left out: negative leads are regions that fit
      another noun of the photo better. A photo's only noun has no lead and stays.
    min_area: pairs whose region has fewer pixels are left out.
    batch_size: photos that go through the networks at a time.
    on_error: whether a photo that cannot be read ends the run.
    dtype: compute type, 'float32' or 'bfloat16'.
    cache_dir: where models lie that are given by name.

  Raises:
    ValueError: a value out of its range.
  """

  model: str
  nouns: NounRule
  proposals: str | None = None
  captions: int = 1
  words: str = 'ovseg'
  scores: str = ''
  region: Literal['filled', 'box'] = 'filled'
  repeats: bool = False
  min_score: float = -1.0
  min_lead: float = -2.0
  min_area: int = 1
  batch_size: int = 1
  on_error: Literal['stop', 'skip'] = 'stop'
  dtype: str = 'float32'
  cache_dir: str | None = None

  def __post_init__(self):
    if self.region not in ('filled', 'box'):
      raise ValueError(f"region must be 'filled' or 'box', not {self.region!r}")
    if self.on_error not in ('stop', 'skip'):
      raise ValueError(f"on_error must be 'stop' or 'skip', not {self.on_error!r}")
    if not -1 <= self.min_score <= 1:
      raise ValueError(f'min_score is a cosine, -1 to 1, not {self.min_score}')
    if not -2 <= self.min_lead <= 2:
      raise ValueError(
        f'min_lead is a difference of cosines, -2 to 2, not {self.min_lead}'
      )
    for name, least in (('captions', 0), ('min_area', 1), ('batch_size', 1)):
      if getattr(self, name) < least:
        raise ValueError(f'{name} must be {least} or more, not {getattr(self, name)}')
    threshold = self.score_changes().get('mask_threshold', 0.5)
    if not 0 < threshold < 1:
      raise ValueError(f'mask_threshold must be between 0 and 1, not {threshold}')

  def score_changes(self) -> dict[str, float | bool]:
    """What `scores` changes."""
    return parse_scores(self.scores) if self.scores else {}
