"""Official checkpoints to bundles and back, as a user meets it."""

import json

import golden
import mask2former_golden
import numpy as np
import pytest
import segclip_golden

from maskclip_jax import zoo
from maskclip_jax.checkpoints import bundle, detect, params, restore
from maskclip_jax.checkpoints.choice import Sources, choose_preset
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.export_official import export_official
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.mapping import resnet, rules
from maskclip_jax.nn.clip import CLIP_SIZES, CLIPConfig
from maskclip_jax.systems.clip import checkpoint as clip_table
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.maskclip.model import MaskCLIPConfig
from maskclip_jax.systems.masqclip import checkpoint as masqclip
from maskclip_jax.systems.masqclip.model import MasQCLIPConfig
from maskclip_jax.systems.system import Preset, find_system

TINY = CLIP_SIZES['vit_tiny']
# The recorded MaskCLIP: its CLIP has heads 32 wide, which no file tells.
MASKCLIP = Preset(
  'maskclip',
  MaskCLIPConfig(
    Mask2FormerConfig(
      num_classes=None,
      stem=8,
      width=16,
      hidden=64,
      mask_dim=48,
      heads=4,
      encoder_layers=1,
      decoder_layers=1,
      decoder_ffn=64,
    ),
    CLIPConfig(32, 32, 8, 64, 24, 2, 64, 3, 1),
  ),
)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """The recorded checkpoints as files, by system."""
  directory = tmp_path_factory.mktemp('official')
  weights = {
    s: dict(golden.weights(s))
    for s in ('mask2former', 'masqclip', 'maskclip', 'segclip')
  }
  weights['mask2former']['criterion.empty_weight'] = np.float32([1, 0.1])
  weights['clip'] = golden.weights('clip')
  # A CLIP that goes with the recorded MaskCLIP, whose image tower is another one.
  tower = {
    key.removeprefix('maskclip.'): array
    for key, array in weights['maskclip'].items()
    if key.startswith('maskclip.visual.') and 'added_params' not in key
  }
  text = {k: a for k, a in weights['clip'].items() if not k.startswith('visual.')}
  weights['small_clip'] = tower | text
  for name, arrays in weights.items():
    write_tensors(directory / f'{name}.safetensors', arrays)
  return {name: directory / f'{name}.safetensors' for name in weights}


@pytest.fixture(scope='module')
def masq(files, tmp_path_factory):
  """The recorded MasQCLIP as a bundle."""
  directory = tmp_path_factory.mktemp('masq') / 'bundle'
  report = convert_checkpoint(files['masqclip'], directory, clip=files['clip'])
  return directory, report


def same_tensors(path, official):
  back = TensorFile(path)
  assert back.keys() == official.keys()
  for key, array in official.items():
    assert back[key].shape == array.shape, key
    assert back[key].tobytes() == array.tobytes(), key


def test_masqclip_becomes_a_model(files, masq):
  directory, report = masq
  model, preset, opened = restore.load_model(directory)
  assert preset.system == 'masqclip'
  assert preset.config == MasQCLIPConfig(mask2former_golden.CONFIG, TINY)
  assert preset.words == 'masqclip'
  flat = params.flatten(model)
  assert report.parameters == params.count(flat)
  official = golden.weights('masqclip')
  np.testing.assert_array_equal(
    flat['mask_embeddings'], official['masqclip.mask_embeddings']
  )
  np.testing.assert_array_equal(
    flat['clip/text/token_embedding/embedding'],
    golden.weights('clip')['token_embedding.weight'],
  )
  assert opened.source['files'][0]['sha256']
  assert (
    str(report).splitlines()[0].endswith('masqclip.safetensors: MasQCLIP, 455 tensors')
  )


