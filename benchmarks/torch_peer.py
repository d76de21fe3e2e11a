"""The same networks in PyTorch, from the libraries that people use: for a comparison.

Mask2Former of transformers with a ResNet, and open_clip's image tower, with random
weights and of the sizes of one of our models. open_clip reads the square photo alone,
without mask tokens.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

LIBRARIES = ('torch', 'transformers', 'open_clip')


def missing() -> list[str]:
  """The libraries that are not installed."""
  return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


def fits(config: Any) -> bool:
  """Whether the libraries have the networks of a config."""
  proposals, clip = (getattr(config, name, None) for name in ('proposals', 'clip'))
  return getattr(proposals, 'depth', None) == 50 and hasattr(clip, 'patch_size')


def _proposals(config: Any):
  """transformers' Mask2Former of the sizes of a `Mask2FormerConfig`."""
  import transformers

  stages = [f'stage{number}' for number in (1, 2, 3, 4)]
  backbone = transformers.ResNetConfig(
    embedding_size=config.stem,
    hidden_sizes=[config.width * 2**stage for stage in range(4)],
    depths=[3, 4, 6, 3],
    out_features=stages,
  )
  sizes = transformers.Mask2FormerConfig(
    backbone_config=backbone,
    feature_size=config.hidden,
    hidden_dim=config.hidden,
    mask_feature_size=config.mask_dim,
    num_attention_heads=config.heads,
    encoder_layers=config.encoder_layers,
    encoder_feedforward_dim=config.encoder_ffn,
    decoder_layers=config.decoder_layers + 1,
    dim_feedforward=config.decoder_ffn,
    num_queries=config.queries,
    id2label={0: 'object'},
  )
  return transformers.Mask2FormerForUniversalSegmentation(sizes)


def _clip(config: Any):
  """open_clip's image tower of the sizes of a `CLIPConfig`."""
  import open_clip

  vision = open_clip.CLIPVisionCfg(
    layers=config.vision_layers,
    width=config.vision_width,
    head_width=config.vision_width // config.vision_heads,
    patch_size=config.patch_size,
    image_size=config.image_size,
  )
  text = open_clip.CLIPTextCfg(
    context_length=8, vocab_size=8, width=64, heads=1, layers=1
  )
  quick = config.activation == 'quick_gelu'
  return open_clip.CLIP(config.embed_dim, vision, text, quick_gelu=quick).visual


class Peer:
  """Both networks on the device that PyTorch has."""

  def __init__(self, config: Any, dtype: str):
    import torch

    self._torch = torch
    # As many as XLA takes: by itself PyTorch leaves out a core's second thread.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self._dtype = getattr(torch, dtype)
    self._networks = [
      network.eval().to(self.device)
      for network in (_proposals(config.proposals), _clip(config.clip))
    ]
    self._side = config.clip.image_size

  def programs(self, batch: int, canvas: int) -> dict[str, Callable[[], None]]:
    """What runs each of them on photos of a size, and waits for the results."""
    torch = self._torch
    photos = torch.rand(batch, 3, canvas, canvas, device=self.device)
    squares = torch.rand(batch, 3, self._side, self._side, device=self.device)
    proposals, clip = self._networks
    return {
      'proposals': lambda: self._run(lambda: proposals(pixel_values=photos)),
      'clip': lambda: self._run(lambda: clip(squares)),
    }

  def product(self, side: int) -> Callable[[], None]:
    """What multiplies two square matrices, and waits for the result."""
    square = self._torch.ones(side, side, device=self.device)
    return lambda: self._run(lambda: square @ square)

  def _run(self, network: Callable[[], object]) -> None:
    torch = self._torch
    rough = self._dtype != torch.float32
    typed = torch.autocast(self.device, dtype=self._dtype, enabled=rough)
    with torch.inference_mode(), typed:
      network()
    if self.device == 'cuda':
      torch.cuda.synchronize()
