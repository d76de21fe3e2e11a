"""open_clip's CLIPs with a ConvNeXt as presets."""

from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES
from maskclip_jax.systems.system import ModelCard, Preset

PRESETS = {
  f'clip_{size}': Preset('convnext_clip', config)
  for size, config in CONVNEXT_CLIP_SIZES.items()
}

# What each size is called, and the repository of the Hugging Face hub that has its
# open_clip file; the one that FC-CLIP stands on last.
_PUBLISHED = {
  'convnext_base_w': (
    'ConvNeXt-B',
    'CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg',
  ),
  'convnext_xxlarge': (
    'ConvNeXt-XXL',
    'CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup',
  ),
  'convnext_large_d': (
    'ConvNeXt-L',
    'CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup',
  ),
}

CARDS = {
  f'clip_{size}': ModelCard(
    f"LAION's CLIP {title}: both towers, for photos of any size",
    f'laion/{name} on the Hugging Face hub, open_clip file',
    'MIT (LAION, by the model card)',
    url=f'https://huggingface.co/laion/{name}',
  )
  for size, (title, name) in _PUBLISHED.items()
}