def test_systems_go_back_to_the_official_file_byte_for_byte(files, masq, tmp_path):
  export_official(masq[0], tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', TensorFile(files['masqclip']))
  convert_checkpoint(
    files['maskclip'], tmp_path / 'b', clip=files['small_clip'], preset=MASKCLIP
  )
  export_official(tmp_path / 'b', tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', TensorFile(files['maskclip']))


@pytest.mark.parametrize('name', ['mask2former', 'clip', 'segclip'])
def test_one_file_models_go_back_byte_for_byte(files, tmp_path, name):
  convert_checkpoint(files[name], tmp_path / 'b')
  export_official(tmp_path / 'b', tmp_path / 'x.safetensors')
  same_tensors(tmp_path / 'x.safetensors', TensorFile(files[name]))


def test_segclip_becomes_a_model(files, tmp_path):
  """One file holds both towers; what paints hidden words is known and left out."""
  tensors = dict(TensorFile(files['segclip']))
  unused = golden.full_size('segclip')['state_dict'].keys()
  unused = {key for key in unused if key.startswith('seq_mae_decoder.')}
  assert len(unused) == 44
  tensors |= {key: np.zeros(3, np.float32) for key in unused}
  write_tensors(tmp_path / 'x.safetensors', tensors)
  report = convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'b')
  model, preset, _ = restore.load_model(tmp_path / 'b')
  assert preset.config == segclip_golden.SMALL
  assert preset.scores.background_threshold == 0.65
  flat, expected = (params.flatten(m) for m in (model, segclip_golden.small()))
  assert report.parameters == params.count(flat)
  for path in flat:
    np.testing.assert_array_equal(flat[path], expected[path])
  del tensors['clip.visual.transformer.semantic_layer2.v_conv.weight']
  write_tensors(tmp_path / 'y.safetensors', tensors)
  with pytest.raises(ValueError, match=r'1 missing: clip\.visual.*v_conv\.weight'):
    convert_checkpoint(tmp_path / 'y.safetensors', tmp_path / 'c')
  with pytest.raises(ValueError, match='--clip is not used for segclip'):
    convert_checkpoint(files['segclip'], tmp_path / 'c', clip=files['clip'])


def test_every_clip_layout_gives_the_same_bundle(files, tmp_path):
  convert_checkpoint(files['clip'], tmp_path / 'openai')
  first = bundle.load(tmp_path / 'openai')
  as_json = json.dumps(zoo.presets()['clip_vit_tiny'].to_dict())
  assert first.config == json.loads(as_json)
  for layout in clip_table.LAYOUTS:
    file = tmp_path / f'{layout}.safetensors'
    export_official(tmp_path / 'openai', file, layout=layout)
    report = convert_checkpoint(file, tmp_path / layout)
    assert f'CLIP, {layout} layout' in str(report)
    assert bundle.load(tmp_path / layout).fingerprint == first.fingerprint


def test_a_scenic_tree_in_an_npz(files, tmp_path):
  convert_checkpoint(files['clip'], tmp_path / 'b')
  parameters = bundle.load(tmp_path / 'b').parameters
  tree = rules.invert(parameters, clip_table.SCENIC)
  np.savez(
    tmp_path / 'x.npz', **{k.removeprefix('params/'): a for k, a in tree.items()}
  )
  convert_checkpoint(tmp_path / 'x.npz', tmp_path / 'again')
  assert (
    bundle.load(tmp_path / 'again').fingerprint
    == bundle.load(tmp_path / 'b').fingerprint
  )


@pytest.mark.parametrize('source', ['masqclip', 'maskclip'])
def test_the_proposal_network_comes_out_of_a_system(files, tmp_path, source):
  report = convert_checkpoint(files[source], tmp_path / 'b', system='mask2former')
  assert f'took the proposal network out of {source}.safetensors' in str(report)
  preset = Preset.from_dict(bundle.load(tmp_path / 'b').config)
  assert preset.config.num_classes == (1 if source == 'masqclip' else None)
  export_official(tmp_path / 'b', tmp_path / 'x.safetensors')
  wanted = {
    key: array
    for key, array in golden.weights(source).items()
    if key.startswith(('backbone.', 'sem_seg_head.'))
  }
  same_tensors(
    tmp_path / 'x.safetensors',
    wanted | {'criterion.empty_weight': np.float32([1, 0.1])},
  )


@pytest.mark.parametrize('system', ['clip_baseline', 'maskclip'])
@pytest.mark.parametrize('source', ['mask2former', 'masqclip'])
def test_proposals_and_a_clip_make_a_training_free_system(
  files, masq, tmp_path, source, system
):
  report = convert_checkpoint(
    files[source], tmp_path / 'b', system=system, clip=masq[0]
  )
  opened = bundle.load(tmp_path / 'b')
  assert opened.config['system'] == report.system == system
  proposals = params.select(opened.parameters, 'proposals/.*')
  assert set(opened.parameters) == {
    *proposals,
    *params.select(bundle.load(masq[0]).parameters, 'clip/.*'),
  }
  official = golden.weights(source)['sem_seg_head.predictor.query_feat.weight']
  np.testing.assert_array_equal(
    opened.parameters['proposals/predictor/query_feat/embedding'], official
  )
  assert opened.text_fingerprint == bundle.load(masq[0]).text_fingerprint


def test_relative_mask_attention_can_be_left_out(files, tmp_path):
  frozen = Preset(
    'maskclip',
    MaskCLIPConfig(MASKCLIP.config.proposals, MASKCLIP.config.clip, rma_blocks=()),
  )
  convert_checkpoint(
    files['maskclip'], tmp_path / 'b', clip=files['small_clip'], preset=frozen
  )
  assert not any(p.startswith('rma/') for p in bundle.load(tmp_path / 'b').parameters)


@pytest.mark.parametrize(
  ('name', 'preset'),
  [
    ('mask2former', 'proposals_r50'),
    ('maskclip', 'maskclip_r50_vit_l14_336'),
    ('masqclip', 'masqclip_r50_vit_l14_336'),
  ],
)
def test_published_files_are_recognised(tmp_path, name, preset):
  """By shapes alone: the arrays take no memory."""
  state = golden.full_size(name)['state_dict']
  number = np.zeros((), np.float32)
  arrays = {k: np.broadcast_to(number, row['shape']) for k, row in state.items()}
  kind, layout = detect.detect(arrays, 'x')
  assert kind == name
  table = detect.formats()[kind].read(layout, arrays)
  main = detect.Checkpoint(tmp_path, arrays, kind, layout, table)
  sources = Sources.of(main, None, find_system(name))
  chosen, sized = choose_preset(sources, None)
  assert chosen == preset
  assert sized == zoo.presets()[preset]


def refused(match, *args, **kwargs):
  with pytest.raises(ValueError, match=match) as error:
    convert_checkpoint(*args, **kwargs)
  return str(error.value)


def test_wrong_systems_are_told(files, tmp_path):
  to = tmp_path / 'b'
  refused(
    "no system is called 'masclip': did you mean 'mas",
    files['clip'],
    to,
    system='masclip',
  )
  refused(
    r'masqclip\.safetensors looks like a MasQCLIP checkpoint.*--system masqclip',
    files['masqclip'],
    to,
    system='clip',
  )
  refused(
    r'clip\.safetensors looks like a CLIP checkpoint.*--system clip',
    files['clip'],
    to,
    system='masqclip',
    clip=files['clip'],
  )
  refused(
    'is a preset of clip',
    files['mask2former'],
    to,
    preset='clip_vit_b16',
    system='mask2former',
  )
  assert not to.exists()


def test_the_text_tower_must_come_from_somewhere(files, tmp_path):
  refused(
    r"does not hold CLIP's text tower.*--clip FILE.*timm/vit_large_patch14_clip_336",
    files['masqclip'],
    tmp_path / 'b',
  )
  refused(
    r'maskclip\.safetensors is a MaskCLIP checkpoint and holds no text tower',
    files['masqclip'],
    tmp_path / 'b',
    clip=files['maskclip'],
  )
  refused('--clip is not used', files['clip'], tmp_path / 'b', clip=files['clip'])
  convert_checkpoint(files['mask2former'], tmp_path / 'proposals')
  refused(
    'is a bundle without a CLIP',
    files['masqclip'],
    tmp_path / 'b',
    clip=tmp_path / 'proposals',
  )
  assert not (tmp_path / 'b').exists()


def test_the_wrong_clip_is_noticed(files, tmp_path):
  """Same sizes, other weights: the result would look right and be nonsense."""
  other = dict(golden.weights('clip'))
  proj = other['visual.proj']
  another = (
    r'other\.safetensors is not the CLIP that .*masqclip\.safetensors was trained'
  )
  broken = r'other\.safetensors:\n  1 with numbers that are not finite: visual\.proj'
  for wrong, text in ((proj[::-1], another), (proj * np.float32(np.nan), broken)):
    write_tensors(tmp_path / 'other.safetensors', other | {'visual.proj': wrong})
    refused(
      text,
      files['masqclip'],
      tmp_path / 'b',
      clip=tmp_path / 'other.safetensors',
    )
  message = refused(
    r'misshapen: visual\.proj is 64x32, expected 128x32',
    files['masqclip'],
    tmp_path / 'b',
    clip=files['small_clip'],
  )
  assert 'is it the CLIP that masqclip.safetensors was trained with?' in message


def test_rounding_to_half_precision_is_the_same_clip(files, tmp_path):
  half = {k: a.astype(np.float16) for k, a in golden.weights('clip').items()}
  half['visual.proj'] = (half['visual.proj'].astype(np.float32) * 1.001).astype('f2')
  write_tensors(tmp_path / 'half.safetensors', half)
  convert_checkpoint(
    files['masqclip'], tmp_path / 'b', clip=tmp_path / 'half.safetensors'
  )
  flat = bundle.load(tmp_path / 'b').parameters
  assert all(array.dtype == np.float32 for array in flat.values())


def test_a_preset_of_other_sizes_is_refused(files, tmp_path):
  refused(
    r'does not fit clip_vit_b16: embed_dim is 32, not 512, image_size is 64, not 224',
    files['clip'],
    tmp_path / 'b',
    preset='clip_vit_b16',
  )
  refused("there is no model 'clip_b16'", files['clip'], tmp_path, preset='clip_b16')


def test_a_class_head_without_names_is_refused(files, tmp_path):
  state = dict(golden.weights('mask2former'))
  for key in ('weight', 'bias'):
    name = f'sem_seg_head.predictor.class_embed.{key}'
    state[name] = np.zeros((152, *state[name].shape[1:]), np.float32)
  write_tensors(tmp_path / 'own.safetensors', state)
  refused(
    'class head of its own.*--system clip_baseline or .*maskclip with --clip FILE',
    tmp_path / 'own.safetensors',
    tmp_path / 'b',
  )
  done = convert_checkpoint(
    tmp_path / 'own.safetensors',
    tmp_path / 'b',
    system='clip_baseline',
    clip=files['clip'],
  )
  assert done.system == 'clip_baseline'


def test_missing_and_unknown_tensors_are_listed(files, tmp_path):
  state = dict(golden.weights('masqclip'))
  del state['masqclip.visual.proj']
  state['masqclip.visual.extra'] = np.zeros(1, np.float32)
  write_tensors(tmp_path / 'x.safetensors', state)
  message = refused(
    r'x\.safetensors', tmp_path / 'x.safetensors', tmp_path / 'b', clip=files['clip']
  )
  assert '1 unknown: masqclip.visual.extra' in message
  assert '1 missing: masqclip.visual.proj' in message
  assert not (tmp_path / 'b').exists()


FOREIGN = {
  "timm's image tower alone": 'blocks.0.attn.qkv.weight',
  'without its text tower': 'vision_model.embeddings.class_embedding',
  "timm's transformers as image tower": 'visual.trunk.blocks.0.attn.qkv.weight',
  'ResNet-D': 'conv1.0.weight',
  'transformer in its pixel decoder': (
    'sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1.weight'
  ),
  'is CoCa': 'text_decoder.transformer.resblocks.0.ln_1.weight',
  'a network we do not know: it holds lm_head': 'lm_head.weight',
}


@pytest.mark.parametrize('words', FOREIGN)
def test_other_networks_are_told_apart(tmp_path, words):
  write_tensors(tmp_path / 'x.safetensors', {FOREIGN[words]: np.zeros(1, np.float32)})
  refused(words, tmp_path / 'x.safetensors', tmp_path / 'b')


def test_a_bundle_is_converted_already(files, masq, tmp_path):
  refused('is a bundle, converted already', masq[0], tmp_path / 'b')
  convert_checkpoint(files['clip'], tmp_path / 'clip')
  for directory in (masq[0], tmp_path / 'clip'):
    refused('converted already', directory / 'model.safetensors', tmp_path / 'b')


def test_a_trained_proposal_network_goes_beside_a_clip(tmp_path):
  """What needs no training of its own is put together from two bundles."""
  proposals, clip = tmp_path / 'run' / 'bundle', tmp_path / 'clip'
  for directory, name in ((proposals, 'proposals_tiny'), (clip, 'clip_vit_tiny')):
    preset = zoo.find_preset(name)
    flat = params.flatten(random_model(preset.system, preset.config, seed=3))
    bundle.save(
      directory, preset.to_dict(), {p: np.asarray(x) for p, x in flat.items()}
    )
  message = 'converted already: give it to --model, or choose by --system'
  with pytest.raises(ValueError, match=message):
    convert_checkpoint(tmp_path / 'run', tmp_path / 'a')
  done = convert_checkpoint(
    tmp_path / 'run', tmp_path / 'b', preset='clip_baseline_tiny', clip=clip
  )
  assert done.preset == 'clip_baseline_tiny'
  joined = bundle.load(tmp_path / 'b').parameters
  for part, source in (('proposals', proposals), ('clip', clip)):
    for path, array in bundle.load(source).parameters.items():
      np.testing.assert_array_equal(joined[f'{part}/{path}'], array)


def test_a_clip_has_no_proposals_to_make_a_model_of(files, tmp_path):
  message = 'looks like a CLIP checkpoint and cannot become clip_baseline: use --system'
  with pytest.raises(ValueError, match=message):
    convert_checkpoint(
      files['clip'], tmp_path / 'b', system='clip_baseline', clip=files['clip']
    )


def test_mask_prompts_alone_are_no_model(tmp_path):
  state = {'mask_embedding': np.zeros((1, 16, 128), np.float32)}
  write_tensors(tmp_path / 'x.safetensors', state)
  with pytest.raises(ValueError, match='the mask prompts of a CLIP alone: give it by'):
    convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'b')


