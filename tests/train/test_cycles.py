"""What a compiled TPU program says of its cost, and what it does not say, is read by
`benchmarks/hlo_cycles.py`; its kernels' instructions by `sampling_cycles.py`."""

import importlib.util
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent.parent / 'benchmarks'
# A loop of three rounds around a fused gather of eight rows; a kernel; a product.
TEXT = """HloModule step

FileNames
1 "maskclip_jax/ops/deformable/gathers.py"
2 "maskclip_jax/nn/clip.py"
3 "maskclip_jax/nn/layers.py"

FunctionNames
1 "sample"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=2 end_line=2 column=1 end_column=2}
3 {file_name_id=3 function_name_id=1 line=3 end_line=3 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=3 parent_frame_id=3}

%fused (p: f32[9,4]) -> f32[8,4] {
  ROOT %g = f32[8,4]{1,0} gather(%p, %i), slice_sizes={1,4}
}

%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %looked = f32[8,4]{1,0} fusion(%t), calls=%fused, metadata={stack_frame_id=1}
  %sum = f32[8,4]{1,0} add(%looked, %t), backend_config={"estimated_cycles":"10"}
}

%until (t: (s32[], f32[8,4])) -> pred[] {
  %n = s32[] constant(3)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[9,4]) -> f32[8,4] {
  %loop = (s32[], f32[8,4]) while(%x), condition=%until, body=%body
  %own = f32[8,4]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
metadata={stack_frame_id=1}
  %odd = f32[8,4]{1,0} copy(%x), backend_config={"estimated_cycles":"9000000000000"}
  %five = f32[5,4]{1,0} slice(%x)
  %wrote = f32[9,4]{1,0} scatter(%x, %i, %five), update_window_dims={1}, \
inserted_window_dims={0}, metadata={stack_frame_id=2}
  ROOT %dot = f32[8,4]{1,0} fusion(%x), calls=%none, metadata={stack_frame_id=3}, \
backend_config={"estimated_cycles":"500"}
}
"""


# A step of five bundles, the last before its end without an instruction, around loops
# of three and two bundles.
LISTING = """
= control target key start
LB: loop body
= control target key end

     0   :  { %s1 = smov 0 }
   0x1 LB: > { %s2 = sadd.s32 1, %s1 }
   0x2   : > { %s3 = ssub.s32 0, %s2 }
   0x3 LB: >> { %v1 = vld [vmem:[%s3]] }
   0x4   : >> { %v2 = vadd.f32 %v1, %v1 }
   0x5   :  {}
   0x6 PF: > { %s4 = smov 3 }
   0x7 LB: >> { %v3 = vld [vmem:[%s4]] }
   0xa   : >> { %8 = sbr.rel (!%p1) target = $region9 }
   0xb PF: > { %s5 = smov 4 }
   0xc   :  {}
"""


def script(name):
  spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def cycles():
  return script('hlo_cycles')


def test_look_ups_in_loops_are_counted_beside_what_the_compiler_counts(cycles):
  parts = cycles.Program(TEXT).parts()
  sampling, clip, rest = (
    parts[name] for name in ('deformable sampling', 'CLIP', cycles.OTHER)
  )
  assert (sampling.counted, sampling.rows, sampling.kernels) == (0, 24, 1)
  assert sampling.cycles() == pytest.approx((24 * 1.9, 24 * 6.6))
  # Code that all parts share belongs to the part that called it.
  assert clip.counted == 500
  # Rows that are written, not those of what they are written to.
  assert clip.rows == 5
  # Three additions; a number beyond all reason is none.
  assert rest.counted == 30
  assert next(iter(parts)) == 'CLIP'


@pytest.mark.parametrize('stage', ['teacher', 'masq'])
def test_stages_compile_for_one_photo(stage):
  values = script('cycles').stage_values(stage, 'runlocal', 1, 'chunks')
  model = values['model'].get('proposals', values['model'])
  assert model['sampling'] == 'chunks'
  assert values['data']['batch_size'] == 1
  # Means of more photos than there are do not compile.
  assert values.get('settings', {}).get('criterion', {}).get('images_per_mean', 1) == 1


def test_a_text_that_is_no_program(cycles):
  with pytest.raises(ValueError, match='has no entry'):
    cycles.Program('HloModule nothing')


@pytest.fixture(scope='module')
def sampling():
  return script('sampling_cycles')


def test_bundles_count_as_often_as_their_loops_run(sampling):
  bundles = sampling.read_bundles(LISTING)
  assert bundles == sampling.Bundles(once=1, step=5, blocks=(3, 2))
  assert bundles.cycles(10, (4, 7)) == 1 + 50 + 12 + 14
  with pytest.raises(ValueError, match='loops inside'):
    sampling.read_bundles(LISTING.replace(': >>', ': >>>'))


def test_blocks_grow_with_how_far_queries_look(sampling):
  shapes = ((8, 8), (16, 16), (64, 64))
  found = [sampling.touched(shapes, reach) for reach in (None, 1, 8)]
  everything = sampling.all_blocks(shapes)
  # Eight heads, and tiles of 256 for 4,416 queries.
  assert {steps for steps, _ in (*found, everything)} == {8 * 18}
  _, near, far = (counts for _, counts in found)
  assert all(a <= b for a, b in zip(near, far, strict=True))
  assert all(a <= b for a, b in zip(far, everything[1], strict=True))
  assert near[2] < far[2] < everything[1][2]
