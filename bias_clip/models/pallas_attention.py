"""Self-attention as one kernel for TPUs: the scores are made, used and dropped on the chip."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

_LANES, _TILE_BYTES = 128, 32  # of a tile of a TPU's memory: numbers across, bytes down
_SUBLANES = 8  # rows of a tile of float32
_VMEM = 16 * 2**20  # what a kernel gets unless it asks for more
_UNSEEN = -1e30  # its exp is 0; finite, because the difference of two infinities is NaN
_MAX_ROWS, _MAX_HEADS = 1024, 16  # of a block, where tiles allow: its size, and that of its code


def attend(
    q: Float[Array, "b l h k"],
    k: Float[Array, "b l h k"],
    v: Float[Array, "b l h k"],
    *,
    causal: bool = False,
) -> Float[Array, "b l h k"]:
    """`softmax(q kᵀ / sqrt(size)) v` of each example and head, where q, k and v have `size` numbers.

    With `causal`, a query sees the keys up to its own position; all scores are still computed.

    Softmax in float32, reverse mode only. Like FlashAttention it writes no scores and computes them
    again in the backward pass. Unlike FlashAttention, one pass sees all keys of a head, which is
    possible for images and captions of a few hundred tokens. With `w = softmax(q kᵀ)`, `dw = dy vᵀ`,

        dv = wᵀ dy,  ds = w * (dw - sum(dw * w)),  dq = ds k,  dk = dsᵀ q.

    On the mesh that is in use (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`) each device takes its
    own examples and heads: heads are split over the axis "tensor", examples over all other axes. Inside
    `jax.shard_map` each device already has only its own.
    On a CPU the kernel is interpreted, which is slow: for tests. The float32 scores of 1,000 tokens and
    more are too large for the 16 MiB of a TPU v4's vector memory; v5e, v5p and v6e compile 1,296 tokens.

    Raises:
      ValueError: the numbers of examples or heads do not divide over the devices.

    Reference: Dao et al., FlashAttention, 2022, for gradients from scores that are computed again.
    """
    # As rows of tokens: the matrix products before and after the kernel have and take this layout.
    b, length, heads, size = q.shape
    rows = [x.reshape(b * length, heads * size) for x in (q, k, v)]
    none = [jnp.zeros_like(x[0]) for x in rows]
    return attend_rows(*rows, *none, length, size, causal).reshape(b, length, heads, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def attend_rows(
    q: Float[Array, "bl hk"],
    k: Float[Array, "bl hk"],
    v: Float[Array, "bl hk"],
    q_bias: Float[Array, " hk"],
    k_bias: Float[Array, " hk"],
    v_bias: Float[Array, " hk"],
    length: int,
    size: int,
    causal: bool = False,
) -> Float[Array, "bl hk"]:
    """`attend` of rows of tokens, `length` per example, after a bias is added to each of them.

    The gradients of the biases are sums over all tokens. The kernel makes them from the gradients that
    it has on the chip; for XLA they would be another pass over each.
    """
    return _attend_forward(q, k, v, q_bias, k_bias, v_bias, length, size, causal)[0]


def _attend_forward(*args: Any) -> tuple[Array, tuple[Array, ...]]:
    arrays, biases, (length, size, causal) = args[:3], args[3:6], args[6:]
    arrays = tuple(x + bias.astype(x.dtype) for x, bias in zip(arrays, biases, strict=True))
    # Two products per pair of tokens forward: scores, and their use.
    kernel = functools.partial(_forward_kernel, causal=causal)
    fun = functools.partial(_run, kernel, length, size, results=1, products=2)
    # Only the inputs are kept: the backward kernel makes the scores again. Of the biases only the dtype.
    return _on_own_part(fun, *arrays)[0], (*arrays, biases[0][:0])


def _attend_backward(
    length: int, size: int, causal: bool, kept: tuple[Array, ...], dy: Array
) -> tuple[Array, ...]:
    *arrays, like = kept
    # Five products: scores again, dw, dv, dk and dq.
    kernel = functools.partial(_backward_kernel, causal=causal)
    fun = functools.partial(_run, kernel, length, size, results=3, products=5, sums=True)
    *grads, sums = _on_own_part(fun, *arrays, dy)
    # Each block wrote a tile of equal rows for each of the three.
    sums = sums.reshape(-1, len(grads), _SUBLANES, sums.shape[-1])[:, :, 0].sum(0)
    return *grads, *sums.astype(like.dtype)


attend_rows.defvjp(_attend_forward, _attend_backward)


@jax.custom_vjp
def keep_rows(x: Float[Array, "bl d"]) -> Float[Array, "bl d"]:
    """`x`, whose rows lie one after another in memory, and so do those of its gradient. Reverse mode only.

    Beside a kernel XLA for TPUs keeps the tokens between blocks transposed, because sums over a row are
    then sums over tiles. The kernel, and the products around it, take rows: what is stored for the backward
    pass is then transposed twice, and the product that reads transposed tokens takes half as long again.
    """
    return _with_rows(x)


def _keep_rows_forward(x: Array) -> tuple[Array, None]:
    return _with_rows(x), None


def _keep_rows_backward(_: None, dy: Array) -> tuple[Array]:
    return (_with_rows(dy),)


keep_rows.defvjp(_keep_rows_forward, _keep_rows_backward)


def _with_rows(x: Array) -> Array:
    def on_part(x: Array) -> tuple[Array, ...]:
        return (with_layout_constraint(x, Layout(major_to_minor=(0, 1))),)

    # On own parts, because the partitioner gathers the whole batch for a layout constraint.
    return _on_own_part(on_part, x, width_axis=None)[0]


def _on_own_part(
    fun: Callable[..., tuple[Array, ...]], *args: Array, width_axis: str | None = "tensor"
) -> tuple[Array, ...]:
    """Runs a kernel on each device's own part, because the partitioner cannot split a kernel."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_types, strict=True)
    names = [name for name, kind in axes if kind != AxisType.Manual]
    if not names:
        return fun(*args)
    # All axes but "tensor" split examples, as `BATCH_AXES` do with the batch.
    batch = tuple(name for name in names if name != "tensor")
    # [tokens, heads * size]: rows by example, columns by head.
    spec = PartitionSpec(batch, width_axis if width_axis in names else None)
    return jax.shard_map(
        fun, mesh=mesh, in_specs=spec, out_specs=spec, axis_names=set(names), check_vma=False
    )(*args)


def _run(
    kernel: Callable[..., None],
    length: int,
    size: int,
    *args: Float[Array, "bl hk"],
    results: int,
    products: int,
    sums: bool = False,
) -> tuple[Array, ...]:
    """The kernel on blocks of whole examples and whole heads.

    With `sums` there is one result more, in float32: for each block, a tile of rows per result.
    """
    (rows, width), dtype = args[0].shape, args[0].dtype
    if rows % length or width % size:
        raise ValueError(
            f"attention 'pallas' needs whole examples and heads on each device: got {rows} rows for "
            f"examples of {length} and {width} numbers for heads of {size}; take a batch and a mesh "
            "whose sizes divide."
        )
    num, all_ = rows // length, len(args) + results
    # Blocks of whole heads whose columns are also whole tiles.
    lanes = math.lcm(size, _LANES)
    # If such blocks do not divide the width, one block has all of it: a whole axis is always allowed.
    lanes = width if width % lanes else lanes
    tile = _TILE_BYTES // dtype.itemsize
    group = _examples_to_a_block(num, length, tile, most=_MAX_HEADS // (lanes // size))
    # [blocks, rows, width].
    shape = (num // group, group * length, width)
    out_shape = [jax.ShapeDtypeStruct(shape, dtype)] * results
    if sums:
        of_sums = (num // group, results * _SUBLANES, width)
        out_shape.append(jax.ShapeDtypeStruct(of_sums, jnp.float32))

    def block_of(rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, rows, lanes), lambda i, j: (i, 0, j))

    blocks = 2 * all_ * group * length * lanes * dtype.itemsize  # one in use, one being copied
    scores = 22 * length**2  # five in float32, one in bfloat16
    call = functools.partial(
        pl.pallas_call,
        functools.partial(kernel, length=length, size=size),
        grid=(num // group, width // lanes),
        in_specs=[block_of(group * length)] * len(args),
        out_specs=[block_of(x.shape[1]) for x in out_shape],
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            # No block reads what another writes, so cores may share them in any order.
            dimension_semantics=("parallel", "parallel"),
            # An eighth of the default is left for what else the compiler keeps there.
            vmem_limit_bytes=max(_VMEM, blocks + scores + _VMEM // 8),
        ),
        # XLA cannot see into a kernel: its scheduler reads the estimate, and so do the plans.
        cost_estimate=pl.CostEstimate(
            flops=2 * products * rows * length * width,
            transcendentals=rows * length * width // size,
            bytes_accessed=all_ * args[0].nbytes,
        ),
    )
    arrays = [x.reshape(shape) for x in args]
    made = jax.lax.platform_dependent(*arrays, tpu=call(), cpu=call(interpret=True))
    return tuple(x.reshape(-1, width) for x in made)


def _examples_to_a_block(num: int, length: int, tile: int, *, most: int) -> int:
    """The most examples per block, because each block takes time to start.

    The number divides `num` and is limited by `most` and the rows. Every block of several must begin at
    a tile, so that rows need no copy. If that is impossible, each example is a block, and XLA copies all
    examples to a layout in which each begins at a tile.
    """
    aligned = math.lcm(length, tile) // length
    most = max(aligned, min(most, _MAX_ROWS // length))
    fitting = [n for n in range(aligned, most + 1, aligned) if num % n == 0]
    return fitting[-1] if fitting and fitting[-1] * length <= 2 * _MAX_ROWS else 1


def _forward_kernel(
    q: Any, k: Any, v: Any, out: Any, *, length: int, size: int, causal: bool
) -> None:
    def scores(at: Any) -> Array:
        # Scaled on the queries: [length, size] numbers and not [length, length].
        return _scores(k[at], q[at] * size**-0.5, causal)

    for at, s in _one_ahead(scores, _places(q, length, size)):
        # Summed over keys, axis 0 of both: the weights have a row per key.
        out[at] = _product(_softmax(s).astype(v.dtype), v[at], over=(0, 0)).astype(out.dtype)


def _backward_kernel(
    q: Any,
    k: Any,
    v: Any,
    dy: Any,
    dq: Any,
    dk: Any,
    dv: Any,
    sums: Any,
    *,
    length: int,
    size: int,
    causal: bool,
) -> None:
    def scores(at: Any) -> tuple[Array, Array]:
        # dwᵀ = v dyᵀ, with a row per key like the scores.
        return _scores(k[at], q[at] * size**-0.5, causal), _product(v[at], dy[at], over=(1, 1))

    for at, (s, dw) in _one_ahead(scores, _places(q, length, size)):
        w = _softmax(s)
        dv[at] = _product(w.astype(dy.dtype), dy[at], over=(1, 0)).astype(dv.dtype)
        # In the dtype of the products: ds enters two more.
        ds = (w * (dw - jnp.sum(dw * w, axis=0, keepdims=True))).astype(q.dtype)
        dk[at] = _product(ds, q[at] * size**-0.5, over=(1, 0)).astype(dk.dtype)
        # Transposing the small matrix is cheaper than transposing ds.
        dq[at] = (_product(k[at], ds, over=(0, 0)) * size**-0.5).astype(dq.dtype).T
    for i, grad in enumerate((dq, dk, dv)):  # of the whole block at once, in float32
        total = jnp.sum(grad[...].astype(jnp.float32), axis=0, keepdims=True)
        sums[pl.ds(i * _SUBLANES, _SUBLANES), :] = jnp.broadcast_to(total, (_SUBLANES, total.size))


def _places(x: Any, length: int, size: int) -> list[Any]:
    """The slices of each example and head of a block."""
    rows, lanes = x.shape
    starts = [(i, j) for i in range(0, rows, length) for j in range(0, lanes, size)]
    return [(pl.ds(i, length), pl.ds(j, size)) for i, j in starts]


def _one_ahead(fun: Callable[[Any], Any], places: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yields each place with the result of `fun` for it, after starting `fun` for the next place.

    The products of one head then overlap the softmax of another: a tenth fewer instructions forward,
    a sixth fewer backward.
    """
    made = fun(places[0])
    for at, following in zip(places, [*places[1:], None], strict=True):
        current = made
        made = None if following is None else fun(following)
        yield at, current


def _scores(k: Array, q: Array, causal: bool) -> Array:
    """Scores with a row per key and a column per query; unseen keys get a score of weight zero."""
    s = _product(k, q, over=(1, 1))
    if not causal:
        return s
    keys, queries = (jax.lax.broadcasted_iota(jnp.int32, s.shape, axis) for axis in (0, 1))
    return jnp.where(keys <= queries, s, _UNSEEN)


def _softmax(scores: Array) -> Array:
    """Softmax over the keys, which are rows, because a sum across lanes is slower."""
    e = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
    return e * (1 / jnp.sum(e, axis=0, keepdims=True))


def _product(x: Array, y: Array, *, over: tuple[int, int]) -> Array:
    """The product of two matrices over an axis of each, summed in float32."""
    axes = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)
