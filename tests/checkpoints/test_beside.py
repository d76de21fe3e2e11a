"""What the config file beside the weights of a CLIP says is taken or refused."""

import json

import golden
import numpy as np
import pytest

from maskclip_jax.checkpoints import bundle, params, restore
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.nn.clip import CLIP_SIZES, PIXEL_MEAN, PIXEL_STD, CLIPConfig
from maskclip_jax.systems.clip.beside import beside
from maskclip_jax.systems.clip.checkpoint import LAYOUTS, fitted

OPEN_CLIP = {
  'model_cfg': {
    'embed_dim': 32,
    'quick_gelu': True,
    'vision_cfg': {
      'head_width': 32,
      'width': 128,
      'layers': 3,
      'patch_size': 16,
      'image_size': 64,
      'patch_dropout': 0.5,
    },
    'text_cfg': {'width': 64, 'heads': 2, 'layers': 3, 'context_length': 77},
  },
  'preprocess_cfg': {'mean': list(PIXEL_MEAN), 'std': list(PIXEL_STD)},
}
HUGGING_FACE = {
  'model_type': 'clip',
  'projection_dim': 32,
  'vision_config': {
    'hidden_size': 128,
    'num_attention_heads': 4,
    'intermediate_size': 512,
    'layer_norm_eps': 1e-5,
    'hidden_act': 'gelu',
  },
  'text_config': {
    'hidden_size': 64,
    'intermediate_size': 256,
    'layer_norm_eps': 1e-6,
    'hidden_act': 'gelu',
  },
}


@pytest.fixture(scope='module')
def weights():
  return dict(golden.weights('clip'))


@pytest.fixture
def convert(weights, tmp_path):
  """Converts with a config beside the weights: CLIP's fields, and the notes."""

  def call(config, file='open_clip_config.json', name='model.safetensors', **changes):
    write_tensors(tmp_path / name, weights | changes)
    (tmp_path / file).write_text(json.dumps(config))
    report = convert_checkpoint(tmp_path / name, tmp_path / 'bundle')
    return bundle.load(tmp_path / 'bundle').config['config'], str(report)

  return call


def changed(config, path, value):
  """A copy of a config with one field changed; the path is separated by dots."""
  config = json.loads(json.dumps(config))
  *tables, field = path.split('.')
  inner = config
  for table in tables:
    inner = inner.setdefault(table, {})
  inner[field] = value
  return config


@pytest.mark.parametrize('name', ['model.safetensors', 'open_clip_model.safetensors'])
def test_heads_of_open_clip_whatever_the_weights_are_called(convert, name):
  found, report = convert(OPEN_CLIP, name=name)
  assert found['vision_heads'] == 4
  assert found['text_heads'] == 2
  assert found['activation'] == 'quick_gelu'
  assert 'attention heads' not in report
  assert 'activation' not in report


def test_pixel_statistics_are_taken(convert):
  grey = {'mean': [0.5, 0.5, 0.5], 'std': 0.5}
  found, _ = convert(OPEN_CLIP | {'preprocess_cfg': grey})
  assert found['pixel_mean'] == found['pixel_std'] == [0.5, 0.5, 0.5]
  rounded = {'mean': [0.4815, 0.4578, 0.4082]}
  found, _ = convert(OPEN_CLIP | {'preprocess_cfg': rounded})
  assert found['pixel_mean'] == list(PIXEL_MEAN)


def test_what_is_not_told_is_noted(convert):
  found, report = convert({'model_cfg': {'embed_dim': 32}})
  assert found['activation'] == 'gelu'
  assert 'attention heads: 2 of 128 channels and 1 of 64' in report


def test_heads_epsilon_and_activation_of_hugging_face(convert):
  found, report = convert(HUGGING_FACE, 'config.json')
  assert found['vision_heads'] == 4
  # Left out, which means the library's default.
  assert found['text_heads'] == 8
  assert found['vision_norm_eps'] == 1e-5
  assert found['text_norm_eps'] == 1e-6
  assert found['activation'] == 'gelu'
  assert 'attention heads' not in report


def test_old_tables_of_hugging_face_win(convert):
  old = HUGGING_FACE | {'vision_config_dict': {'num_attention_heads': 8}}
  assert convert(old, 'config.json')[0]['vision_heads'] == 8


def test_a_layout_reads_its_own_file_first(tmp_path):
  (tmp_path / 'open_clip_config.json').write_text(json.dumps(OPEN_CLIP))
  (tmp_path / 'config.json').write_text(json.dumps(HUGGING_FACE))
  weights = tmp_path / 'model.safetensors'
  assert beside(weights, 'openai')['vision_heads'] == 4
  assert beside(weights, 'openai')['activation'] == 'quick_gelu'
  assert beside(weights, 'hugging_face')['text_heads'] == 8
  (tmp_path / 'config.json').unlink()
  assert beside(weights, 'hugging_face')['text_heads'] == 2


