"""Configurations: what is refused, and in which words; all shipped ones are read."""

import itertools
import json
import pathlib

import pytest
import tiny_stages

from maskclip_jax.data.views import find_view
from maskclip_jax.plain import to_dict
from maskclip_jax.train import config_files
from maskclip_jax.train.config import read, task_names
from maskclip_jax.train.optim import check_rules
from maskclip_jax.train.stages import read_stages, run_pipeline
from maskclip_jax.train.task import Layout, Task, find_task, make_task

MIXTURE = ('coco/panoptic', 'coco/base48')
CONFIGS = pathlib.Path(__file__).parent.parent.parent / 'configs'


def test_values_survive_json():
  config = tiny_stages.stage('student', optim={'lr_factors': [['backbone/.*', 0.1]]})
  again = read(json.loads(json.dumps(to_dict(config))))
  assert again == config
  assert again.optim.lr_factors == (('backbone/.*', 0.1),)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'optm': {}},
      r"config\.optm is not a field: did you mean 'optim'\?",
    ),
    ({'optim': {'lrr': 1.0}}, r"config\.optim\.lrr is not a field: did you mean 'lr'"),
    ({'optim': {'lr': 'fast'}}, r"config\.optim\.lr must be float, not 'fast'"),
    ({'total_steps': 2.5}, r'config\.total_steps must be int, not 2\.5'),
    ({'remat': 1}, r'config\.remat must be bool, not 1'),
    ({'profile': 'new'}, r"config\.profile must be one of 'released', 'paper'"),
    ({'task': 'tune'}, r"no task is called 'tune': (did you mean|known)"),
    ({'optim': {'betas': [0.9]}}, r'config\.optim\.betas must have 2 entries, not 1'),
    ({'data': {'canvas': 100}}, r'data\.canvas must be a multiple of 32, not 100'),
    ({'data': {'generated': 0}}, r'give either data\.datasets or'),
    (
      {'data': {'datasets': [{'split': 'train'}]}},
      r'config\.data\.datasets\[0\] needs view',
    ),
    (
      {'start': {'clip': {'hint': 'a CLIP'}}},
      r'--config\.start\.clip\.source to a CLIP',
    ),
    ({'optim': {'accumulate': 3}}, r'a batch of 2 does not divide into 3 parts'),
    (
      {'optim': {'accumulate': 0}},
      r'config\.optim: accumulate must be at least 1, not',
    ),
    ({'optim': {'lr': -1}}, r'config\.optim: lr must be at least 0, not -1'),
    ({'optim': {'lr': float('nan')}}, r'lr must be at least 0, not nan'),
    ({'optim': {'clip_norm': 0}}, r'clip_norm must be above 0, not 0'),
    ({'optim': {'betas': [0.9, 1]}}, r'betas must be at least 0 and below 1'),
    (
      {'optim': {'schedule': {'kind': 'step', 'milestones': [9000]}}},
      r'milestones are fractions of the run, .* not 0\.0 and \[9000\.0\]',
    ),
    (
      {'data': {'batch_size': 0}},
      r'config\.data: batch_size must be at least 1, not 0',
    ),
    ({'data': {'workers': -1}}, r'config\.data: workers must be at least 0'),
    ({'data': {'threads': -1}}, r'config\.data: threads must be at least 0'),
    (
      {'data': {'datasets': [{'view': 'coco/panoptic'}]}},
      r'give --config\.data\.generated=0',
    ),
    ({'log': {'every': 0}}, r'config\.log: every must be at least 1'),
    ({'checkpoint': {'keep': 0}}, r'config\.checkpoint: keep must be at least 1'),
    ({'mesh': {'min_size': -1}}, r'config\.mesh: min_size must be at least 0'),
    ({'total_steps': 0}, r'config: total_steps must be at least 1'),
  ],
)
def test_mistakes_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny_stages.stage('masq', **changes)


