"""Mask2Formers of transformers, and of detectron2 with a Swin, to bundles and back."""

import dataclasses
import json

import golden
import hugging_face_golden as hugging_face
import inventory
import jax
import numpy as np
import pytest
import seeded
from flax import nnx

import maskclip_jax
from maskclip_jax import zoo
from maskclip_jax.checkpoints import bundle, detect, params, restore
from maskclip_jax.checkpoints.choice import Sources, choose_preset
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.checkpoints.export_official import export_official
from maskclip_jax.checkpoints.labels import closed_vocabulary
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.mapping import rules
from maskclip_jax.nn.swin import SwinConfig
from maskclip_jax.systems.mask2former.hugging_face import BESIDE
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.system import Label, find_system
from maskclip_jax.text.vocabulary import Vocabulary

SWIN, RESNET, FORMER = 'mask2former_swin', 'mask2former_resnet', 'maskformer_swin'
# Float32 against the library's float64, relative to the largest value.
TOLERANCE = 1e-5
_FAST = 'mask2former_swin_t_coco_panoptic', 'maskformer_swin_t_coco_panoptic'
PUBLISHED = [
  pytest.param(name, marks=() if name in _FAST else pytest.mark.slow)
  for name in zoo.presets()
  if name.endswith('_coco_panoptic')
]
# Few layers: what is known of a file does not depend on them.
SMALL = Mask2FormerConfig(
  num_classes=150,
  swin=SwinConfig(16, (2, 2, 2, 2), (1, 2, 4, 8), 5),
  hidden=64,
  encoder_layers=1,
  decoder_layers=1,
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return hugging_face.write(tmp_path_factory.mktemp('swin') / 'saved', SWIN)


@pytest.fixture(scope='module')
def converted(folder):
  return convert_checkpoint(folder, folder.parent / 'bundle')


def refused(words, source, to) -> None:
  with pytest.raises(ValueError, match=words) as error:
    convert_checkpoint(source, to)
  assert '\n' not in str(error.value)
  assert not to.exists()


def check_outputs(name, directory) -> None:
  network, _, _ = restore.load_model(directory)
  recorded = hugging_face.outputs(name)
  images = maskclip_jax.Images.from_arrays([recorded['photo']])
  graph, state = nnx.split(network)
  found = jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images)
  for ours, key in ((found.mask_logits, 'masks'), (found.class_logits, 'classes')):
    golden.assert_close(ours, recorded[key], name=key, tolerance=TOLERANCE)


def test_a_folder_of_transformers_computes_what_the_library_does(converted):
  check_outputs(SWIN, converted.directory)


@pytest.mark.slow
@pytest.mark.parametrize('name', [RESNET, FORMER])
def test_other_networks_do_too(tmp_path, name):
  hugging_face.write(tmp_path / 'saved', name)
  done = convert_checkpoint(tmp_path / 'saved', tmp_path / 'bundle')
  assert done.system == name.split('_')[0]
  check_outputs(name, tmp_path / 'bundle')
  # Both layouts, and back.
  official, again = tmp_path / 'official.safetensors', tmp_path / 'again'
  export_official(done.directory, official)
  _, preset = restore.open_bundle(done.directory)
  convert_checkpoint(official, again, preset=preset)
  flat = bundle.load(again).parameters
  for path, array in bundle.load(done.directory).parameters.items():
    np.testing.assert_array_equal(flat[path], array)


def test_tensors_that_a_swin_lacks_are_named(tmp_path):
  folder, state = hugging_face.write(tmp_path / 'x', SWIN), hugging_face.weights(SWIN)
  table = '0.attention.self.relative_position_bias_table'
  (lost,) = (key for key in state if key.endswith(f'layers.0.blocks.{table}'))
  del state[lost]
  write_tensors(folder / 'model.safetensors', state)
  with pytest.raises(ValueError, match=f'1 missing: {lost}'):
    convert_checkpoint(folder, tmp_path / 'b')


