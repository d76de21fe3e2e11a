"""The launch scripts: what they would do, and what they refuse."""

import pathlib
import re
import shlex
import subprocess

import pytest
from conftest import LONGEST, TESTS

ROOT = pathlib.Path(__file__).parent.parent
TRAIN = ['--', '--config', 'configs/masqclip.py:stage=masq', '--workdir', '/shared/a b']


def launch(script: str, *arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [f'launch/{script}', *arguments], cwd=ROOT, capture_output=True, text=True
  )


def dry(script: str, *arguments: str) -> list[str]:
  done = launch(script, '--dry_run', *arguments)
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()


@pytest.mark.parametrize('script', sorted(p.name for p in ROOT.glob('launch/*.sh')))
def test_scripts_are_valid(script):
  subprocess.run(['bash', '-n', ROOT / 'launch' / script], check=True)


def test_the_longest_tests_are_there():
  assert [name for name in LONGEST if not (TESTS / name).is_file()] == []


def test_tpu_pod():
  archive, copy, install, start = dry(
    'tpu_pod.sh', '--tpu', 'pod', '--zone', 'us-east5-a', '--project', 'p', *TRAIN
  )
  assert archive.startswith('git archive --format tar.gz')
  for line in (copy, install, start):
    assert 'gcloud compute tpus tpu-vm' in line
    assert '--zone us-east5-a --worker all --project p' in line
  assert 'pod:maskclip_jax.tar.gz' in copy
  assert 'requirements.txt' in install
  assert 'train' in start
  assert '--distributed' in start
  # Words with blanks survive two shells.
  assert 'a\\\\\\ b' in start


def test_xpk():
  (line,) = dry(
    'xpk.sh',
    *('--cluster', 'c', '--tpu_type', 'v5litepod-256', '--image', 'i', '--name', 'n'),
    *TRAIN,
  )
  assert line.startswith('xpk workload create --cluster c --workload n')
  assert '--tpu-type v5litepod-256 --num-slices 1 --docker-image i' in line
  assert '--distributed' in line


def test_slurm():
  (line,) = dry('slurm.sh', '--nodes', '4', '--gpus', '8', '--time', '9:00:00', *TRAIN)
  assert line.startswith('sbatch --nodes 4 --ntasks-per-node 1 --gpus-per-node 8')
  assert '--requeue' in line
  assert '--signal TERM@120' in line
  assert '--time 9:00:00' in line
  assert 'scontrol' in line
  assert '143' in line


def test_image_of_the_server():
  (build,) = dry('image.sh', '--tag', 't', '--dockerfile', 'serve.Dockerfile')
  assert build.startswith('docker build --file launch/serve.Dockerfile --tag t ')


def test_image():
  build, push = dry(
    'image.sh', '--tag', 't', '--accelerator', 'cuda13', '--push', 'yes'
  )
  assert build == (
    'docker build --file launch/Dockerfile --tag t --build-arg ACCELERATOR=cuda13 . '
  )
  assert push.startswith('docker push t')


@pytest.mark.parametrize('name', ['Dockerfile', 'serve.Dockerfile'])
def test_the_image_copies_files_that_exist(name):
  text = (ROOT / 'launch' / name).read_text()
  for line in re.findall(r'^COPY (.*)$', text, re.MULTILINE):
    *sources, _ = line.split()
    for source in sources:
      assert (ROOT / source).exists(), source


@pytest.mark.parametrize(
  ('script', 'arguments', 'message'),
  [
    ('tpu_pod.sh', ['--zone', 'z', *TRAIN], '--tpu is needed'),
    ('tpu_pod.sh', ['--tpu', 't', '--zone', 'z'], 'say what to train after --'),
    ('slurm.sh', ['--node', '4', *TRAIN], 'unknown or incomplete flag --node'),
    ('xpk.sh', ['--cluster'], 'unknown or incomplete flag --cluster'),
    ('xpk.sh', ['--config', 'x'], 'unknown or incomplete flag --config'),
    ('slurm.sh', ['configs/masqclip.py'], 'put the flags of train after --'),
  ],
)
def test_mistakes(script, arguments, message):
  done = launch(script, *arguments)
  assert done.returncode == 2
  assert message in done.stderr


