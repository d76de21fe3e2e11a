"""The examples that come with labelme's source, as labels of one's own.

Three photographs of PASCAL VOC with polygons, fetched by pip when this runs: they are
labelme's, under the GPL, and no part of this repository.
"""

import os
import subprocess
import sys
import tarfile

import numpy as np
import oracle
import pytest
from PIL import Image

from maskclip_jax.data.build import build
from maskclip_jax.data.doctor import check
from maskclip_jax.data.own import OwnData
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import find_protocols

pytestmark = pytest.mark.slow

RELEASE = '6.3.1'
FOLDERS = {'instance_segmentation': 12, 'semantic_segmentation': 16}
# The same quotients, added in another order.
EXACT = 1e-9


@pytest.fixture(scope='module')
def examples(tmp_path_factory):
  """labelme's folder of examples."""
  place = tmp_path_factory.mktemp('labelme')
  wanted = ('--no-deps', '--no-binary', 'labelme', f'labelme=={RELEASE}')
  # Also of the processes that pip starts.
  quick = {'PIP_RETRIES': '0', 'PIP_DEFAULT_TIMEOUT': '15'}
  try:
    subprocess.run(
      [sys.executable, '-m', 'pip', 'download', *wanted, '--dest', place],
      env={**os.environ, **quick},
      check=True,
      capture_output=True,
      text=True,
      timeout=180,
    )
  except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
    told = str(error.stderr or error).strip().splitlines()[-1]
    pytest.skip(f"labelme's source cannot be fetched: {told}")
  (archive,) = place.glob('*.tar.gz')
  with tarfile.open(archive) as opened:
    opened.extractall(place, filter='data')
  return place / f'labelme-{RELEASE}' / 'examples'


@pytest.mark.parametrize('folder', FOLDERS)
def test_build_check_and_perfect_numbers(folder, examples, tmp_path):
  photos = examples / folder / 'data_annotated'
  built = build('voc3', None, tmp_path, own=OwnData('labelme', photos))
  assert built.examples == {'train': 3}
  report = check('voc3', tmp_path)
  assert report.ok, report.problems
  assert not report.kinds()
  numbers, _ = oracle.numbers('voc3', tmp_path)
  assert {numbers[name] for name in ('PQ', 'mIoU_gt', 'AP')} == {100}
  rolled, _ = oracle.numbers('voc3', tmp_path, shift=8)
  expected = oracle.rolled_pq('voc3', tmp_path, shift=8)
  assert rolled['PQ'] == pytest.approx(expected, abs=EXACT)
  assert 10 < rolled['PQ'] < 95


@pytest.mark.parametrize('folder', FOLDERS)
def test_classes_are_where_labelme_draws_them(folder, examples, tmp_path):
  """But for outlines' own pixels, and where objects overlap."""
  place = examples / folder
  build('voc3', None, tmp_path, own=OwnData('labelme', place / 'data_annotated'))
  run = find_protocols('voc3', tmp_path)[0].for_system('')
  listed = (place / 'data_dataset_voc' / 'class_names.txt').read_text().splitlines()
  ours = np.array([*run.class_names(), '_background_'])
  for example in ProtocolSource(run, tmp_path, tasks=('semantic',)):
    drawn = place / 'data_dataset_voc' / 'SegmentationClass' / f'{example.image_id}.png'
    values = np.asarray(Image.open(drawn))
    judged = values != 255
    same = ours[example.truth.semantic[judged]] == np.array(listed)[values[judged]]
    assert same.mean() > 0.98, example.image_id