def test_a_backbone_is_no_clip(files, tmp_path):
  state = {'layer1.0.conv1.weight': np.zeros(1, np.float32)}
  write_tensors(tmp_path / 'x.safetensors', state)
  with pytest.raises(ValueError, match=r'holds a ResNet and a CLIP .*is needed'):
    convert_checkpoint(
      files['masqclip'], tmp_path / 'b', clip=tmp_path / 'x.safetensors'
    )


def test_a_backbone_alone_is_no_model(tmp_path):
  state = {'layer1.0.conv1.weight': np.zeros(1, np.float32)}
  write_tensors(tmp_path / 'x.safetensors', state)
  assert set(state) <= {
    key for signature in resnet.FORMAT.signatures.values() for key in signature
  }
  refused('is a ResNet, which is a part', tmp_path / 'x.safetensors', tmp_path / 'b')


def test_a_foreign_directory_is_refused_before_any_work(files, tmp_path):
  (tmp_path / 'thesis.tex').touch()
  refused('is not a bundle, so it is not overwritten', files['clip'], tmp_path)
  refused('is not a bundle, so it is not overwritten', tmp_path / 'missing', tmp_path)


@pytest.mark.parametrize(
  ('name', 'beside', 'config', 'activation'),
  [
    ('x', 'config.json', {'model_type': 'clip'}, 'quick_gelu'),
    (
      'x',
      'config.json',
      {'model_type': 'clip', 'vision_config': {'hidden_act': 'gelu'}},
      'gelu',
    ),
    ('x', 'config.json', {'model_type': 'vit'}, 'quick_gelu'),
    (
      'open_clip_model',
      'open_clip_config.json',
      {'model_cfg': {'quick_gelu': True}},
      'quick_gelu',
    ),
    ('open_clip_model', 'open_clip_config.json', {'model_cfg': {}}, 'gelu'),
  ],
)
def test_the_activation_comes_from_the_config_beside_a_clip(
  files, tmp_path, name, beside, config, activation
):
  file = tmp_path / f'{name}.safetensors'
  file.write_bytes(files['clip'].read_bytes())
  (tmp_path / beside).write_text(json.dumps(config))
  report = convert_checkpoint(file, tmp_path / 'b')
  assert bundle.load(tmp_path / 'b').config['config']['activation'] == activation
  told = config.get('model_type') != 'vit'
  assert ('activation quick_gelu, as in' in str(report)) is not told


