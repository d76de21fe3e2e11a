"""Weights rebuilt from their official key, shape and a seed, so that none are stored.

The goldens in `tests/goldens/` were recorded from the official PyTorch code holding
these very weights. Every value is representable in float16, which keeps a pass through
half precision from altering it. The rules give norms, biases and batch statistics that
are far from trivial, so that a port which drops one is caught.
"""

import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

# (embed, resolution, vision layers, vision width, patch, context, vocabulary,
#  text width, text layers)
CLIP_SIZES = {
  'vit_l14_336': (768, 336, 24, 1024, 14, 77, 49408, 768, 12),
  'vit_l14': (768, 224, 24, 1024, 14, 77, 49408, 768, 12),
  'vit_b16': (512, 224, 12, 768, 16, 77, 49408, 512, 12),
  'vit_b32': (512, 224, 12, 768, 32, 77, 49408, 512, 12),
  'tiny': (32, 64, 3, 128, 16, 77, 49408, 64, 3),
}


def _rule(key: str, shape: Sequence[int]) -> tuple[str, float, float]:
  """Returns (kind, scale, shift); kind is normal, uniform, const or keep."""
  last = key.rsplit('.', 1)[-1]
  width = float(shape[-1]) ** -0.5 if shape else 1.0
  fixed = {
    'num_batches_tracked': ('const', 0.0, 0.0),
    'logit_scale': ('const', float(np.float32(np.log(1 / 0.07))), 0.0),
    'running_var': ('uniform', 1.0, 0.5),
    'running_mean': ('normal', 0.1, 0.0),
    'relative_position_bias_table': ('normal', 0.5, 0.0),
    'decoder_pos_embed': ('keep', 0.0, 0.0),
    'mask_token': ('normal', 0.02, 0.0),
  }
  if last == 'gamma':
    # Far from its initial 1e-6, so that blocks count.
    return 'normal', 0.1, 0.5
  if key.endswith('clip_model.logit_scale'):
    # exp(4.80078125) = 121.6: the clamp at 100 is exercised.
    return 'const', 4.80078125, 0.0
  if key.endswith('clip_model.positional_embedding'):
    return 'normal', 0.5, 0.0
  if key.endswith(('clip_model.token_embedding.weight', 'void_embedding.weight')):
    return 'normal', 1.0, 0.0
  if last in fixed:
    return fixed[last]
  if key.endswith('sampling_offsets.bias'):
    return 'normal', 2.0, 0.0
  if key.endswith('sampling_offsets.weight'):
    return 'normal', 0.5 * float(shape[1]) ** -0.5, 0.0
  if last in (
    'class_embedding',
    'mask_embeddings',
    'mask_embedding',
    'semantic_center',
    'absolute_pos_embed',
    'non_object_embedding',
  ):
    return 'normal', width, 0.0
  if last == 'positional_embedding':
    return 'normal', (width if 'visual.' in key else 0.01), 0.0
  if key.endswith('token_embedding.weight'):
    return 'normal', 0.02, 0.0
  if last in ('proj', 'text_projection'):
    return 'normal', float(shape[0]) ** -0.5, 0.0
  if re.search(r'(query_feat|query_embed|level_embed)(\.weight)?$', key):
    return 'normal', 1.0, 0.0
  if len(shape) <= 1:
    return ('normal', 0.1, 1.0) if last == 'weight' else ('normal', 0.05, 0.0)
  return 'normal', float(np.prod(shape[1:])) ** -0.5, 0.0


def seeded_array(key: str, shape: Sequence[int], seed: int = 0) -> np.ndarray | None:
  """The float32 array of an official key, or None where the model keeps its own."""
  shape = tuple(int(s) for s in shape)
  kind, scale, shift = _rule(key, shape)
  if kind == 'keep':
    return None
  if kind == 'const':
    array = np.full(shape, scale, np.float32)
    return array.astype(np.int64) if key.endswith('num_batches_tracked') else array
  rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
  draw = rng.random if kind == 'uniform' else rng.standard_normal
  array = np.asarray(draw(shape, dtype=np.float32))
  # In place: new memory costs more than the products.
  array *= np.float32(scale)
  if shift:
    array += np.float32(shift)
  array[...] = array.astype(np.float16)
  return array


def seeded_state_dict(
  shapes: Mapping[str, Sequence[int]], seed: int = 0
) -> dict[str, np.ndarray]:
  """The official state dict for a table of shapes."""
  arrays = {key: seeded_array(key, shape, seed) for key, shape in shapes.items()}
  return {key: array for key, array in arrays.items() if array is not None}


def digest(shapes: Mapping[str, Sequence[int]]) -> str:
  """A hash of all keys and shapes."""
  lines = sorted(f'{key} {tuple(map(int, shape))}' for key, shape in shapes.items())
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def clip_shapes(size: str | tuple[int, ...]) -> dict[str, tuple[int, ...]]:
  """Official key -> shape of OpenAI's ViT CLIP of a named or explicit size."""
  embed, res, v_layers, v_width, patch, context, vocabulary, t_width, t_layers = (
    CLIP_SIZES[size] if isinstance(size, str) else size
  )
  shapes = {
    'positional_embedding': (context, t_width),
    'text_projection': (t_width, embed),
    'logit_scale': (),
    'visual.class_embedding': (v_width,),
    'visual.positional_embedding': ((res // patch) ** 2 + 1, v_width),
    'visual.proj': (v_width, embed),
    'visual.conv1.weight': (v_width, 3, patch, patch),
    'token_embedding.weight': (vocabulary, t_width),
    'ln_final.weight': (t_width,),
    'ln_final.bias': (t_width,),
  }
  for norm in ('visual.ln_pre', 'visual.ln_post'):
    shapes[f'{norm}.weight'] = shapes[f'{norm}.bias'] = (v_width,)
  towers = (
    ('visual.transformer', v_width, v_layers),
    ('transformer', t_width, t_layers),
  )
  for tower, w, layers in towers:
    for i in range(layers):
      block = f'{tower}.resblocks.{i}.'
      shapes |= {
        block + 'attn.in_proj_weight': (3 * w, w),
        block + 'attn.in_proj_bias': (3 * w,),
        block + 'attn.out_proj.weight': (w, w),
        block + 'attn.out_proj.bias': (w,),
        block + 'ln_1.weight': (w,),
        block + 'ln_1.bias': (w,),
        block + 'ln_2.weight': (w,),
        block + 'ln_2.bias': (w,),
        block + 'mlp.c_fc.weight': (4 * w, w),
        block + 'mlp.c_fc.bias': (4 * w,),
        block + 'mlp.c_proj.weight': (w, 4 * w),
        block + 'mlp.c_proj.bias': (w,),
      }
  return shapes


def clip_state_dict(
  size: str | tuple[int, ...], seed: int = 0
) -> dict[str, np.ndarray]:
  """OpenAI's CLIP state dict, seeded."""
  return seeded_state_dict(clip_shapes(size), seed)
