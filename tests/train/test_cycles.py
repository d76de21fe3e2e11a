"""`benchmarks/hlo_cycles.py` reads what a compiled TPU program says, and what it does
not say."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parent.parent.parent / 'benchmarks' / 'hlo_cycles.py'
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
  ROOT %dot = f32[8,4]{1,0} fusion(%x), calls=%none, metadata={stack_frame_id=3}, \
backend_config={"estimated_cycles":"500"}
}
"""


@pytest.fixture(scope='module')
def cycles():
  spec = importlib.util.spec_from_file_location('hlo_cycles', PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_look_ups_in_loops_are_counted_beside_what_the_compiler_counts(cycles):
  parts = cycles.Program(TEXT).parts()
  sampling, clip, rest = (
    parts[name] for name in ('deformable sampling', 'CLIP', cycles.OTHER)
  )
  assert (sampling.counted, sampling.rows, sampling.kernels) == (0, 24, 1)
  assert sampling.cycles() == pytest.approx((24 * 1.9, 24 * 6.6))
  # Code that all parts share belongs to the part that called it.
  assert clip.counted == 500
  # Three additions; a number beyond all reason is none.
  assert rest.counted == 30
  assert next(iter(parts)) == 'CLIP'


def test_a_text_that_is_no_program(cycles):
  with pytest.raises(ValueError, match='has no entry'):
    cycles.Program('HloModule nothing')
