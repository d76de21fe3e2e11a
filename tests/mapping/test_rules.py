"""The table engine: both directions, and one clear report for a wrong checkpoint."""

import ml_dtypes
import numpy as np
import pytest

from maskclip_jax.mapping import rules as R
from maskclip_jax.mapping import transforms as T

ROLES = ('query', 'key', 'value')
TABLE = (
  R.Rule('conv1.weight', 'conv1/kernel', T.CONV),
  R.Rule('blocks.{i}.fc.weight', 'blocks/{i}/fc/kernel', T.LINEAR, ('old.{i}.fc',)),
  R.Rule(
    'blocks.{i}.in_proj_weight',
    tuple(f'blocks/{{i}}/attn/{role}/kernel' for role in ROLES),
    T.PACKED_KERNEL,
  ),
  R.Rule(
    'blocks.{i}.in_proj_bias',
    tuple(f'blocks/{{i}}/attn/{role}/bias' for role in ROLES),
    T.PACKED_BIAS,
  ),
  R.Rule('blocks.{i}.out_proj.weight', 'blocks/{i}/attn/out/kernel', T.HEADS_OUT),
  R.Rule('scale', 'scale'),
  R.Ignore('vocab_size', 'a constant'),
  R.Ignore('criterion.weight', 'a constant buffer', restore=(1.0, 0.5)),
)
WIDTH, HEADS, DEPTH = 6, 3, 2
SHAPES = {'conv1/kernel': (5, 4, 3, WIDTH), 'scale': ()}
for _i in range(2):
  SHAPES[f'blocks/{_i}/fc/kernel'] = (WIDTH, 4 * WIDTH)
  SHAPES[f'blocks/{_i}/attn/out/kernel'] = (HEADS, DEPTH, WIDTH)
  for _role in ROLES:
    SHAPES[f'blocks/{_i}/attn/{_role}/kernel'] = (WIDTH, HEADS, DEPTH)
    SHAPES[f'blocks/{_i}/attn/{_role}/bias'] = (HEADS, DEPTH)
OFFICIAL = {
  'conv1.weight': (6, 3, 5, 4),
  'scale': (),
  'blocks.0.fc.weight': (24, 6),
  'blocks.0.out_proj.weight': (6, 6),
  'blocks.0.in_proj_weight': (18, 6),
  'blocks.0.in_proj_bias': (18,),
  'blocks.1.fc.weight': (24, 6),
  'blocks.1.out_proj.weight': (6, 6),
  'blocks.1.in_proj_weight': (18, 6),
  'blocks.1.in_proj_bias': (18,),
}


@pytest.fixture
def expected():
  return {path: np.empty(shape, np.float32) for path, shape in SHAPES.items()}


@pytest.fixture
def official():
  rng = np.random.default_rng(0)
  return {
    key: rng.standard_normal(shape, np.float32)
    if shape
    else np.float32(2.5).reshape(())
    for key, shape in OFFICIAL.items()
  }


def test_official_shapes_are_those_of_the_file(expected):
  assert R.official_shapes(TABLE, expected) == OFFICIAL


def test_there_and_back_gives_the_same_bytes(expected, official):
  flat = R.convert(official, TABLE, expected)
  assert {path: array.shape for path, array in flat.items()} == SHAPES
  back = R.invert(flat, TABLE)
  np.testing.assert_array_equal(back.pop('criterion.weight'), np.float32([1, 0.5]))
  assert back.keys() == official.keys()
  for key, array in official.items():
    assert back[key].shape == array.shape
    assert back[key].tobytes() == array.tobytes(), key


def test_attention_heads_are_contiguous_channels_in_the_order_q_k_v(expected, official):
  flat = R.convert(official, TABLE, expected)
  rng = np.random.default_rng(1)
  x = rng.standard_normal(WIDTH, np.float32)
  packed = official['blocks.1.in_proj_weight'] @ x + official['blocks.1.in_proj_bias']
  for index, role in enumerate(ROLES):
    base = f'blocks/1/attn/{role}'
    ours = np.einsum('w,whd->hd', x, flat[f'{base}/kernel']) + flat[f'{base}/bias']
    theirs = packed[index * WIDTH : (index + 1) * WIDTH].reshape(HEADS, DEPTH)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  out = np.einsum(
    'hd,hdw->w', x.reshape(HEADS, DEPTH), flat['blocks/1/attn/out/kernel']
  )
  np.testing.assert_allclose(
    out, official['blocks.1.out_proj.weight'] @ x, rtol=1e-5, atol=1e-6
  )


