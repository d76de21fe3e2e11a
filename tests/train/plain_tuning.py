"""The tuning of OVSeg's CLIP written out in PyTorch, in double precision: the image
tower, the loss, and AdamW with its schedule [ovseg 5.5, 5.6]."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

_HEAD = 64


class PlainTuning:
  """Parameters by their official names, and what is done with them.

  Args:
    weights: the official state dict; only the image tower and the logit scale learn.
    patch: side of a patch in pixels.
  """

  def __init__(self, weights: Mapping[str, np.ndarray], patch: int):
    self.parameters = {
      name: torch.tensor(array, dtype=torch.float64, requires_grad=True)
      for name, array in weights.items()
      if name == 'logit_scale' or name.startswith('visual.')
    }
    self._patch = patch

  def _norm(self, x, name: str):
    weight, bias = (self.parameters[f'visual.{name}.{k}'] for k in ('weight', 'bias'))
    return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

  def _linear(self, x, name: str, dash: str = '.'):
    weight, bias = (
      self.parameters[f'visual.{name}{dash}{k}'] for k in ('weight', 'bias')
    )
    return x @ weight.T + bias

  def _attention(self, x, name: str):
    batch, tokens, width = x.shape
    parts = self._linear(x, f'{name}.in_proj', '_').chunk(3, -1)
    q, k, v = (
      part.reshape(batch, tokens, width // _HEAD, _HEAD).transpose(1, 2)
      for part in parts
    )
    shares = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(_HEAD), -1)
    joined = (shares @ v).transpose(1, 2).reshape(batch, tokens, width)
    return self._linear(joined, f'{name}.out_proj')

  def tower(self, pixels):
    """Vectors, not normalised, of CLIP-normalised pixels (n, 3, r, r)."""
    p = self.parameters
    x = functional.conv2d(pixels, p['visual.conv1.weight'], stride=self._patch)
    x = x.flatten(2).transpose(1, 2)
    first = p['visual.class_embedding'].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + p['visual.positional_embedding']
    x = self._norm(x, 'ln_pre')
    blocks = sum(name.endswith('attn.in_proj_weight') for name in p)
    for n in range(blocks):
      block = f'transformer.resblocks.{n}'
      x = x + self._attention(self._norm(x, f'{block}.ln_1'), f'{block}.attn')
      hidden = self._linear(self._norm(x, f'{block}.ln_2'), f'{block}.mlp.c_fc')
      hidden = hidden * torch.sigmoid(1.702 * hidden)
      x = x + self._linear(hidden, f'{block}.mlp.c_proj')
    return self._norm(x[:, 0], 'ln_post') @ p['visual.proj']

  def loss(self, pixels, texts):
    """Cross-entropies of regions over nouns and back, averaged; texts are unit rows."""
    regions = functional.normalize(self.tower(pixels), dim=-1)
    logits = self.parameters['logit_scale'].exp() * regions @ texts.T
    right = torch.arange(len(logits))
    return (
      functional.cross_entropy(logits, right)
      + functional.cross_entropy(logits.T, right)
    ) / 2

  def gradients(self, pixels, texts) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and what AdamW is given."""
    loss = self.loss(pixels, texts)
    names = [n for n in self.parameters if 'mask_embedding' not in n]
    found = torch.autograd.grad(loss, [self.parameters[n] for n in names])
    return loss.item(), {n: g.numpy() for n, g in zip(names, found, strict=True)}

  def two_steps(self, pixels, texts, rates) -> dict[str, np.ndarray]:
    """The parameters after two steps of AdamW with these learning rates.

    What has one dimension, and the scale, is not decayed; the scale stays below 100.
    """
    names = [n for n in self.parameters if 'mask_embedding' not in n]
    decayed = [n for n in names if self.parameters[n].ndim > 1]
    groups = [
      {'params': [self.parameters[n] for n in decayed], 'weight_decay': 0.2},
      {
        'params': [self.parameters[n] for n in names if n not in decayed],
        'weight_decay': 0.0,
      },
    ]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    for rate in rates:
      for group in adam.param_groups:
        group['lr'] = rate
      adam.zero_grad()
      self.loss(pixels, texts).backward()
      adam.step()
      with torch.no_grad():
        self.parameters['logit_scale'].clamp_(0, math.log(100))
    return {n: self.parameters[n].detach().numpy() for n in names}
