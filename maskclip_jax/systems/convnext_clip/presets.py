"""open_clip's CLIPs with a ConvNeXt as presets."""

from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES
from maskclip_jax.systems.system import ModelCard, Preset

PRESETS = {
  f'clip_{size}': Preset('convnext_clip', config)
  for size, config in CONVNEXT_CLIP_SIZES.items()
}

# Repositories of the Hugging Face hub with an open_clip file, the one that FC-CLIP
# stands on last.
_REPOSITORIES = {
  'convnext_base_w': 'CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg',
  'convnext_xxlarge': 'CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup',
  'convnext_large_d': 'CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup',
}

CARDS = {
  f'clip_{size}': ModelCard(
    f'CLIP {size.replace("_", " ")}: an image tower for photos of any size',
    f'laion/{name} on the Hugging Face hub, open_clip file',
    'MIT (LAION, by the model card)',
    url=f'https://huggingface.co/laion/{name}',
  )
  for size, name in _REPOSITORIES.items()
}
