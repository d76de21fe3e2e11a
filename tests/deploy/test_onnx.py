"""Programs as graphs of ONNX, run by onnxruntime."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from maskclip_jax.deploy import artefact, onnx_file, run_artefact
from maskclip_jax.postprocess.semantic import best_class
from maskclip_jax.segmenter import Segmenter

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
onnx_graph = pytest.importorskip('maskclip_jax.deploy.onnx_graph')

RANDOM = np.random.default_rng(0)
MAP = RANDOM.normal(size=(3, 5, 4)).astype(np.float32)
ROW = np.array([0.5, -1, 0.5, 3, -1, 0], np.float32)
PLACES = np.array([[0, 2], [-1, 9], [4, 1]], np.int32)


def by_platform(x):
  return lax.platform_dependent(x, cpu=jnp.sin, cuda=jnp.cos, default=jnp.tan)


def looked_up(mode, axis=1, **options):
  return lambda x, i: x.at[(slice(None),) * axis + (i,)].get(mode=mode, **options)


def window(x, i):
  start = lambda n: lax.dynamic_slice(x, (n, i[0, 1], 0), (2, 3, 4))
  return jax.vmap(start)(i[:, 0])


def halved(x):
  """A loop that ends by what it computes."""
  return lax.while_loop(lambda c: c[1].max() > 0.1, lambda c: (c[0] + 1, c[1] / 2), x)


def running(x, y):
  """Sums from the end, and nothing to go over but a count."""
  step = lambda total, row: (total + row, total * row)
  sums = lax.scan(step, jnp.zeros(4), x[0], reverse=True)
  return sums, lax.fori_loop(0, 3, lambda n, v: v * 2 + n, y)


def best(scores, masks):
  """Of more classes than are taken at a time."""
  classes = jnp.arange(scores.shape[1]) != 3
  return best_class((scores, classes, None), masks, jnp.ones((5, 4), bool))


# Each of them reads the arrays that come after it.
CASES = {
  'arithmetic': (lambda x: (-7 // x, lax.rem(x, 3), x % 3, x**2), np.array([-5, 2, 7])),
  'logarithms': (jnp.log1p, np.array([0, 1e-8, -0.5, 3, np.inf], np.float32)),
  'powers': (jnp.expm1, np.array([0, 1e-8, -0.9, -30, 9, np.inf], np.float32)),
  'truth': (lambda x: (~x ^ x[::-1], jnp.where(x, x[::-1], True)), ROW > 0),
  'bits': (lambda x: (x & 6, ~x, x ^ 3), np.arange(8)),
  'finite': (jnp.isfinite, np.array([1, np.nan, -np.inf], np.float32)),
  'padding': (lambda x: lax.pad(x, 9.0, ((1, -1, 0), (0, 2, 0), (0, 0, 0))), MAP),
  'product': (lambda x, y: jnp.einsum('abc,dbc->bad', x, y), MAP, MAP[::-1].copy()),
  'matrix': (lambda x, y: jnp.tensordot(x, y, [[1, 2], [1, 2]]), MAP, MAP),
  'largest': (lambda x: (x.argmax(1), x.max((0, 2)), (x > 9).any()), MAP),
  'sorted': (lambda x: (jnp.argsort(x), jnp.argsort(x > 0), lax.top_k(x, 4)), ROW),
  'sums': (lambda x: (jnp.cumsum(x, 1), jnp.flip(x, (0, 2)).sum(0)), MAP),
  'columns': (lambda x, i: jnp.take_along_axis(x, i[..., None] % 5, 1), MAP, PLACES),
  'clipped': (looked_up('clip'), MAP, PLACES),
  'filled': (looked_up('fill', fill_value=-3.0), MAP, PLACES),
  'filled truth': (lambda x, i: looked_up('fill')(x > 0, i), MAP, PLACES),
  'pairs': (lambda x, i: x.at[i[:, 0], :, i[:, 1]].get(mode='clip'), MAP, PLACES),
  'windows': (window, MAP, PLACES),
  'written': (lambda x, i: x.at[:, i[1]].set(x[:, :2], mode='drop'), MAP, PLACES),
  'added': (lambda x, i: x.at[i[:, 1]].add(1.0, mode='drop'), ROW, PLACES),
  'raised': (lambda x, i: x.at[i[:, 1]].max(1.0, mode='drop'), ROW, PLACES),
  'updated': (
    lambda x, i: lax.dynamic_update_slice(x, x[:2, :2] * 9, (i[0, 1], i[1, 1], 0)),
    MAP,
    PLACES,
  ),
  'chosen': (lambda x, i: lax.cond(i[0, 0] > 0, jnp.sin, jnp.cos, x), MAP, PLACES),
  'platform': (by_platform, ROW),
  'until': (lambda x: halved((0, jnp.abs(x))), ROW),
  'scans': (running, MAP, ROW),
  'best': (best, RANDOM.random((3, 150)).astype(np.float32), abs(MAP.reshape(3, 20))),
  'once': (lambda x: lax.map(lambda row: row * 2, x), MAP[:1]),
}


def run(model, **inputs):
  onnx.checker.check_model(model, full_check=True)
  session = onnxruntime.InferenceSession(model.SerializeToString())
  names = [output.name for output in session.get_outputs()]
  return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize('name', CASES)
def test_primitives_say_what_jax_says(name):
  function, *arrays = CASES[name]
  # As JAX has it, integers have 32 bits.
  inputs = {f'x{n}': jnp.asarray(a) for n, a in enumerate(arrays)}

  def named(weights, inputs):
    found = jax.tree.leaves(function(*inputs.values()))
    return {f'y{n}': a for n, a in enumerate(found)}

  model = onnx_graph.to_model(named, {}, inputs, opset=(onnx_file.OPSET, onnx_file.IR))
  found = run(model, **{name: np.asarray(a) for name, a in inputs.items()})
  if name == 'platform':
    # The form of GPUs, whatever this is traced on.
    function = jnp.cos
  expected = named({}, inputs)
  assert set(found) == set(expected)
  for key, array in expected.items():
    assert found[key].dtype == array.dtype
    # Float32; near zero as precise as elsewhere, but for sums.
    atol = 1e-6 if name in ('product', 'matrix', 'sums', 'until', 'scans') else 1e-12
    np.testing.assert_allclose(found[key], array, rtol=3e-6, atol=atol)


def test_what_has_no_operator_is_one_line():
  with pytest.raises(ValueError, match=r'no operators of ONNX are known for .* lgamma'):
    onnx_graph.to_model(
      lambda weights, inputs: {'y': lax.lgamma(inputs['x'])},
      {},
      {'x': ROW},
      opset=(onnx_file.OPSET, onnx_file.IR),
    )


@pytest.mark.parametrize(
  ('options', 'message'),
  [({'platforms': ('cpu',)}, 'leave --platforms out'), ({'format': 'tf'}, "not 'tf'")],
)
def test_bad_choices_are_one_line(options, message):
  with pytest.raises(ValueError, match=message):
    artefact.ArtefactConfig(**{'format': 'onnx', **options})


@pytest.mark.parametrize('content', [None, b'', b'[1]', b'\xff' * 99])
def test_a_spoilt_graph_is_one_line(content, tmp_path):
  path = tmp_path / 'photo.onnx'
  if content is not None:
    path.write_bytes(content)
  entry = {'file': path.name, 'weights': None}
  with pytest.raises(SystemExit, match='cannot be read: copy') as found:
    run_artefact.load_program(entry, tmp_path)
  assert len(str(found.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['fcclip', 'maskclip', 'ovseg', 'segclip'])
def test_systems_say_the_same_in_onnx(preset, tmp_path):
  """What the manifest records was computed by onnxruntime."""
  segmenter = Segmenter.from_preset(f'{preset}_tiny')
  config = artefact.ArtefactConfig(
    canvases=((64, 96),), result_canvas=(64, 96), bucket=64, format='onnx'
  )
  artefact.export_artefact(segmenter, tmp_path / 'a', config, words='cat; stuff:floor')
  manifest = json.loads((tmp_path / 'a' / artefact.MANIFEST).read_text())
  (entry,) = manifest['programs']['photo']
  found = entry['parity']
  # Weights are random, so that a pixel may lie where rounding decides.
  assert found['semantic_pixels'] <= 2
  assert found.get('panoptic_pixels', 0) <= 2
  # float32 sums in another order.
  assert found['mask_logits'] < 1e-4
  assert found['class_probabilities'] < 1e-5
  # Weights that are not the program's are noticed.
  weights = tmp_path / 'a' / entry['weights']
  content = bytearray(weights.read_bytes())
  content[-1] ^= 1
  weights.write_bytes(content)
  with pytest.raises(SystemExit, match='holds other weights than'):
    run_artefact.load_program(entry, tmp_path / 'a')
