"""SigLIP's and SigLIP 2's published sizes as presets."""

from maskclip_jax.nn.siglip import SIGLIP_SIZES
from maskclip_jax.systems.system import ModelCard, Preset

PRESETS = {
  f'clip_{size}': Preset('siglip', config) for size, config in SIGLIP_SIZES.items()
}

# The repository of the Hugging Face hub that has transformers' files of each.
_PUBLISHED = {
  'siglip_b16': ('SigLIP B/16', 'siglip-base-patch16-224'),
  'siglip_l16_256': ('SigLIP L/16@256', 'siglip-large-patch16-256'),
  'siglip_so400m_14_384': ('SigLIP SO400M/14@384', 'siglip-so400m-patch14-384'),
  'siglip2_b16': ('SigLIP 2 B/16', 'siglip2-base-patch16-224'),
  'siglip2_l16_256': ('SigLIP 2 L/16@256', 'siglip2-large-patch16-256'),
  'siglip2_so400m_14': ('SigLIP 2 SO400M/14', 'siglip2-so400m-patch14-224'),
  'siglip2_so400m_16_384': ('SigLIP 2 SO400M/16@384', 'siglip2-so400m-patch16-384'),
  'siglip2_b16_naflex': ('SigLIP 2 B/16 NaFlex', 'siglip2-base-patch16-naflex'),
  'siglip2_so400m_16_naflex': (
    'SigLIP 2 SO400M/16 NaFlex',
    'siglip2-so400m-patch16-naflex',
  ),
}

CARDS = {
  f'clip_{size}': ModelCard(
    f'{title}, both towers and the tokenizer; the extra `siglip`',
    f'google/{name} on the Hugging Face hub, its folder',
    'Apache-2.0 (Google, by the model card)',
    url=f'https://huggingface.co/google/{name}',
  )
  for size, (title, name) in _PUBLISHED.items()
}
