"""Reading compiled programs: the same work as the jaxpr has, with every turn of every loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bias_clip.plan.flops import count_flops
from bias_clip.plan.hlo import count_hlo

ROWS, WIDTH, FLOAT = 64, 32, 4
AXIS = "x"

# As a TPU writes them: a product of batches is a convolution over a dilated dimension, a loop has its
# bound in its condition, and S(1) is memory on the chip.
BATCHED = """HloModule m

%body (p: (s32[], f32[5,8,16], f32[5,16,4])) -> (s32[], f32[5,8,16], f32[5,16,4]) {
  %p = (s32[]{:T(128)}, f32[5,8,16]{2,1,0:T(8,128)S(1)}, f32[5,16,4]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %a = f32[5,8,16]{2,1,0:T(8,128)S(1)} get-tuple-element(%p), index=1
  %b = f32[5,16,4]{2,1,0:T(8,128)} get-tuple-element(%p), index=2
  %c = f32[5,8,4]{2,1,0:T(8,128)S(1)} convolution(%a, %b), window={size=5 stride=4 lhs_dilate=5}, dim_labels=0bf_0io->0bf
  ROOT %t = (s32[]{:T(128)}, f32[5,8,16]{2,1,0}, f32[5,16,4]{2,1,0}) tuple(%i, %a, %b)
}

%condition (q: (s32[], f32[5,8,16], f32[5,16,4])) -> pred[] {
  %q = (s32[], f32[5,8,16], f32[5,16,4]) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %bound = s32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%j, %bound), direction=LT
}

ENTRY %main (x: (s32[], f32[5,8,16], f32[5,16,4])) -> (s32[], f32[5,8,16], f32[5,16,4]) {
  %x = (s32[], f32[5,8,16], f32[5,16,4]) parameter(0)
  ROOT %loop = (s32[], f32[5,8,16], f32[5,16,4]) while(%x), condition=%condition, body=%body
}
"""


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile().as_text()


def layers(weights, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    return jnp.sum(jax.lax.scan(layer, x, weights)[0])


def test_flops_of_a_scan_and_its_gradient_are_those_of_all_its_turns():
    weights = jax.ShapeDtypeStruct((7, WIDTH, WIDTH), jnp.float32)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
    function = jax.value_and_grad(layers)
    got = count_hlo(compiled(function, weights, x)).flops
    assert got == pytest.approx(count_flops(function, weights, x), rel=1e-6)
    forward = 7 * 2 * ROWS * WIDTH**2
    assert got in (3 * forward, 3 * forward - 2 * ROWS * WIDTH**2)


def test_convolution_counts_real_taps_only():
    image = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((4, 4, 3, 8), jnp.float32)

    def patches(image, kernel, padding):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, (4, 4), padding, dimension_numbers=numbers
        )

    exact = compiled(lambda x, k: patches(x, k, "VALID"), image, kernel)
    assert count_hlo(exact).flops == 2 * (2 * 4 * 4 * 8) * (4 * 4 * 3)
    outside = compiled(lambda x, k: patches(x, k, ((4, 0), (0, 0))), image, kernel)
    assert count_hlo(outside).flops == count_hlo(exact).flops  # a row of zeros costs nothing


def test_batched_product_of_a_tpu_is_no_dense_convolution_and_the_loop_has_its_turns():
    counts = count_hlo(BATCHED)
    assert counts.flops == 12 * 2 * 5 * 8 * 16 * 4
    assert counts.hbm_bytes == 12 * FLOAT * 5 * 16 * 4  # all else stays on the chip


def test_time_that_the_compiler_estimates_is_that_of_all_turns_and_of_a_fusion_as_a_whole():
    note = 'dim_labels=0bf_0io->0bf, backend_config={"window_config":{"estimated_cycles":"70"}}'
    assert count_hlo(BATCHED.replace("dim_labels=0bf_0io->0bf", note)).cycles == 12 * 70
    assert count_hlo(BATCHED).cycles == 0
    fused = """HloModule m
%inner (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p), backend_config={"estimated_cycles":"5"}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %f = f32[8]{0} fusion(%x), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"9"}
}
"""
    assert count_hlo(fused).cycles == 9


def test_kernels_count_what_they_say_or_what_their_shapes_say():
    def program(call):
        return f"""HloModule m