@pytest.mark.parametrize('more', [[], ['--systems', 'ovseg'], ['--systems', 'fcclip']])
def test_the_miniature_makes_what_it_starts_from(more):
  """Every directory that a command reads was made by a command before it."""
  lines = dry('miniature.sh', '--out', 'OUT', '--seed', '3', *more)
  for system in ('ovseg', 'fcclip'):
    assert any(system in line for line in lines) == (system in more)
  made = set()
  for line in lines:
    words = shlex.split(line)
    places = [word for word in words if 'OUT/' in word and 'OUT/judged' not in word]
    place = {'train': '--workdir', 'convert': '--to', 'mine': '--out'}.get(words[3])
    new = words[words.index(place) + 1] if place else None
    read = {re.sub('.*(source|data_dir)=', '', word) for word in places} - {new}
    read.discard('OUT/data')
    assert read <= made, line
    made.add(new)
    if words[3] == 'train':
      assert 'seed=3' in line
  if more:
    assert f'OUT/{more[1]}' in made
    assert ('OUT/mined' in made) == ('ovseg' in more)
    return
  assert len(made) > 12
  shorter = dry(
    'miniature.sh', '--out', 'OUT', '--seed', '3', '--until', 'clip_baseline_close_ups'
  )
  assert 'OUT/judged/clip_baseline_close_ups' in shorter[-1]
  assert shorter == lines[: len(shorter)]


def test_the_miniature_judges_every_row_with_the_void_rule():
  plain, both = (
    [line for line in dry('miniature.sh', *flags) if ' eval ' in line]
    for flags in ([], ['--coat', '0.5'])
  )
  assert len(both) == 2 * len(plain)
  assert [line for line in both if 'coat=0.5' not in line] == plain
  segclip = dry('miniature.sh', '--systems', 'segclip', '--coat', '0.5')
  assert not any('coat' in line for line in segclip)


def test_the_miniature_of_segclip_leaves_each_loss_out_in_turn():
  lines = dry('miniature.sh', '--out', 'OUT', '--systems', 'segclip')
  assert '--superpixels' in lines[0]
  stages = [line for line in lines if 'stage=segclip' in line]
  assert len(stages) == 4
  assert all('source=maskclip_jax/miniature/clip_baseline' in line for line in stages)
  left_out = [line.partition('settings.')[2].split('=')[0] for line in stages]
  assert left_out == ['', 'contrastive', 'superpixel', 'reconstruction']
  other = dry('miniature.sh', '--systems', 'segclip', '--clips', 'CLIPS')
  stages = [line for line in other if 'stage=segclip' in line]
  assert all('source=CLIPS/clip_close_ups' in line for line in stages)
  assert not any('stage=teacher' in line for line in lines)


def test_the_masqclip_of_the_package_starts_from_its_crops():
  lines = dry('miniature.sh', '--systems', 'masqclip', '--out', 'OUT', '--scale', '0.2')
  runs = [line.split('--workdir OUT/')[1] for line in lines if ' train ' in line]
  assert [run.split()[0] for run in runs] == [
    *('clip_mosaic_2', 'clip_mosaic_3', 'clip_mosaic_192', 'clip_mosaic_192_longer'),
    'masqclip_192',
  ]
  *_, longer, masq = runs
  assert 'scale=0.5' in longer
  assert 'side=192' in masq
  assert 'scale=0.2' in masq
  for source in ('OUT/clip_mosaic_192_longer', 'maskclip_jax/miniature/clip_baseline'):
    assert f'source={source}' in masq


def test_the_masqclip_of_the_package_knows_far_things():
  flags = '--systems', 'masqclip', '--split', 'far', '--dry_run'
  refused = launch('miniature.sh', *flags)
  assert refused.returncode == 2
  assert 'leave out --split far' in refused.stderr


def test_the_miniature_trains_as_long_as_it_is_told():
  flags = ('--scale', '1', '--teacher_steps', '7000')
  runs = [line for line in dry('miniature.sh', *flags) if ' train ' in line]
  assert len(runs) > 10
  assert all('scale=1' in run for run in runs)
  (teacher,) = (run for run in runs if 'total_steps' in run)
  assert 'stage=teacher' in teacher
  assert '--config.total_steps=7000' in teacher
