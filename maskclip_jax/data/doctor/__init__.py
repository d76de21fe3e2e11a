"""The doctor: is a built dataset what its owners published?

`check('coco', data_dir)` counts, decodes, compares the annotations with each other and
returns a report that says what is wrong and what to do about it.
"""

from maskclip_jax.data.doctor.check import check
from maskclip_jax.data.doctor.findings import KINDS, Finding, Group, Kind
from maskclip_jax.data.doctor.report import Example, Histogram, Report

__all__ = [
  'KINDS',
  'Example',
  'Finding',
  'Group',
  'Histogram',
  'Kind',
  'Report',
  'check',
]
