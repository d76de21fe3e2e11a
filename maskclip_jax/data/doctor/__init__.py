"""The doctor: is a built dataset what its owners published?

`check('coco', data_dir)` counts, decodes, compares the annotations with each other and
returns a report that says what is wrong and what to do about it.
"""

from maskclip_jax.data.doctor.check import check
from maskclip_jax.data.doctor.findings import KINDS, Finding, FindingKind, Group
from maskclip_jax.data.doctor.report import CheckReport, Histogram, ShownPhoto

__all__ = [
  'KINDS',
  'CheckReport',
  'Finding',
  'FindingKind',
  'Group',
  'Histogram',
  'ShownPhoto',
  'check',
]