def test_a_missing_field_is_named():
  values = tiny_stages.values('masq')
  del values['preset']
  with pytest.raises(ValueError, match='config needs preset'):
    read(values)


@pytest.mark.parametrize(
  ('stage', 'changes', 'message'),
  [
    ('masq', {'settings': {'rul': {}}}, r'config\.settings\.rul is not a field'),
    ('masq', {'preset': 'maskclip_tiny', 'model': {}}, 'MasQ-tuning trains a masqclip'),
    (
      'masq',
      {'settings': {'images_per_mean': 0}},
      'images_per_mean must be at least 1',
    ),
    ('rma', {'model': {'rma_blocks': []}}, 'relative mask attention: choose'),
    ('student', {'preset': 'mask2former_tiny'}, 'class-agnostic mask2former'),
    ('teacher', {'preset': 'masqclip_tiny', 'model': {}}, 'trains a mask2former'),
    (
      'teacher',
      {'model': {'queris': 5}},
      r'config\.model\.queris is not a field.* .queries',
    ),
  ],
)
def test_parts_that_do_not_fit_each_other(stage, changes, message):
  with pytest.raises(ValueError, match=message):
    make_task(tiny_stages.stage(stage, **changes))


@pytest.mark.parametrize(
  ('stage', 'changes', 'message'),
  [
    (
      'masq',
      {'vocabulary': 'cat; dog'},
      r'has 2 classes and the training data has 133',
    ),
    ('teacher', {'model': {'num_classes': 80}}, r'tells 80 classes and .* has 133'),
    (
      'masq',
      {'data': {'generated': 0, 'datasets': [{'view': v} for v in MIXTURE]}},
      'coco/panoptic, coco/base48 have different classes',
    ),
  ],
)
def test_words_and_heads_must_fit_the_data(stage, changes, message):
  with pytest.raises(ValueError, match=message):
    make_task(tiny_stages.stage(stage, **changes))


def test_words_are_those_of_the_data():
  words = make_task(tiny_stages.stage('masq')).words
  assert (len(words), words.void) == (133, 'background')
  assert make_task(tiny_stages.stage('teacher')).words is None


def test_a_network_of_fixed_classes_knows_those_of_its_data():
  task = find_task('set_prediction')
  generated = tiny_stages.stage('teacher', preset='mask2former_tiny')
  assert task.exported(generated).vocabulary == 'coco-panoptic-133'
  assert task.exported(tiny_stages.stage('teacher')).vocabulary == 'object'
  data = {'generated': 0, 'datasets': [{'view': 'coco/base48'}]}
  model = {'num_classes': 48}
  changes = {'preset': 'mask2former_tiny', 'model': model, 'data': data}
  preset = task.exported(tiny_stages.stage('teacher', **changes))
  names = find_view('coco/base48').class_names()
  assert [label.name for label in preset.labels] == list(names)
  assert preset.vocabulary == 'coco/base48'


def test_every_file_of_tasks_is_a_task():
  assert set(task_names()) >= {'set_prediction', 'query_tuning', 'contrastive'}
  for name in task_names():
    assert issubclass(find_task(name), Task)


def test_an_expression_that_matches_nothing():
  config = tiny_stages.stage('masq', settings={'trainable': ['new_k_proj/.*']})
  with pytest.raises(ValueError, match=r"no parameter matches 'new_k_proj/\.\*'"):
    Layout.of(make_task(config))


def test_statistics_never_train():
  layout = Layout.of(make_task(tiny_stages.stage('teacher')))
  assert not any(
    path.startswith('backbone/') and '/norm/' in path for path in layout.trained
  )
  assert 'backbone/stem/conv1/norm/var' in layout.frozen


def test_profiles_train_what_they_should():
  def trained(profile):
    return Layout.of(make_task(tiny_stages.stage('masq', profile=profile))).trained

  released, paper = set(trained('released')), set(trained('paper'))
  assert released - paper == {'mask_embeddings'}
  assert all(path.startswith('new_q_proj/') for path in paper)