def test_classes_are_called_as_the_config_says(converted):
  _, preset, _ = restore.load_model(converted.directory)
  assert preset.vocabulary == 'own-5'
  # Twice the same name and none are told apart by their column.
  assert preset.labels == (
    Label('roof', thing=False),
    Label('solar panel'),
    Label('sky-other-merged', thing=False),
    Label('roof 3', thing=False),
    Label('class 4'),
  )
  assert 'its 5 classes are named by the config beside it' in str(converted)
  segmenter = maskclip_jax.load(converted.directory)
  words = segmenter.vocabulary(None)
  assert [c.name for c in words.classes] == [label.name for label in preset.labels]
  with pytest.raises(ValueError, match='knows only its own vocabulary, own-5'):
    segmenter.vocabulary('cat; dog')


def test_labels_of_another_number_than_the_class_head_are_refused(tmp_path):
  opened = hugging_face.write(tmp_path / 'saved', SWIN)
  bundled = convert_checkpoint(opened, tmp_path / 'b').directory
  file = bundled / 'config.json'
  content = json.loads(file.read_text())
  content['preset']['labels'].pop()
  file.write_text(json.dumps(content))
  with pytest.raises(ValueError, match='4 labels and a class head of 5 classes'):
    restore.open_bundle(bundled)


@pytest.mark.parametrize('name', ['coco-panoptic-133', 'ade20k-150'])
def test_the_classes_of_a_bundled_vocabulary_are_recognised(name):
  classes = Vocabulary.named(name).classes
  told = {'vocabulary': name, 'labels': None}
  assert closed_vocabulary([c.name for c in classes]) == told
  assert closed_vocabulary([c.words[0] for c in classes]) == told
  other = closed_vocabulary([c.name for c in classes[1:]] + ['mine'])
  assert other['vocabulary'] == f'own-{len(classes)}'
  stuff = [label.name for label in other['labels'] if not label.thing]
  assert 0 < len(stuff) < len(classes)


def test_files_without_a_config_are_named_by_their_number_of_classes(tmp_path):
  shapes = hugging_face.record(SWIN)['shapes']
  shapes |= {
    'class_predictor.weight': (151, 64),
    'class_predictor.bias': (151,),
    'criterion.empty_weight': (151,),
  }
  write_tensors(tmp_path / 'x.safetensors', seeded.seeded_state_dict(shapes))
  done = convert_checkpoint(tmp_path / 'x.safetensors', tmp_path / 'b')
  assert 'its 150 classes are taken for ade20k-150, by their number' in str(done)
  assert restore.open_bundle(tmp_path / 'b')[1].vocabulary == 'ade20k-150'


def test_a_detectron2_file_may_have_its_classes_named_beside_it(tmp_path):
  folder = tmp_path / 'own'
  folder.mkdir()
  weights = dict(golden.weights('mask2former'))
  head = 'sem_seg_head.predictor.class_embed.'
  weights |= {
    f'{head}weight': np.zeros((4, 64), np.float32),
    f'{head}bias': np.zeros(4, np.float32),
  }
  write_tensors(folder / 'model.safetensors', weights)
  refused('put a config.json beside it', folder, tmp_path / 'a')
  names = {'0': 'bolt', '1': 'nut', '2': 'floor'}
  file = folder / 'config.json'
  file.write_text(json.dumps({'id2label': names, 'model_type': 'clip'}))
  refused('put a config.json beside it', folder, tmp_path / 'a')
  file.write_text(json.dumps({'id2label': names}))
  convert_checkpoint(folder, tmp_path / 'b')
  _, preset = restore.open_bundle(tmp_path / 'b')
  assert [label.name for label in preset.labels] == list(names.values())
  assert [label.thing for label in preset.labels] == [True, True, False]