def test_an_epsilon_reaches_the_network(convert, tmp_path):
  convert(changed(OPEN_CLIP, 'model_cfg.vision_cfg.norm_kwargs', {'eps': 0.5}))
  model, _, _ = restore.load_model(tmp_path / 'bundle')
  assert model.visual.ln_pre.epsilon == 0.5
  assert model.visual.transformer.resblocks[2].ln_2.epsilon == 0.5
  assert model.text.ln_final.epsilon == 1e-5


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    ('model_cfg.vision_cfg.image_size', 96, 'says image_size 96, and they have 64'),
    ('model_cfg.vision_cfg.image_size', [64, 32], 'image_size is .* expected a size'),
    ('model_cfg.vision_cfg.width', 256, 'says vision_width 256, and they have 128'),
    ('model_cfg.vision_cfg.layers', 12, 'says vision_layers 12, and they have 3'),
    ('model_cfg.vision_cfg.mlp_ratio', 4.5, 'vision_mlp_width 576, and they have 512'),
    ('model_cfg.vision_cfg.head_width', '32', "head_width is '32': expected a size"),
    ('model_cfg.vision_cfg.pool_type', 'avg', "pool_type = 'avg' is not supported"),
    ('model_cfg.vision_cfg.timm_model_name', 'x', 'timm_model_name .* not supported'),
    ('model_cfg.vision_cfg.act_kwargs', {'a': 1}, 'act_kwargs .* is not supported'),
    ('model_cfg.text_cfg.context_length', 32, 'context_length 32, and they have 77'),
    ('model_cfg.text_cfg.no_causal_mask', True, 'no_causal_mask .* not supported'),
    ('model_cfg.text_cfg.hf_tokenizer_name', 'x', 'hf_tokenizer_name .* not supported'),
    ('model_cfg.embed_dim', 64, 'says embed_dim 64, and they have 32'),
    ('model_cfg.vision_cfg', 5, 'vision_cfg is not a table'),
    ('model_cfg.vision_cfg.head_width', 256, 'heads of 256 in a tower of 128'),
    ('model_cfg.vision_cfg.mlp_ratio', float('inf'), 'mlp_ratio is inf'),
    ('model_cfg.quick_gelu', 'false', "quick_gelu is 'false': expected true or false"),
    ('preprocess_cfg.mean', [0.5, 127.5, 0.5], 'mean is .* expected three numbers'),
    ('preprocess_cfg.std', -0.5, 'std is -0.5: expected three numbers'),
    ('preprocess_cfg.std', ['a'], 'std is .* expected three numbers'),
  ],
)
def test_what_cannot_be_is_refused_with_its_field(convert, path, value, message):
  with pytest.raises(ValueError, match=message):
    convert(changed(OPEN_CLIP, path, value))


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    ('vision_config.hidden_act', 'quick_gelu', "'quick_gelu' and 'gelu' is not"),
    ('text_config.hidden_act', ['x'], 'hidden_act'),
    ('vision_config.num_attention_heads', 0, 'num_attention_heads is 0'),
    ('vision_config.layer_norm_eps', None, 'layer_norm_eps is None'),
    ('vision_config.image_size', 32, 'says image_size 32, and they have 64'),
    ('text_config', [], 'text_config is not a table'),
  ],
)
def test_what_hugging_face_says_wrongly_is_refused(convert, path, value, message):
  with pytest.raises(ValueError, match=message):
    convert(changed(HUGGING_FACE, path, value), 'config.json')


@pytest.mark.parametrize('text', ['{', '[]', '[' * 5000, '', '\xff'])
def test_a_broken_config_is_one_line(tmp_path, text):
  (tmp_path / 'open_clip_config.json').write_text(text, 'latin-1')
  with pytest.raises(ValueError, match=r'open_clip_config\.json') as error:
    beside(tmp_path / 'model.safetensors', 'openai')
  assert '\n' not in str(error.value)


def test_statistics_of_a_preprocessor(tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(HUGGING_FACE))
  file = tmp_path / 'preprocessor_config.json'
  file.write_text(json.dumps({'image_mean': [0.4815, 0.4578, 0.4082]}))
  assert beside(tmp_path / 'model.safetensors', 'hugging_face')
  file.write_text(json.dumps({'image_mean': [0.5, 0.5, 5]}))
  with pytest.raises(ValueError, match=r'preprocessor_config\.json: image_mean'):
    beside(tmp_path / 'clip.safetensors', 'openai')
  with pytest.raises(ValueError, match=r'preprocessor_config\.json: image_mean'):
    beside(tmp_path / 'model.safetensors', 'hugging_face')