def test_a_linear_kernel_multiplies_from_the_right(expected, official):
  flat = R.convert(official, TABLE, expected)
  x = np.arange(WIDTH, dtype=np.float32)
  np.testing.assert_allclose(
    x @ flat['blocks/0/fc/kernel'], official['blocks.0.fc.weight'] @ x, rtol=1e-5
  )


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_widens_exactly(expected, official, dtype):
  half = {key: array.astype(dtype) for key, array in official.items()}
  flat = R.convert(half, TABLE, expected)
  assert all(array.dtype == np.float32 for array in flat.values())
  back = R.invert(flat, TABLE)
  for key, array in half.items():
    np.testing.assert_array_equal(back[key], array.astype(np.float32))


def test_an_old_name_is_read_and_the_new_one_written(expected, official):
  official['old.1.fc'] = official.pop('blocks.1.fc.weight')
  back = R.invert(R.convert(official, TABLE, expected), TABLE)
  np.testing.assert_array_equal(back['blocks.1.fc.weight'], official['old.1.fc'])
  assert 'old.1.fc' not in back


def test_ignored_keys_are_dropped(expected, official):
  official['vocab_size'] = np.int64(7)
  assert R.convert(official, TABLE, expected).keys() == SHAPES.keys()


def test_every_problem_is_reported_at_once(expected, official):
  official['extra.a'] = official['extra.b'] = np.zeros(1, np.float32)
  official['blocks.2.fc.weight'] = official['blocks.0.fc.weight']
  official['old.0.fc'] = official['blocks.0.fc.weight']
  official['conv1.weight'] = official['conv1.weight'][:, :, :4]
  official['blocks.1.in_proj_bias'] = np.zeros(18, np.float64)
  del official['scale'], official['blocks.0.in_proj_weight']
  with pytest.raises(ValueError, match=r'^file\.pth:\n') as error:
    R.convert(official, TABLE, expected, source='file.pth', hint='Read the manual.')
  assert str(error.value).split('\n  ') == [
    'file.pth:',
    '3 unknown: extra.a, extra.b, blocks.2.fc.weight',
    '1 given twice: blocks.0.fc.weight and old.0.fc',
    '2 missing: scale, blocks.0.in_proj_weight',
    '1 misshapen: conv1.weight is 6x3x4x4, expected 6x3x5x4',
    '1 of a wrong type: blocks.1.in_proj_bias is float64, not float32',
    'Read the manual.',
  ]


def test_long_lists_are_cut(expected, official):
  official |= {f'extra.{i}': np.zeros(1, np.float32) for i in range(30)}
  with pytest.raises(ValueError, match=r'30 unknown: (extra\.\d, ){4}\.\.\.$'):
    R.convert(official, TABLE, expected)


def test_a_transposed_matrix_is_misshapen(expected, official):
  official['blocks.0.fc.weight'] = official['blocks.0.fc.weight'].T
  with pytest.raises(ValueError, match=r'fc\.weight is 6x24, expected 24x6'):
    R.convert(official, TABLE, expected)


def test_a_parameter_no_rule_covers_is_an_error(expected, official):
  expected['new/kernel'] = np.empty((2, 2), np.float32)
  with pytest.raises(ValueError, match='1 without a rule: new/kernel'):
    R.convert(official, TABLE, expected)


def test_a_packed_tensor_needs_all_its_parts(expected, official):
  del expected['blocks/0/attn/key/kernel']
  with pytest.raises(ValueError, match='absent: blocks/0/attn/key/kernel'):
    R.convert(official, TABLE, expected)


def test_two_rules_for_one_parameter_are_an_error(expected, official):
  table = (*TABLE, R.Rule('another.scale', 'scale'))
  with pytest.raises(ValueError, match='1 under two rules: scale'):
    R.convert(official, table, expected)


def test_placeholders_must_agree():
  with pytest.raises(ValueError, match='placeholders differ'):
    R.Rule('blocks.{i}.weight', 'blocks/{j}/kernel')


def test_integers_have_one_spelling(expected, official):
  official['blocks.00.fc.weight'] = official.pop('blocks.0.fc.weight')
  with pytest.raises(ValueError, match=r'1 unknown: blocks\.00\.fc\.weight'):
    R.convert(official, TABLE, expected)


def test_prefixes_apply_to_both_sides(expected, official):
  table = R.prefixed(TABLE, 'model.', 'clip/')
  named = {f'model.{key}': array for key, array in official.items()}
  wanted = {f'clip/{path}': array for path, array in expected.items()}
  flat = R.convert(named, table, wanted)
  assert flat.keys() == wanted.keys()
  assert R.invert(flat, table).keys() == named.keys() | {'model.criterion.weight'}
