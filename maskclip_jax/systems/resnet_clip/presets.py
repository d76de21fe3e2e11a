"""OpenAI's CLIPs with a ResNet as presets."""

from maskclip_jax.nn.clip_resnet import RESNET_CLIP_SIZES
from maskclip_jax.systems.system import ModelCard, Preset

PRESETS = {
  f'clip_{size}': Preset('resnet_clip', config)
  for size, config in RESNET_CLIP_SIZES.items()
}

# The repository of the Hugging Face hub that has the weights of each as safetensors.
_PUBLISHED = {
  'rn50': ('RN50', 'resnet50_clip'),
  'rn101': ('RN101', 'resnet101_clip'),
  'rn50x4': ('RN50x4', 'resnet50x4_clip'),
  'rn50x16': ('RN50x16', 'resnet50x16_clip'),
  'rn50x64': ('RN50x64', 'resnet50x64_clip'),
}

CARDS = {
  f'clip_{size}': ModelCard(
    f"OpenAI's CLIP {title}, both towers",
    f'timm/{name}.openai on the Hugging Face hub, safetensors',
    'MIT (OpenAI CLIP)',
    url=f'https://huggingface.co/timm/{name}.openai',
  )
  for size, (title, name) in _PUBLISHED.items()
}
