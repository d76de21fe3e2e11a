"""What the papers report, by the names our metrics have.

A mean IoU whose rule is not known is called 'mIoU': which detectron2 a project used
decides between `mIoU_gt` and `mIoU_gt_or_pred` (see `semantic.py`). Values in percent.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
  """One published number.

  Attributes:
    method: as the paper calls it.
    metric: 'protocol/metric'.
    value: in percent.
    source: where it is printed.
    model: our name of the model that should reach it, if there is one.
  """

  method: str
  metric: str
  value: float
  source: str
  model: str | None = None


_MASQ_1 = 'MasQCLIP paper, Table 1'
_MASQ_2 = 'MasQCLIP paper, Table 2'
_MASQ_5 = 'MasQCLIP paper, Table 5'
_OVSEG = 'OVSeg paper, main table'
_ZOO = 'Mask2Former model zoo'
_SEGCLIP = 'SegCLIP paper'

_GENERALISED = 'coco_instance48_17_generalised'


def _rows(method: str, source: str, model: str | None, **values: float):
  """Rows of one method; in a keyword '__' stands for '/'."""
  for key, value in values.items():
    protocol, _, metric = key.partition('__')
    yield Published(method, f'{protocol}/{metric}', value, source, model)


def _novel(method: str, model: str | None, *values: float):
  """Rows of the base/novel table: both constrained, then base, novel and all."""
  metrics = (
    'coco_instance48_17_base/AP50',
    'coco_instance48_17_novel/AP50',
    f'{_GENERALISED}/AP50[base]',
    f'{_GENERALISED}/AP50[novel]',
    f'{_GENERALISED}/AP50',
  )
  for metric, value in zip(metrics, values, strict=True):
    yield Published(method, metric, value, _MASQ_2, model)


PUBLISHED: tuple[Published, ...] = (
  *_rows(
    'MasQCLIP (Mask2Former)',
    _MASQ_1,
    'masqclip_r50_vit_l14_336',
    ade150__PQ=23.3,
    ade150__PQth=21.2,
    ade150__PQst=27.7,
    ade150__mIoU=30.4,
    ade847__mIoU=10.7,
    pc59__mIoU=57.8,
    pc459__mIoU=18.2,
  ),
  *_rows(
    'MasQCLIP (Mask2Former)',
    _MASQ_5,
    'masqclip_r50_vit_l14_336',
    coco_panoptic__PQ=48.5,
    coco_panoptic__mIoU=62.0,
  ),
  *_novel(
    'MasQCLIP (Mask2Former)', 'masqclip_r50_vit_l14_336', 51.2, 34.3, 51.0, 31.9, 46.0
  ),
  *_rows(
    'MaskCLIP (Mask2Former)',
    _MASQ_1,
    'maskclip_r50_vit_l14_336',
    ade150__PQ=15.1,
    ade150__PQth=13.5,
    ade150__PQst=18.3,
    ade150__mIoU=23.7,
    ade847__mIoU=8.2,
    pc59__mIoU=45.9,
    pc459__mIoU=10.0,
  ),
  Published(
    'MaskCLIP (Mask2Former)',
    'ade150/AP',
    6.0,
    'OpenSeeD repository, table of results',
    'maskclip_r50_vit_l14_336',
  ),
  *_rows(
    'MaskCLIP without RMA ("freeze")',
    _MASQ_5,
    'maskclip_freeze_r50_vit_l14_336',
    ade150__PQ=10.7,
    ade150__mIoU=15.7,
    coco_panoptic__PQ=19.4,
    coco_panoptic__mIoU=22.1,
  ),
  *_rows(
    'Mask2Former (R50, closed vocabulary)',
    _ZOO,
    'mask2former_r50_coco_panoptic',
    coco_panoptic__PQ=51.9,
    coco_panoptic__AP=41.7,
    coco_panoptic__mIoU=61.7,
  ),
  *_rows(
    'OVSeg (R101c, ViT-B/16)',
    _OVSEG,
    'ovseg_r101c_vit_b16',
    ade150__mIoU_gt_or_pred=24.8,
    ade847__mIoU_gt_or_pred=7.1,
    pc59__mIoU_gt_or_pred=53.3,
    pc459__mIoU_gt_or_pred=11.0,
    voc20__mIoU_gt_or_pred=92.6,
  ),
  *_rows(
    'OVSeg (Swin-B, ViT-L/14)',
    _OVSEG,
    'ovseg_swin_b_vit_l14',
    ade150__mIoU_gt_or_pred=29.6,
    ade847__mIoU_gt_or_pred=9.0,
    pc59__mIoU_gt_or_pred=55.7,
    pc459__mIoU_gt_or_pred=12.4,
    voc20__mIoU_gt_or_pred=94.5,
  ),
  *_rows(
    'SegCLIP (ViT-B/16)',
    _SEGCLIP,
    None,
    voc21__mIoU_gt_or_pred=52.6,
    pc60__mIoU_gt_or_pred=24.7,
    coco_object__mIoU_gt_or_pred=26.5,
  ),
  *_novel('XPM', None, 42.4, 24.0, 41.5, 21.6, 36.3),
)


def published(metric: str, model: str | None = None) -> list[Published]:
  """The published numbers of a metric, the best first.

  A mean IoU of unknown rule counts for both of ours.

  Args:
    metric: 'protocol/metric'; a protocol run otherwise ('ade150+flip') has none, but
      papers that tuned on the benchmark ('ade150+tuned') have.
    model: only those that a model should reach.
  """
  protocol, _, name = metric.partition('/')
  protocol = protocol.removesuffix('+tuned')
  names = {f'{protocol}/{name}'}
  if name in ('mIoU_gt', 'mIoU_gt_or_pred'):
    names.add(f'{protocol}/mIoU')
  found = [p for p in PUBLISHED if p.metric in names and model in (None, p.model)]
  return sorted(found, key=lambda p: -p.value)
