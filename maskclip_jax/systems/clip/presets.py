"""CLIP's published sizes as presets."""

from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.systems.system import ModelCard, Preset

PRESETS = {f'clip_{size}': Preset('clip', CLIP_SIZES[size]) for size in CLIP_SIZES}

# The repositories of the Hugging Face hub that hold OpenAI's weights as safetensors.
_REPOSITORIES = {
  'vit_b32': 'base_patch32_clip_224',
  'vit_b16': 'base_patch16_clip_224',
  'vit_l14': 'large_patch14_clip_224',
  'vit_l14_336': 'large_patch14_clip_336',
}

CARDS = {
  f'clip_{size}': ModelCard(
    f'CLIP {size.replace("_", " ")}',
    f'timm/vit_{name}.openai on the Hugging Face hub, safetensors',
    'MIT (OpenAI CLIP)',
    url=f'https://huggingface.co/timm/vit_{name}.openai',
  )
  for size, name in _REPOSITORIES.items()
}
