"""Operations that mining one photo takes, and what they cost elsewhere.

  python benchmarks/mining.py

Counted before anything is compiled (`train/flops.py`), every mask valid, the photo at
the size that the model resizes to. Without weights: a count needs shapes alone.
"""

import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskclip_jax import zoo
from maskclip_jax.checkpoints import params
from maskclip_jax.mining.miner import decode, pair_of
from maskclip_jax.photos import resize_photo
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.train.flops import count_flops

# Name, canvas of a photo of 480 x 640 at the model's own size, masks.
MODELS = (
  ('clip_baseline_miniature', (128, 128), 20),
  ('ovseg_r101c_vit_b16', (512, 768), 100),
  ('ovseg_swin_b_vit_l14', (640, 896), 100),
  ('fcclip_convnext_large', (896, 1152), 250),
)
PHOTOS = {'COCO Captions': 118_287, 'CC12M': 12_423_374}
# One H200 in bfloat16, dense, and the share of it that is reached.
PEAK, SHARE = 989e12, 0.35
CHIPS = (1, 64)


def operations(name: str, canvas: tuple[int, int], masks: int) -> float:
  """Matrix products and convolutions of one photo.

  Args:
    name: of the model.
    canvas: height and width that the network sees.
    masks: how many it proposes; each is a crop where the system crops.
  """
  preset = zoo.find_preset(name)
  model = params.abstract_model(preset.system, preset.config)
  graph, weights = nnx.split(model)
  images = jax.eval_shape(
    lambda: Images(
      jnp.zeros((1, *canvas, 3), jnp.uint8),
      jnp.full((1, 2), canvas[0], jnp.int32),
      jnp.full((1, 2), canvas[0], jnp.int32),
    )
  )
  clip = preset.config.clip
  if not hasattr(model, 'proposals'):
    text = jax.eval_shape(lambda: _words(clip.embed_dim))
    forward = jax.jit(lambda w, i, t: nnx.merge(graph, w)(i, t))
    return count_flops(forward.trace(weights, images, text).jaxpr)
  propose = jax.jit(lambda w, i: _propose(nnx.merge(graph, w), i))
  crop = jnp.zeros((1, clip.image_size, clip.image_size, 3))
  encode = jax.jit(lambda w, c: nnx.merge(graph, w).clip.visual(c))
  once = count_flops(propose.trace(weights, images).jaxpr)
  return once + masks * count_flops(encode.trace(weights, crop).jaxpr)


def _propose(model: nnx.Module, images: Images):
  config = model.config.proposals
  if hasattr(config, 'num_classes'):
    return model.proposals(images).mask_logits
  pixels = images.standardised(config.pixel_mean, config.pixel_std)
  return model.proposals(pixels, images.padded_hw)[0].mask_logits


def _words(dim: int) -> TextBank:
  flags = jnp.ones(64, bool)
  return TextBank(jnp.zeros((64, dim)), flags, flags, ~flags, ~flags, jnp.arange(64))


def host_seconds(pairs: int = 5) -> float:
  """Of one core, for a photo of 480 x 640: decoding, resizing, and the pairs' files."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (48, 64, 3), np.uint8)
  photo = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
  data = cv2.imencode('.jpg', photo)[1]
  mask = np.zeros((640, 853), bool)
  cv2.circle(mask.view(np.uint8), (400, 300), 160, 1, -1)
  cv2.setNumThreads(1)
  start, turns = time.perf_counter(), 20
  for _ in range(turns):
    pixels = resize_photo(decode(data.tobytes()), 640, 853)
    for _ in range(pairs):
      pair_of('noun', 0.3, 0.1, 7, pixels, mask, 'filled')
  return (time.perf_counter() - start) / turns


def main() -> None:
  """Prints a row for each model, and what the host does."""
  assert Segmenter.canvas_step == 128
  for name, canvas, masks in MODELS:
    flops = operations(name, canvas, masks)
    speed = PEAK * SHARE / flops
    costs = [
      f'{dataset} on {chips}: {photos / speed / chips / 3600:.2f} h'
      for dataset, photos in PHOTOS.items()
      for chips in CHIPS
    ]
    print(
      f'{name} {canvas[0]} x {canvas[1]}: {flops / 1e12:.4f} TFLOP a photo, '
      f'{speed:.0f} photos a second; {"; ".join(costs)}'
    )
  print(f'host: {1000 * host_seconds():.0f} ms of a core a photo')


if __name__ == '__main__':
  main()