ENTRY %main (x: bf16[4,196,12,64]) -> bf16[4,196,12,64] {{
  %x = bf16[4,196,12,64]{{3,2,1,0}} parameter(0)
  ROOT %k = bf16[4,196,12,64]{{3,2,1,0}} custom-call(%x, %x, %x), custom_call_target={call}
}}
"""

    pallas = (
        '"tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"77"}}}'
    )
    assert count_hlo(program(pallas)).flops == 77
    with pytest.raises(ValueError, match="'k' has no cost_estimate"):
        count_hlo(program('"tpu_custom_call"'))
    shape = '{"intermediate_tensor_shape": {"dimensions": ["4", "12", "196", "196"]}}'
    product = 2 * 4 * 12 * 196 * 196 * 64
    for name, products in (("fmhaSoftmax", 2), ("fmhaSoftmaxBackward", 5)):
        cudnn = f'"__cudnn${name}", backend_config={shape}'
        assert count_hlo(program(cudnn)).flops == products * product


def test_kernels_are_those_that_a_gpu_starts_in_all_turns():
    text = """HloModule m

%inner (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  %n = f32[8,8]{1,0} negate(%p)
  ROOT %e = f32[8,8]{1,0} exponential(%n)
}

%body (b: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %b = (s32[], f32[8,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = f32[8,8]{1,0} get-tuple-element(%b), index=1
  %m = (f32[8,8]{1,0}, s8[1024]{0}) custom-call(%x, %x), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %y = f32[8,8]{1,0} get-tuple-element(%m), index=0
  %f = f32[8,8]{1,0} fusion(%y), kind=kLoop, calls=%inner
  %c = f32[8,8]{1,0} copy(%f)
  ROOT %t = (s32[], f32[8,8]{1,0}) tuple(%i, %c)
}

%condition (q: (s32[], f32[8,8])) -> pred[] {
  %q = (s32[], f32[8,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %bound = s32[] constant(6)
  ROOT %less = pred[] compare(%j, %bound), direction=LT
}

ENTRY %main (z: (s32[], f32[8,8])) -> f32[8,8] {
  %z = (s32[], f32[8,8]{1,0}) parameter(0)
  %loop = (s32[], f32[8,8]{1,0}) while(%z), condition=%condition, body=%body
  %out = f32[8,8]{1,0} get-tuple-element(%loop), index=1
  %s = f32[8,8]{1,0} all-reduce-start(%out), replica_groups={{0,1}}, to_apply=%inner
  ROOT %d = f32[8,8]{1,0} all-reduce-done(%s)
}
"""
    counts = count_hlo(text)
    assert counts.kernels == {"collective": 1, "fusion": 6, "other": 6, "product": 6}
    assert counts.flops == 6 * 2 * 8**3


def test_loop_without_a_bound_is_an_error():
    with pytest.raises(ValueError, match="how often the loop 'loop' runs"):
        count_hlo(BATCHED.replace("constant(12)", "parameter(1)"))


def test_text_that_is_no_program_is_an_error():
    with pytest.raises(ValueError, match="ENTRY"):
        count_hlo("module @jit_step { }")


def per_device(function, rows):
    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS)
    )
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec(AXIS))
    x = jax.ShapeDtypeStruct((8 * rows, WIDTH), jnp.float32, sharding=sharding)
    return count_hlo(compiled(mapped, x)).sent


def test_a_ring_sends_its_block_in_every_turn():
    def ring(x):
        def turn(block, _):
            passed = jax.lax.ppermute(block, AXIS, [(i, (i + 1) % 8) for i in range(8)])
            return passed, jnp.sum(passed)

        return x + jnp.sum(jax.lax.scan(turn, x, None, length=8)[1])

    assert per_device(ring, ROWS) == {"collective-permute": 8 * FLOAT * ROWS * WIDTH}


@pytest.mark.parametrize(
    ("kind", "function", "arrays"),
    [
        ("all-reduce", lambda x: x + jax.lax.psum(x, AXIS), 2 * 7 / 8),
        ("all-gather", lambda x: x + jnp.sum(jax.lax.all_gather(x, AXIS) ** 2, 0), 7),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, AXIS, tiled=True), 7 / 8),
    ],
)
def test_bytes_sent_are_those_of_a_ring_of_eight(kind, function, arrays):
    sent = per_device(function, ROWS)
    assert sent == {kind: pytest.approx(arrays * FLOAT * ROWS * WIDTH)}


def test_a_slice_of_a_stack_reads_the_slice_and_not_the_stack():
    def one(stack, i):
        return jax.lax.dynamic_index_in_dim(stack, i, keepdims=False) * 2.0

    stack = jax.ShapeDtypeStruct((1_000, WIDTH), jnp.float32)
    index = jax.ShapeDtypeStruct((), np.int32)
    assert count_hlo(compiled(one, stack, index)).hbm_bytes < 10 * FLOAT * WIDTH


@pytest.mark.parametrize("opcode", ["slice", "dynamic-slice"])
def test_a_fusion_that_slices_a_stack_reads_the_slice(opcode):
    """Layers that are not in a loop take their part of a stack so: it counted as the whole stack."""
    index = ", %i" if opcode == "dynamic-slice" else ""
    text = f"""HloModule m

%inner (p: f32[1000,8]) -> f32[1,8] {{
  %p = f32[1000,8]{{1,0}} parameter(0)
  %i = s32[] constant(3)
  %part = f32[1,8]{{1,0}} {opcode}(%p{index}), slice={{[3:4], [0:8]}}
  ROOT %n = f32[1,8]{{1,0}} negate(%part)
}}

ENTRY %main (x: f32[1000,8]) -> f32[1,8] {{
  %x = f32[1000,8]{{1,0}} parameter(0)
  ROOT %f = f32[1,8]{{1,0}} fusion(%x), kind=kLoop, calls=%inner
}}
"""
    assert count_hlo(text).hbm_bytes == 2 * FLOAT * 8


@pytest.mark.parametrize(
    "branches",
    ["branch_computations={%two, %one}", "true_computation=%two, false_computation=%one"],
)
def test_branches_are_found_in_both_notations(branches):
    product = "%c = f32[4,4]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    text = f"""HloModule m

%one (p: f32[4,4]) -> f32[4,4] {{
  ROOT %p = f32[4,4]{{1,0}} parameter(0)
}}

%two (p: f32[4,4]) -> f32[4,4] {{
  %p = f32[4,4]{{1,0}} parameter(0)
  ROOT {product}
}}

ENTRY %main (flag: pred[], x: f32[4,4]) -> f32[4,4] {{
  %flag = pred[] parameter(0)
  %x = f32[4,4]{{1,0}} parameter(1)
  ROOT %either = f32[4,4]{{1,0}} conditional(%flag, %x, %x), {branches}
}}
"""
    assert count_hlo(text).flops == 2 * 4**3
    assert count_hlo(text, branch=min).flops == 0


def test_branches_count_as_asked():
    def either(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, x)

    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    text = compiled(either, flag, jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32))
    one = 2 * WIDTH**3
    assert (count_hlo(text).flops, count_hlo(text, branch=min).flops) == (2 * one, one)


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        ("", "S(1)", 2 * 4 * 8),
        ("", "", 2 * 2 * 4 * 8),
        ("S(1)", "", 2 * 4 * 8),
        ("S(1)", "S(1)", 0),
    ],
)
def test_a_slice_that_a_tpu_fetches_ahead_counts_as_the_slice(whole, part, expected):
    """Four such make one array of 256 bytes; each was once counted as twice the array."""
    text = f"""HloModule m

ENTRY %main (x: bf16[16,8]) -> bf16[4,8] {{
  %x = bf16[16,8]{{1,0:T(8,128)(2,1){whole}}} parameter(0)
  %slice-start = ((bf16[16,8]{{1,0:T(8,128)(2,1){whole}}}), bf16[4,8]{{1,0:T(8,128)(2,1){part}}}, s32[]{{:S(2)}}) slice-start(%x), slice={{[4:8], [0:8]}}
  ROOT %slice-done = bf16[4,8]{{1,0:T(8,128)(2,1){part}}} slice-done(%slice-start)
}}
"""
    assert count_hlo(text).hbm_bytes == expected