def test_both_layouts_come_back(folder, converted, tmp_path):
  """All tensors that are parameters, byte for byte; and the other layout's file makes
  the same bundle."""
  back = tmp_path / 'back.safetensors'
  export_official(converted.directory, back, layout='hugging_face')
  unused = {key for key in TensorFile(folder / 'model.safetensors') if '.swin.' in key}
  ours, theirs = TensorFile(back), TensorFile(folder / 'model.safetensors')
  # The weights of the loss are a constant, which is written as it is.
  assert ours.keys() == theirs.keys() - unused
  for key in ours.keys() - {'criterion.empty_weight'}:
    assert ours[key].tobytes() == theirs[key].tobytes(), key
  other = tmp_path / 'detectron2.safetensors'
  export_official(converted.directory, other)
  index = 'backbone.layers.1.blocks.0.attn.relative_position_index'
  assert TensorFile(other)[index].shape == (25, 25)
  # Names are not in it.
  _, preset = restore.open_bundle(converted.directory)
  again = convert_checkpoint(other, tmp_path / 'again', preset=preset)
  flat = bundle.load(again.directory).parameters
  for path, array in bundle.load(converted.directory).parameters.items():
    np.testing.assert_array_equal(flat[path], array)


def test_its_masks_go_beside_a_clip_for_any_words(folder, tmp_path):
  write_tensors(tmp_path / 'clip.safetensors', golden.weights('clip'))
  done = convert_checkpoint(
    folder, tmp_path / 'b', system='clip_baseline', clip=tmp_path / 'clip.safetensors'
  )
  assert 'took the proposal network out of model.safetensors' in str(done)
  model, preset, _ = restore.load_model(tmp_path / 'b')
  assert preset.config.proposals.swin == SwinConfig(16, (2,) * 4, (1, 2, 4, 8), 5)
  assert (preset.vocabulary, preset.labels) == (None, None)
  weights = hugging_face.weights(SWIN)
  ours = params.flatten(model)['proposals/predictor/query_feat/embedding']
  theirs = weights['model.transformer_module.queries_features.weight']
  np.testing.assert_array_equal(ours, theirs)


REFUSED = {
  'pre_norm = True is not supported': {'pre_norm': True},
  "activation_function = 'gelu' is not supported": {'activation_function': 'gelu'},
  "backbone of type 'focalnet' is not supported": {
    'backbone_config': {'model_type': 'focalnet'}
  },
  'hidden_act = .* is not supported': {
    'backbone_config': {'model_type': 'swin', 'hidden_act': 'relu'}
  },
  'backbone_config is not a table': {'backbone_config': 3},
  "a model of type 'detr', and the weights are a Mask2Former": {'model_type': 'detr'},
  'expected the name of every class by its number': {'id2label': {'1': 'cat'}},
  'names 2 classes, and its class head has 5': {'id2label': {'0': 'a', '1': 'b'}},
}


@pytest.mark.parametrize('words', REFUSED)
def test_configs_of_other_networks_are_refused(tmp_path, words):
  hugging_face.write(tmp_path / 'saved', SWIN, config=REFUSED[words])
  refused(words, tmp_path / 'saved', tmp_path / 'b')


def test_pixels_are_normalised_as_the_processor_says(tmp_path):
  values = {'image_mean': [0.5, 0.25, 0.5], 'image_std': [0.5] * 3, 'size': 300}
  file = hugging_face.write(tmp_path / 'saved', SWIN, preprocessor=values)
  told = BESIDE.beside(file / 'model.safetensors', 'hugging_face')
  assert told == {
    'pixel_mean': pytest.approx((127.5, 63.75, 127.5)),
    'pixel_std': pytest.approx((127.5,) * 3),
  }
  path = file / 'preprocessor_config.json'
  for changes, mean, std in (
    # As float32 rounds them: those of ImageNet as everybody writes them.
    ({'image_mean': [0.48500001, 0.456, 0.406]}, None, None),
    ({'do_normalize': False}, (0.0,) * 3, (255.0,) * 3),
    ({'do_rescale': False, 'image_mean': 2, 'image_std': 3}, (2.0,) * 3, (3.0,) * 3),
  ):
    path.write_text(json.dumps(changes))
    told = BESIDE.beside(file / 'model.safetensors', 'hugging_face')
    usual = Mask2FormerConfig()
    assert told['pixel_mean'] == pytest.approx(mean or usual.pixel_mean)
    assert told['pixel_std'] == pytest.approx(std or usual.pixel_std)
  for wrong in (
    {'image_mean': [1, 2]},
    {'image_std': [0, 1, 1]},
    {'rescale_factor': 1e-320},
    {'size': 0},
    [],
  ):
    path.write_text(json.dumps(wrong))
    refused('preprocessor_config', file, tmp_path / 'b')