def test_the_card_tells_origin_and_licence(masq):
  card = (masq[0] / 'MODEL_CARD.md').read_text()
  digest = bundle.load(masq[0]).source['files'][1]['sha256']
  assert f'| `clip.safetensors` | CLIP | `{digest}` |' in card
  assert 'CC BY-NC 4.0 (the authors of MasQCLIP)' in card
  assert 'Published numbers' not in card, 'these weights have sizes of their own'


def test_export_errors(masq, files, tmp_path):
  with pytest.raises(ValueError, match=r'x\.onnx: the name must end in \.safetensors'):
    export_official(masq[0], tmp_path / 'x.onnx')
  (tmp_path / 'd.safetensors').mkdir()
  with pytest.raises(ValueError, match='is a directory: name a file'):
    export_official(masq[0], tmp_path / 'd.safetensors')
  with pytest.raises(ValueError, match='masqclip has one official layout'):
    export_official(masq[0], tmp_path / 'x.safetensors', layout='openai')
  convert_checkpoint(files['clip'], tmp_path / 'clip')
  with pytest.raises(ValueError, match='layout must be one of openai'):
    export_official(tmp_path / 'clip', tmp_path / 'x.safetensors', layout='jax')
  convert_checkpoint(
    files['masqclip'], tmp_path / 'b', system='clip_baseline', clip=files['clip']
  )
  with pytest.raises(ValueError, match='clip_baseline has no official layout'):
    export_official(tmp_path / 'b', tmp_path / 'x.safetensors')
  with pytest.raises(FileNotFoundError, match='none does not exist'):
    export_official(tmp_path / 'none', tmp_path / 'x.safetensors')
  assert not (tmp_path / 'x.safetensors').exists()


def test_export_to_pytorch_needs_pytorch(masq, tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  with pytest.raises(ValueError, match=r'pip install maskclip_jax\[torch\]'):
    export_official(masq[0], tmp_path / 'x.pth')
  assert list(tmp_path.iterdir()) == []


def test_export_to_pytorch_round_trips(masq, files, tmp_path):
  torch = pytest.importorskip('torch')
  export_official(masq[0], tmp_path / 'x.pth')
  content = torch.load(tmp_path / 'x.pth', weights_only=True)
  assert list(content) == ['model']
  convert_checkpoint(tmp_path / 'x.pth', tmp_path / 'b', clip=files['clip'])
  assert bundle.load(tmp_path / 'b').fingerprint == bundle.load(masq[0]).fingerprint


def test_the_number_of_classes_of_the_criterion_is_kept(masq):
  """Nothing else in a MasQCLIP tells it, and strict loading needs the buffer."""
  assert bundle.load(masq[0]).source['criterion_classes'] == 7
  restored = [r for r in masqclip.rules() if getattr(r, 'restore', None)]
  assert len(restored) == 1
  assert len(restored[0].restore) == 134
