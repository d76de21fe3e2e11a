"""The text bank as constants of a task, and the parts of CLIP that only it needs."""

import dataclasses

from maskclip_jax.systems.contract import TextBank
from maskclip_jax.train.task import Flat

_PREFIX = 'text_bank/'
# Class vectors are computed before training starts.
UNUSED = ('clip/text', 'clip/logit_scale')


def to_constants(bank: TextBank) -> Flat:
  """A text bank by path."""
  fields = {f.name: getattr(bank, f.name) for f in dataclasses.fields(bank)}
  return {f'{_PREFIX}{name}': x for name, x in fields.items() if x is not None}


def from_constants(constants: Flat) -> TextBank:
  """The inverse of `to_constants`."""
  names = [field.name for field in dataclasses.fields(TextBank)]
  return TextBank(
    **{n: constants[_PREFIX + n] for n in names if _PREFIX + n in constants}
  )