@pytest.mark.parametrize(
  ('size', 'edges', 'note'),
  [
    ({'shortest_edge': 512, 'longest_edge': 2048}, (512, 2048), ''),
    ({'height': 384, 'width': 384}, (800, 1333), 'asks for 384 x 384 whatever'),
  ],
)
def test_photos_are_resized_as_the_processor_says(tmp_path, size, edges, note):
  hugging_face.write(tmp_path / 'saved', SWIN, preprocessor={'size': size})
  done = convert_checkpoint(tmp_path / 'saved', tmp_path / 'b')
  _, preset = restore.open_bundle(tmp_path / 'b')
  photos = preset.preprocessing
  assert (photos.short_edge, photos.long_edge) == edges
  assert note in str(done)
  assert ('photos:' in str(done)) == bool(note)


def chosen(layout: str, config, tmp_path, system='mask2former', expected=None):
  """Name and preset of a file of such a network, by shapes that take no memory."""
  expected = expected or params.flatten(params.abstract_model(system, config))
  form = find_system(system).format
  shapes = rules.official_shapes(form.write(config, layout, 1), expected)
  number = np.zeros((), np.float32)
  arrays = {key: np.broadcast_to(number, shape) for key, shape in shapes.items()}
  assert detect.detect(arrays, 'x') == (system, layout)
  read = form.read(layout, frozenset(arrays))
  main = detect.Checkpoint(tmp_path / 'x', arrays, system, layout, read)
  return choose_preset(Sources.of(main, None, find_system(system)), None)


@pytest.mark.parametrize('layout', ['detectron2', 'hugging_face'])
@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes_are_recognised(tmp_path, name, layout):
  preset = zoo.find_preset(name)
  expected = inventory.parameters(name)
  found = chosen(layout, preset.config, tmp_path, preset.system, expected)
  assert found == (name, preset)


def test_a_swin_with_other_classes_is_known_by_their_number(tmp_path):
  name, preset = chosen('detectron2', SMALL, tmp_path)
  assert (preset.vocabulary, preset.config) == ('ade20k-150', SMALL)
  assert name.startswith('mask2former of its own sizes, otherwise mask2former_swin_t')
  with pytest.raises(ValueError, match='class head of its own'):
    chosen('detectron2', dataclasses.replace(SMALL, num_classes=151), tmp_path)
  former = zoo.find_preset('maskformer_tiny').config
  former = dataclasses.replace(former, num_classes=7)
  with pytest.raises(ValueError, match=r'whose id2label names its classes$'):
    chosen('detectron2', former, tmp_path, 'maskformer')
  agnostic = dataclasses.replace(SMALL, num_classes=1)
  name, preset = chosen('detectron2', agnostic, tmp_path)
  assert (preset.vocabulary, preset.labels) == ('object', None)


def test_what_the_library_saves_today_is_read(tmp_path):
  """In parts, by whichever version is installed."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  from record_hugging_face import NETWORKS

  model = NETWORKS[SWIN]()
  model.save_pretrained(tmp_path / 'saved', max_shard_size='1MB')
  processor = transformers.Mask2FormerImageProcessor(size={'shortest_edge': 320})
  processor.save_pretrained(tmp_path / 'saved')
  assert not (tmp_path / 'saved' / 'model.safetensors').exists()
  convert_checkpoint(tmp_path / 'saved', tmp_path / 'b')
  _, preset = restore.open_bundle(tmp_path / 'b')
  assert preset.preprocessing.short_edge == 320
  assert len(preset.labels) == 5
  ours = bundle.load(tmp_path / 'b').parameters
  theirs = model.class_predictor.weight.detach().numpy()
  np.testing.assert_array_equal(ours['predictor/class_embed/kernel'], theirs.T)
  # Its own names differ from those it saves.
  torch.save(model.state_dict(), tmp_path / 'state.pth')
  convert_checkpoint(tmp_path / 'state.pth', tmp_path / 'c', preset=preset)
  again = bundle.load(tmp_path / 'c').parameters
  for path, array in ours.items():
    np.testing.assert_array_equal(again[path], array)
