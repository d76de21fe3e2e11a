"""Configurations by name and by file, from any directory."""

import sys

import pytest

from maskclip_jax.train import config_files


def test_a_name_and_its_file_are_the_same(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  named = config_files.load('masqclip:stage=masq,runlocal')
  file = config_files.find('masqclip')
  assert file.is_absolute()
  assert config_files.load(f'{file}:stage=masq,runlocal') == named


def test_every_shipped_configuration_has_get_config():
  for name in config_files.shipped():
    assert 'task' in config_files.load(f'{name}:runlocal'), name


def test_what_two_settings_begin_with_is_not_shared():
  for name in ('miniature:stage=student', 'masqclip:stage=student,runlocal'):
    settings = config_files.load(name)['settings']
    points = settings['criterion']['sampling']['points']
    settings['rule']['points'] = points + 1
    assert settings['criterion']['sampling']['points'] == points, name


def test_mosaics_of_the_miniature_show_more_or_larger_pairs():
  def made(spec):
    config = config_files.load(f'miniature:stage={spec}')
    data = config['data']
    sizes = config['settings']['mosaic'], data['canvas'], data['batch_size']
    return *sizes, config['model']['image_size']

  assert made('clip_mosaic') == (2, 72, 64, 144)
  assert made('clip_mosaic,side=144,mosaic=2') == made('clip_mosaic')
  assert made('clip_mosaic,mosaic=3') == (3, 48, 144, 144)
  assert made('clip_mosaic,mosaic=3,side=192') == (3, 64, 144, 192)
  with pytest.raises(ValueError, match='for the stage clip_mosaic, not masq'):
    made('masq,mosaic=3')


def test_the_far_split_of_the_miniature_changes_what_is_annotated_and_no_more():
  near, far = (
    config_files.load(f'miniature:stage=teacher,split={s}') for s in ('near', 'far')
  )
  assert near == config_files.load('miniature:stage=teacher')
  views = [config['data']['datasets'][0].pop('view') for config in (near, far)]
  assert views == ['miniature/base', 'miniature/far_base']
  assert near == far
  captions = config_files.load('miniature:stage=clip,split=far')
  assert captions == config_files.load('miniature:stage=clip')
  with pytest.raises(ValueError, match='split must be one of near, far'):
    config_files.load('miniature:stage=teacher,split=wide')


@pytest.mark.parametrize(
  ('spec', 'parts'),
  [
    ('masqclp:stage=masq', ["'masqclp'", "did you mean 'masqclip'", 'miniature']),
    ('quilt', ["'quilt'", 'mask2former, maskclip, masqclip, miniature']),
    ('common', ["'common'", 'masqclip']),
    ('configs/masqclip.py', ['configs/masqclip.py does not exist', 'masqclip']),
  ],
)
def test_an_unknown_name_is_told_with_those_there_are(
  spec, parts, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(FileNotFoundError) as raised:
    config_files.load(spec)
  for part in parts:
    assert part in str(raised.value)


def test_a_file_of_the_user_builds_on_neighbours_and_on_shipped_ones(tmp_path):
  """Its own neighbours come first; nothing stays imported."""
  (tmp_path / 'sizes.py').write_text('STEPS = 7\n')
  (tmp_path / 'mine.py').write_text(
    'from configs import common, masqclip, sizes\n'
    'def get_config(arg=None):\n'
    '  config = masqclip.get_config(arg)\n'
    '  config.total_steps = sizes.STEPS\n'
    '  return common.finished(config.to_dict())\n'
  )
  before = dict(sys.modules)
  values = config_files.load(f'{tmp_path}/mine.py:stage=masq,runlocal')
  assert values['total_steps'] == 7
  assert values['preset'] == 'masqclip_tiny'
  assert {m for m in sys.modules if m.startswith('configs')} == {
    m for m in before if m.startswith('configs')
  }
  (tmp_path / 'common.py').write_text('raise ValueError("mine")\n')
  with pytest.raises(ValueError, match='mine'):
    config_files.load(f'{tmp_path}/mine.py')


@pytest.mark.parametrize(
  ('typed', 'value'),
  [
    ('data.data_dir=2017', '2017'),
    ('data.data_dir=None', None),
    ('start.clip.source=1e3', '1e3'),
    ('optim.clip_norm=none', None),
    ('optim.clip_norm=0.1', 0.1),
    ('optim.lr=3e-4', 3e-4),
    ('total_steps=2e4', 20_000),
    ('optim.schedule.milestones=[0.5]', [0.5]),
    ('remat=True', True),
    ('model={}', {}),
    ("settings.trainable=['a.*']", ['a.*']),
    ("start.clip.keep_random=['a.*', 'b']", ['a.*', 'b']),
    ('settings.label_size=64', 64),
    ('vocabulary=cat; dog', 'cat; dog'),
  ],
)
def test_what_is_typed_is_read_as_its_field_is(typed, value):
  values = config_files.load('masqclip:stage=masq,runlocal', [f'--config.{typed}'])
  for name in typed.partition('=')[0].split('.'):
    values = values[name]
  assert values == value
  assert type(values) is type(value)


def test_fields_of_a_stage_of_a_pipeline():
  typed = '--config.stages.masq.data.data_dir=2017'
  values = config_files.load('masqclip:stage=pipeline,runlocal', [typed])
  assert values['stages']['masq']['data']['data_dir'] == '2017'