def shipped() -> list[str]:
  masqclip = [
    f'masqclip.py:stage={stage},setting={setting},profile={profile}'
    for stage, setting, profile in itertools.product(
      ('teacher', 'student', 'masq'), ('cross', 'base_novel'), ('released', 'paper')
    )
  ]
  maskclip = [
    f'maskclip.py:stage={stage},profile={profile}'
    for stage, profile in itertools.product(('proposals', 'rma'), ('released', 'paper'))
  ]
  ovseg = [
    f'ovseg.py:stage={stage},model={model},profile={profile}'
    for stage, model, profile in itertools.product(
      ('proposals', 'pairs', 'prompts'), ('swin_b', 'r101c'), ('released', 'paper')
    )
  ]
  miniature = [
    f'miniature.py:stage={stage}'
    for stage in (
      *('clip', 'clip_anywhere', 'clip_photos', 'clip_close_ups', 'clip_mosaic'),
      *('teacher', 'student', 'longer'),
      *('masq', 'tune_all', 'rma'),
      *('ovseg_proposals', 'ovseg_pairs', 'ovseg_prompts'),
      *('convnext', 'convnext_photos', 'fcclip'),
    )
  ]
  larger = [
    f'miniature.py:side=192,stage={stage}'
    for stage in ('clip_mosaic,mosaic=3', 'masq', 'tune_all', 'rma')
  ]
  return [
    *larger,
    *masqclip,
    *maskclip,
    *ovseg,
    *miniature,
    'mask2former.py:',
    'fcclip.py:clip=convnext_base',
    'fcclip.py:clip=rn50',
  ]


@pytest.mark.parametrize(
  ('spec', 'runlocal'),
  [
    *((spec, '') for spec in shipped()),
    # The same steps and data whatever the profile.
    *((spec, 'runlocal') for spec in shipped() if 'profile=paper' not in spec),
  ],
)
def test_every_shipped_configuration_fits_its_model(spec, runlocal):
  """All but the arrays: fields, presets, expressions over paths, batch and mesh."""
  comma = '' if spec.endswith(':') else ','
  values = config_files.load(f'{CONFIGS}/{spec}{comma if runlocal else ""}{runlocal}')
  for start in values.get('start', {}).values():
    start['source'] = 'somewhere'
  config = read(values)
  layout = Layout.of(make_task(config))
  check_rules(layout.trained, config.optim)
  if runlocal:
    assert (config.total_steps, config.data.generated) == (2, 8)


def test_published_numbers_of_parameters():
  """[masqclip 2.6, 13]"""

  def trained(spec):
    values = config_files.load(f'{CONFIGS}/{spec}')
    for start in values['start'].values():
      start['source'] = 'somewhere'
    layout = Layout.of(make_task(read(values)))
    return layout.table().splitlines()[0]

  assert trained('masqclip.py:stage=teacher').startswith('43,949,954 parameters train')
  # 24 query projections of 25,190,400 in all, and the vector of the mask tokens.
  assert trained('masqclip.py:stage=masq').startswith('25,191,424 parameters train')
  assert trained('maskclip.py:stage=rma').startswith('5,817,104 parameters train')


def test_recipes_of_the_papers():
  """[masqclip 5.6]"""

  def of(arg):
    return config_files.load(f'{CONFIGS}/masqclip.py:{arg}')

  teacher = of('stage=teacher,setting=base_novel')
  assert (teacher['total_steps'], teacher['data']['batch_size']) == (100_000, 16)
  assert of('stage=teacher')['total_steps'] == 200_000
  assert of('stage=student')['optim']['lr'] == 1e-5
  assert of('stage=student,setting=base_novel')['optim']['lr'] == 1e-4
  masq = of('stage=masq,setting=base_novel')
  assert masq['data']['datasets'][0]['view'] == 'coco/base48'
  assert masq['data']['overlapping']
  assert list(masq['optim']['schedule']['milestones']) == [0.9]


