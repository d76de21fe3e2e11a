"""EVA02-CLIP's published sizes as presets."""

from maskclip_jax.nn.eva import EVA_CLIP_SIZES
from maskclip_jax.systems.system import ModelCard, Preset

PRESETS = {
  f'clip_{size}': Preset('eva_clip', config) for size, config in EVA_CLIP_SIZES.items()
}

# The repository of the Hugging Face hub that has open_clip's file of each.
_PUBLISHED = {
  'eva02_b16': ('B/16', 'eva02_base_patch16_clip_224.merged2b_s8b_b131k'),
  'eva02_l14': ('L/14', 'eva02_large_patch14_clip_224.merged2b_s4b_b131k'),
  'eva02_l14_336': ('L/14@336', 'eva02_large_patch14_clip_336.merged2b_s6b_b61k'),
}

_MASKS = 'https://github.com/HVision-NKU/MaskCLIPpp'

CARDS = {
  f'clip_{size}': ModelCard(
    f'EVA02-CLIP {title}, both towers',
    f'timm/{name} on the Hugging Face hub, open_clip file',
    'MIT (BAAI, by the model card)',
    url=f'https://huggingface.co/timm/{name}',
  )
  for size, (title, name) in _PUBLISHED.items()
} | {
  'clip_eva02_l14_336_masks': ModelCard(
    'The EVA02-CLIP L/14@336 of MaskCLIP++, tuned to read masks: for crosses by the '
    'rule bias',
    'github.com/HVision-NKU/MaskCLIPpp, PyTorch file',
    'Apache-2.0 (authors), on EVA02-CLIP (said to be MIT, not checked)',
    url=_MASKS,
  ),
}
