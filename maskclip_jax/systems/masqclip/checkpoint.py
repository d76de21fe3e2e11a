"""MasQCLIP's checkpoints [masqclip 5.7].

They hold the proposal network, CLIP's image tower and what MasQ-tuning adds; CLIP's
text tower is not stored. The teacher and the students of progressive distillation are
plain Mask2Former files. Our paths are those of `systems.masqclip.model.MasQCLIP`.
"""

from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.mapping.transforms import HEADS_BIAS, HEADS_KERNEL
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.mask2former import checkpoint as mask2former

SIGNATURE = 'masqclip.mask_embeddings'

_NEW_QUERY = 'masqclip.visual.transformer.resblocks.{i}.attn.new_q_proj'


def rules(classes: int = 133) -> Rules:
  """The table; `classes` sizes the criterion's buffer on export."""
  return (
    *prefixed(mask2former.NETWORK, ours='proposals/'),
    *prefixed(clip.VISUAL, 'masqclip.visual.', 'clip/visual/'),
    Rule(f'{_NEW_QUERY}.weight', 'new_q_proj/{i}/kernel', HEADS_KERNEL),
    Rule(f'{_NEW_QUERY}.bias', 'new_q_proj/{i}/bias', HEADS_BIAS),
    Rule(SIGNATURE, 'mask_embeddings'),
    *mask2former.criterion(classes),
  )


FORMAT = Format(
  title='MasQCLIP',
  signatures={'official': (SIGNATURE,)},
  read=lambda layout, keys: rules(),
  write=lambda config, layout, classes: rules(classes),
  licence='CC BY-NC 4.0 (the authors of MasQCLIP)',
  left_out=clip.TEXT_TOWER,
  includes=('mask2former',),
  wrapper='model',
)
