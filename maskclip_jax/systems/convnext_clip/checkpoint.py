"""CLIPs with a ConvNeXt in open_clip's layout [fcclip 2.4].

Our paths are those of `nn.convnext.ConvNeXtCLIP`.
"""

from collections.abc import Collection

from maskclip_jax.mapping import convnext
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.rules import Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.nn.convnext import STAGES, ConvNeXtCLIPConfig
from maskclip_jax.systems.clip import beside
from maskclip_jax.systems.clip import checkpoint as clip


def rules(keys: Collection[str] = ()) -> Rules:
  """The table of a file with some keys; the text tower mostly has no prefix."""
  tower = prefixed(convnext.TOWER, 'visual.', 'visual/')
  return (*tower, *clip.text_rules(keys), clip.SCALE)


RULES = rules()


def sized(config: ConvNeXtCLIPConfig, found: KnownSizes) -> ConvNeXtCLIPConfig:
  """A CLIP of the sizes found, and with what the file beside its weights tells.

  Raises:
    ValueError: see `systems.clip.checkpoint.fitted`.
  """
  trunk = 'visual/trunk'
  depths = [found.layers(f'{trunk}/{stage}/{{i}}/gamma') for stage in STAGES]
  widths = [found.size(f'{trunk}/{stage}/0/gamma', 0) for stage in STAGES]
  single = found.size('visual/head/proj/kernel', 1)
  double = found.size('visual/head/mlp/fc2/kernel', 1)
  sizes = {
    'embed_dim': single or double,
    'depths': tuple(depths) if all(depths) else None,
    'widths': tuple(widths) if all(widths) else None,
    'head': 'linear' if single else 'mlp' if double else None,
    'image_size': found.clip.get('image_size'),
  }
  return clip.fitted(config, sizes | clip.text_sizes(found), found.clip)


FORMAT = Format(
  title='ConvNeXt-CLIP',
  signatures={'open_clip': ('visual.trunk.stem.0.weight',)},
  read=lambda layout, keys: rules(keys),
  write=lambda config, layout, classes: RULES,
  licence="MIT by the model cards of LAION's weights",
  includes=('clip',),
  beside=beside.timm_beside,
)
