"""CLIP's published sizes as presets."""

from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.systems.system import ModelCard, Preset

PRESETS = {f'clip_{size}': Preset('clip', CLIP_SIZES[size]) for size in CLIP_SIZES}

# LAION's, by the name of their repository of the Hugging Face hub.
_LAION = {
  'vit_h14': ('ViT-H/14', 'CLIP-ViT-H-14-laion2B-s32B-b79K'),
  'vit_g14': ('ViT-g/14', 'CLIP-ViT-g-14-laion2B-s34B-b88K'),
  'vit_bigg14': ('ViT-bigG/14', 'CLIP-ViT-bigG-14-laion2B-39B-b160k'),
}

# What OpenAI calls each size, and the repository of the Hugging Face hub that holds its
# weights as safetensors.
_PUBLISHED = {
  'vit_b32': ('ViT-B/32', 'base_patch32_clip_224'),
  'vit_b16': ('ViT-B/16', 'base_patch16_clip_224'),
  'vit_l14': ('ViT-L/14', 'large_patch14_clip_224'),
  'vit_l14_336': ('ViT-L/14@336', 'large_patch14_clip_336'),
}

CARDS = {
  **{
    f'clip_{size}': ModelCard(
      f"LAION's CLIP {title}, both towers",
      f"laion/{name} on the Hugging Face hub, open_clip's or transformers' file",
      'MIT (LAION, by the model card)',
      url=f'https://huggingface.co/laion/{name}',
    )
    for size, (title, name) in _LAION.items()
  },
  **{
    f'clip_{size}': ModelCard(
      f"OpenAI's CLIP {title}, both towers",
      f'timm/vit_{name}.openai on the Hugging Face hub, safetensors',
      'MIT (OpenAI CLIP)',
      url=f'https://huggingface.co/timm/vit_{name}.openai',
    )
    for size, (title, name) in _PUBLISHED.items()
  },
}
