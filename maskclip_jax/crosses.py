"""Masks of one model, named by the CLIP of another: `compose(...)`.

segmenter = maskclip_jax.compose(
  'clip_baseline_miniature', 'clip_baseline_miniature', rule='pool'
)
prediction = segmenter('photo.jpg', 'cat; sofa, couch; stuff:floor')
"""

import os
from collections.abc import Mapping

from maskclip_jax import jax_settings
from maskclip_jax.checkpoints import params, restore
from maskclip_jax.checkpoints.cross import cross_models
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.text.bank import proposal_cache, text_cache
from maskclip_jax.text.word_pieces import word_pieces


def compose(
  proposals: str | os.PathLike,
  classifier: str | os.PathLike,
  rule: str | None = None,
  *,
  score: Mapping[str, float | bool] | str | None = None,
  to: str | os.PathLike | None = None,
  dtype: str = 'float32',
  cache_dir: str | os.PathLike | None = None,
) -> Segmenter:
  """A segmenter of the masks that one model proposes and the CLIP of another names.

  Args:
    proposals: whose masks: what `load` takes, or an official file that holds all.
    classifier: whose CLIP: the same, or a CLIP alone.
    rule: how the CLIP names a mask: 'masq' and 'rma' by mask tokens in its ViT, as
      MasQCLIP and MaskCLIP do (trained ones where the classifier is one of them,
      otherwise copies of CLIP's own token), 'crop' by cutting it out, as the CLIP
      baseline and OVSeg do, 'pool' by its features inside the mask, as FC-CLIP does,
      'bias' by a token that joins the last blocks, as MaskCLIP++ does. By default as
      the classifier does itself.
    score: fields of `Scores` to change: {'coat': 0.5}, or 'coat=0.5'. They are run-time
      data: every call may choose others.
    to: where the model is written as a bundle; nowhere by default.
    dtype: compute type, 'float32' or 'bfloat16'.
    cache_dir: as for `load`.

  Raises:
    FileNotFoundError, ValueError: there is no such model; or the two do not go
      together, and why; or `to` is one of them.
  """
  compute = restore.as_dtype(dtype)
  made = cross_models(
    proposals, classifier, rule, score=score, to=to, cache_dir=cache_dir
  )
  with jax_settings.own():
    network = params.abstract_model(
      made.preset.system, made.preset.config, dtype=compute
    )
    network = params.load_into(network, made.parameters, source=made.name)
  clip = made.preset.config.clip
  cache = text_cache(cache_dir, made.text_fingerprint, clip, dtype)
  pieces = None
  if made.tokenizer is not None:
    pieces = word_pieces(made.tokenizer.parent, clip)
  others = proposal_cache(
    cache_dir, made.proposal_fingerprint, made.preset.config, dtype
  )
  return Segmenter(
    network, made.preset, cache=cache, pieces=pieces, proposal_cache=others
  )
