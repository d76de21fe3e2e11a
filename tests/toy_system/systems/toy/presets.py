"""The toy's only size."""

from maskclip_jax.systems.toy.model import ToyConfig

from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.systems.system import ModelCard, Preprocessing, Preset

PRESETS = {
  'toy_tiny': Preset('toy', ToyConfig(CLIP_SIZES['vit_tiny']), Preprocessing(64, 96))
}
CARDS = {'toy_tiny': ModelCard('a toy to write systems by', 'none', 'Apache-2.0')}