def test_pipeline_stages_follow_each_other(tmp_path):
  values = config_files.load(f'{CONFIGS}/masqclip.py:stage=pipeline,rounds=2,runlocal')
  stages = read_stages(values, tmp_path)
  assert list(stages) == ['teacher', 'student_1', 'student_2', 'masq']
  assert stages['student_2'].start['teacher'].source == f'{tmp_path}/student_1'
  assert stages['masq'].start['proposals'].source == f'{tmp_path}/student_2'


def test_a_pipeline_that_mines(tmp_path):
  spec = f'{CONFIGS}/ovseg.py:stage=pipeline,runlocal'
  stages = read_stages(config_files.load(spec), tmp_path)
  assert list(stages) == ['proposals', 'mine', 'pairs', 'prompts']
  assert stages['mine'].config.model == f'{tmp_path}/proposals'
  assert stages['pairs'].data.data_dir == stages['mine'].out == f'{tmp_path}/mine'
  stages = read_stages(config_files.load(f'{spec},mine=false'), tmp_path)
  assert list(stages) == ['proposals', 'pairs', 'prompts']


@pytest.mark.parametrize(
  ('field', 'message'),
  [
    ('config.nouns.source=elephant', 'none of the first 8 photos has a caption with'),
    ('config.captions=-1', 'stages.mine.config: captions must be 0 or more, not -1'),
    ('confg.captions=1', "config.stages.mine.confg .*did you mean 'config'"),
    ('source=nowhere/captions', 'nowhere is not built in'),
  ],
)
def test_mining_that_would_fail_fails_before_the_first_stage(field, message, tmp_path):
  spec = f'{CONFIGS}/ovseg.py:stage=pipeline,runlocal'
  values = config_files.load(spec, [f'--config.stages.mine.{field}'])
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    run_pipeline(values, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_pipeline_names_the_stage_of_a_mistake(tmp_path):
  spec = f'{CONFIGS}/masqclip.py:stage=pipeline'
  with pytest.raises(
    ValueError, match=r'stage teacher: .*stages\.teacher\.start\.backbone'
  ):
    read_stages(config_files.load(spec), tmp_path)


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ('masqclip.py:stage=tune', "stage must be one of teacher, .*, not 'tune'"),
    ('masqclip.py:stge=masq', "unknown argument 'stge'.* there are stage,"),
    ('masqclip.py:rounds=two', "rounds is a whole number, not 'two'"),
    ('miniature.py:scale=nan', "scale is a number, not 'nan'"),
    ('miniature.py:scale=-.5', 'scale=-0.5 leaves the stage masq without a step'),
    ('masqclip.py:runlocal=maybe', "runlocal is true or false, not 'maybe'"),
  ],
)
def test_arguments_are_read_strictly(spec, message):
  with pytest.raises(ValueError, match=message):
    config_files.load(f'{CONFIGS}/{spec}')


def test_files_that_are_no_configuration(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no\.py does not exist'):
    config_files.load('no.py')
  (tmp_path / 'empty.py').write_text('x = 1\n')
  with pytest.raises(ValueError, match=r'has no get_config'):
    config_files.load(str(tmp_path / 'empty.py'))


def test_overrides():
  values = config_files.load(
    f'{CONFIGS}/masqclip.py:runlocal',
    [
      '--config.optim.lr=3e-4',
      '--config.data.data_dir=/data/1',
      '--config.start.clip.source=7',
      '--config.remat=true',
      '--config.mesh.fsdp=2',
    ],
  )
  assert values['optim']['lr'] == 3e-4
  assert values['data']['data_dir'] == '/data/1'
  assert values['remat'] is True
  assert values['mesh'] == {'fsdp': 2}
  with pytest.raises(ValueError, match='has no value: write'):
    config_files.load(f'{CONFIGS}/masqclip.py:runlocal', ['--config.remat'])
  with pytest.raises(ValueError, match='is a value, not a table'):
    config_files.load(f'{CONFIGS}/masqclip.py:runlocal', ['--config.task.x=1'])