def test_other_families_in_hugging_face_layout_are_refused(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "metaclip_2"}')
  with pytest.raises(ValueError, match="type 'metaclip_2' is not supported"):
    beside(tmp_path / 'model.safetensors', 'hugging_face')
  assert beside(tmp_path / 'model.safetensors', 'openai') == {}


def test_words_of_another_tokenizer_are_refused(convert):
  table = np.zeros((90162, 64), np.float16)
  with pytest.raises(ValueError, match=r'90162 rows .* another tokenizer'):
    convert({'model_cfg': {}}, **{'token_embedding.weight': table})


# Sizes of open_clip's largest models and their published numbers of parameters.
LARGE = {
  'ViT-H-14': (CLIPConfig(1024, 224, 14, 1280, 32, 16, 1024, 24, 16), 986_109_441),
  'ViT-bigG-14': (
    CLIPConfig(1280, 224, 14, 1664, 48, 16, 1280, 32, 20, vision_mlp_width=8192),
    2_539_567_105,
  ),
}


@pytest.mark.parametrize('name', LARGE)
def test_large_clips_get_their_heads_and_widths(name):
  """By the shapes alone, and with the size they are published with."""
  expected, count = LARGE[name]
  model = params.abstract_model('clip', expected)
  assert params.count(params.flatten(model)) == count
  sizes = {
    field: getattr(expected, field)
    for field in expected.__dataclass_fields__
    if field.endswith(('width', 'layers', 'dim', 'size', 'length'))
  }
  sizes['vision_mlp_width'] = expected.vision_mlp_width or 4 * expected.vision_width
  sizes['text_mlp_width'] = 4 * expected.text_width
  assert fitted(CLIP_SIZES['vit_b32'], sizes, {}) == expected


def test_a_wrapper_around_the_network_is_taken_off(weights, tmp_path):
  for prefix in ('model.', '_orig_mod.', 'ema_model.module.', 'clip.net.'):
    file = tmp_path / 'x.safetensors'
    write_tensors(file, {prefix + key: array for key, array in weights.items()})
    convert_checkpoint(file, tmp_path / 'bundle')
    flat = bundle.load(tmp_path / 'bundle').parameters
    np.testing.assert_array_equal(flat['visual/proj/kernel'], weights['visual.proj'])
  prefixed = {f'model.{key}': array for key, array in weights.items()}
  write_tensors(file, prefixed | {'loss.scale': np.zeros(1, np.float32)})
  with pytest.raises(ValueError, match=r"we know below 'model\.', and others"):
    convert_checkpoint(file, tmp_path / 'bundle2')


@pytest.mark.parametrize(
  ('spoil', 'message'),
  [
    (lambda a: a * np.float16('nan'), 'not finite: visual.proj'),
    (lambda a: a.astype(np.int8), 'quantised: visual.proj is int8, not float32'),
  ],
)
def test_weights_that_compute_nothing_are_refused(weights, tmp_path, spoil, message):
  spoilt = weights | {'visual.proj': spoil(np.asarray(weights['visual.proj']))}
  write_tensors(tmp_path / 'clip.safetensors', spoilt)
  with pytest.raises(ValueError, match=message):
    convert_checkpoint(tmp_path / 'clip.safetensors', tmp_path / 'bundle')
  assert not (tmp_path / 'bundle').exists()


def test_a_scalar_stored_as_a_vector_of_one(weights, tmp_path):
  scale = weights['logit_scale'].reshape(1)
  write_tensors(tmp_path / 'x.safetensors', weights | {'logit_scale': scale})
  convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'bundle')
  assert bundle.load(tmp_path / 'bundle').parameters['logit_scale'].shape == ()


def test_folders_of_hugging_face(weights, tmp_path):
  """A repository is converted; it is not taken for a bundle, and not overwritten."""
  repository = tmp_path / 'repository'
  repository.mkdir()
  names = list(weights)
  for i, part in enumerate((names[:9], names[9:]), 1):
    file = repository / f'model-0000{i}-of-00002.safetensors'
    write_tensors(file, {name: weights[name] for name in part})
  (repository / 'config.json').write_text('{"model_type": "clip"}')
  convert_checkpoint(repository, tmp_path / 'bundle')
  flat = bundle.load(tmp_path / 'bundle').parameters
  np.testing.assert_array_equal(flat['visual/proj/kernel'], weights['visual.proj'])
  write_tensors(repository / 'model.safetensors', weights)
  with pytest.raises(ValueError, match='is not a bundle, so it is not overwritten'):
    convert_checkpoint(tmp_path / 'x.safetensors', repository)
  with pytest.raises(ValueError, match='must be converted first'):
    bundle.load(repository)


def test_every_layout_is_known_to_the_reader(tmp_path):
  for layout in LAYOUTS:
    assert beside(tmp_path / 'x.safetensors', layout) == {}
