"""How much must be read to follow one training step, from a record to the update."""

import pathlib
import sys
import threading

import jax
import raw_coco
import tiny_stages

import maskclip_jax
from maskclip_jax import zoo
from maskclip_jax.data.build import build
from maskclip_jax.train.mesh import make_mesh
from maskclip_jax.train.step import abstract_state, make_program

PACKAGE = pathlib.Path(maskclip_jax.__file__).parent
# Where a step is made and taken; names, words and configurations are read elsewhere.
ROOMS = {'train', 'losses', 'data', 'systems', 'nn', 'ops', 'checkpoints', 'zoo'}


def files_that_run(work) -> set[str]:
  """The files of the package with a function that `work` calls, in any thread."""
  found = set()

  def note(frame, event, _):
    found.add(frame.f_code.co_filename)

  before = sys.getprofile()
  sys.setprofile(note)
  threading.setprofile(note)
  try:
    work()
  finally:
    sys.setprofile(before)
    threading.setprofile(before)
  ours = [path for path in map(pathlib.Path, found) if path.is_relative_to(PACKAGE)]
  return {
    '/'.join(path.relative_to(PACKAGE).parts)
    for path in ours
    if path.relative_to(PACKAGE).parts[0].removesuffix('.py') in ROOMS
  }


def test_one_step_of_a_teacher_is_at_most_thirty_files(tmp_path):
  """Assembly, a batch of a built dataset, and the program of loss and update.

  Deformable sampling has a form for each kind of device; the one of CPUs counts.
  """
  build('coco', raw_coco.write_coco(tmp_path / 'raw'), tmp_path / 'built')
  data = {
    'generated': 0,
    'datasets': [{'view': 'coco/panoptic'}],
    'data_dir': str(tmp_path / 'built'),
  }
  model = {'sampling': 'chunks'}
  config = tiny_stages.stage('teacher', data=data, model=model)
  mesh = make_mesh(config.mesh, jax.devices()[:1])
  zoo.cards()  # The descriptions of all systems are imported once, by their names.

  def work():
    program = make_program(config, mesh)
    state = abstract_state(program.layout, program.tx)
    with program.stream(0) as stream:
      batch = program.batch(next(stream))
    program.step.trace(state, batch, jax.random.key(0))

  # The loop calls all of it.
  files = {'train/loop.py', *files_that_run(work)}
  assert len(files) <= 30, sorted(files)
  assert {'data/records.py', 'losses/criterion.py', 'train/optim.py'} <= files
