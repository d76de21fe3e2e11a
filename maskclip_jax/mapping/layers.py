"""Rules of single layers, which the tables of networks are made of."""

from maskclip_jax.mapping.rules import Rule, Rules
from maskclip_jax.mapping.transforms import (
  CONV,
  HEADS_BIAS,
  HEADS_KERNEL,
  HEADS_OUT,
  LINEAR,
  PACKED_BIAS,
  PACKED_KERNEL,
)

ROLES = ('query', 'key', 'value')


def norm(official: str, ours: str) -> Rules:
  """A layer norm."""
  return (
    Rule(f'{official}.weight', f'{ours}/scale'),
    Rule(f'{official}.bias', f'{ours}/bias'),
  )


def dense(official: str, ours: str) -> Rules:
  """A linear layer with bias."""
  return (
    Rule(f'{official}.weight', f'{ours}/kernel', LINEAR),
    Rule(f'{official}.bias', f'{ours}/bias'),
  )


def conv(official: str, ours: str) -> Rules:
  """A convolution with bias."""
  return (
    Rule(f'{official}.weight', f'{ours}/kernel', CONV),
    Rule(f'{official}.bias', f'{ours}/bias'),
  )


def conv_norm(official: str, ours: str) -> Rules:
  """A convolution without bias, and its group norm."""
  return (
    Rule(f'{official}.weight', f'{ours}/kernel', CONV),
    *norm(f'{official}.norm', f'{ours}/norm'),
  )


def conv_norm_sequence(official: str, ours: str) -> Rules:
  """The same as transformers has it, in a sequence."""
  return (
    Rule(f'{official}.0.weight', f'{ours}/kernel', CONV),
    *norm(f'{official}.1', f'{ours}/norm'),
  )


def packed_attention(
  official: str, ours: str, *, packed: str = 'in_proj_', out: str = 'out_proj'
) -> Rules:
  """Multi-head attention with one packed input projection and an output projection.

  Args:
    official: its name there.
    ours: its path here.
    packed: how the names of the packed weight and bias begin; PyTorch's by default.
    out: name of the output projection.
  """
  return (
    Rule(
      f'{official}.{packed}weight',
      tuple(f'{ours}/{role}/kernel' for role in ROLES),
      PACKED_KERNEL,
    ),
    Rule(
      f'{official}.{packed}bias',
      tuple(f'{ours}/{role}/bias' for role in ROLES),
      PACKED_BIAS,
    ),
    Rule(f'{official}.{out}.weight', f'{ours}/out/kernel', HEADS_OUT),
    Rule(f'{official}.{out}.bias', f'{ours}/out/bias'),
  )


def separate_attention(
  official: str,
  ours: str,
  *,
  names: tuple[str, str, str] = ('q_proj', 'k_proj', 'v_proj'),
  out: str = 'out_proj',
) -> Rules:
  """Hugging Face's multi-head attention: one linear layer for each role.

  Args:
    official: its name there.
    ours: its path here.
    names: names of the projections of query, key and value.
    out: name of the output projection.
  """
  rules = []
  for name, role in zip(names, ROLES, strict=True):
    rules += [
      Rule(f'{official}.{name}.weight', f'{ours}/{role}/kernel', HEADS_KERNEL),
      Rule(f'{official}.{name}.bias', f'{ours}/{role}/bias', HEADS_BIAS),
    ]
  return (
    *rules,
    Rule(f'{official}.{out}.weight', f'{ours}/out/kernel', HEADS_OUT),
    Rule(f'{official}.{out}.bias', f'{ours}/out/bias'),
  )
