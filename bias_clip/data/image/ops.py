"""Images: small pure operations on uint8 arrays, and the op-strings that chain them.

`"decode|background(white)|resize(48)|value_range(-1,1)"` applies from left to right. Every operation is a
public function `f(image, ...)`. The random ones take `rng` as a keyword; nothing else is random.
Pillow does the interpolation, NumPy the arithmetic.
"""

import ast
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bias_clip.core.registry import argument_names, name_arguments, nearest
from bias_clip.data.image.codec import decode, encode_png
from bias_clip.data.image.color import (
    background,
    check_range,
    color_jitter,
    drop_alpha,
    gray,
    normalize,
    opaque,
    value_range,
)
from bias_clip.data.image.geometry import (
    affine,
    central_crop,
    flip_lr,
    inception_crop,
    random_crop,
    resize,
    resize_inside,
    resize_small,
)

__all__ = [
    "OPS",
    "ImageFn",
    "PixelNormal",
    "PixelRange",
    "encode_png",
    "make_image_fn",
    "make_pixel_fn",
]

ImageFn = Callable[[Any, np.random.Generator], np.ndarray]


class PixelRange(NamedTuple):
    """The values that 0 and 255 map to."""

    low: float
    high: float


class PixelNormal(NamedTuple):
    """Mean and deviation of the channels, of images scaled to 0..1."""

    mean: float | Sequence[float]
    std: float | Sequence[float]


OPS: dict[str, Callable[..., np.ndarray]] = {
    op.__name__: op
    for op in (
        decode,
        background,
        drop_alpha,
        resize,
        resize_small,
        resize_inside,
        central_crop,
        random_crop,
        inception_crop,
        flip_lr,
        affine,
        color_jitter,
        gray,
        value_range,
        normalize,
    )
}


def make_image_fn(ops: str) -> ImageFn:
    """Compiles an op-string to one function `(bytes or uint8 array, rng) -> array`.

    `"a|b(1)|c(x=2)"` is `c(b(a(image), 1), x=2)`. Arguments are numbers, strings, tuples, `True`,
    `False` and `None`; a bare name is a string. Nothing is evaluated.

    Returns: the function; it is pure given the state of `rng`, and safe to call from threads.
    Raises: ValueError for a syntax error, an unknown operation or a wrong argument, with the
      position in the string and the valid choices.
    Reference: the form of the string is that of Beyer et al., Big Vision, 2022; the operations here
      are NumPy and Pillow, without TensorFlow.

        fn = make_image_fn("decode|background(white)|resize(48)|value_range(-1,1)")
        fn(np.zeros((64, 64, 4), np.uint8), np.random.default_rng(0)).shape   # (48, 48, 3)
    """
    return _chain([_bind(ops.strip(), node) for node in _op_nodes(ops.strip())])


def make_pixel_fn(ops: str) -> tuple[ImageFn, PixelRange | PixelNormal | None]:
    """Like `make_image_fn`, except that a final `value_range` or `normalize` is left to the device.

    Images are then transferred to the device as uint8, a quarter of float32: less to copy, to
    concatenate and to transfer. On the device, the arithmetic takes almost no time.

    Returns: the function without that operation, and its arguments, for `color.to_range` or
      `color.to_normal`; or `make_image_fn(ops)` and None if the last operation is another one.
    Raises: what `make_image_fn` raises.
    """
    steps = [_bind(ops.strip(), node) for node in _op_nodes(ops.strip())]
    op, arguments, _ = steps[-1]
    if op not in (value_range, normalize):
        return _chain(steps), None
    rest = _chain(steps[:-1])
    scaling: PixelRange | PixelNormal
    if op is value_range:
        scaling = PixelRange(**arguments)
        check_range(*scaling)
    else:
        scaling = PixelNormal(**arguments)
        normalize(np.zeros((1, 1, 3), np.uint8), *scaling)  # raises for a deviation of 0
    # The device gets three channels and cannot raise: what `value_range` would refuse is refused here.
    return lambda image, rng: opaque(rest(image, rng)), scaling


def read_ops(ops: str) -> list[tuple[str, dict[str, Any]]]:
    """Takes an op-string apart: each operation's name and all of its arguments by name.

    Raises: as `make_image_fn`.

        read_ops("decode|value_range(-1,1)")[1]   # ("value_range", {"low": -1, "high": 1})
    """
    steps = [_bind(ops.strip(), node) for node in _op_nodes(ops.strip())]
    return [(op.__name__, arguments) for op, arguments, _ in steps]


def _chain(steps: list) -> ImageFn:
    def image_fn(image: Any, rng: np.random.Generator) -> np.ndarray:
        for op, arguments, is_random in steps:
            image = op(image, rng=rng, **arguments) if is_random else op(image, **arguments)
        return image

    return image_fn


def _op_nodes(ops: str) -> list[ast.expr]:
    """Splits "a|b|c" with Python's parser, which already knows quotes and brackets."""
    try:
        node = ast.parse(ops, mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"cannot read the operations {ops!r}: {error.msg} at character {error.offset}; "
            'expected a form such as "decode|resize(48)|value_range(-1,1)" (colours like '
            '"#ff0000" in quotes).'
        ) from error
    nodes = []
    # Python reads a|b|c as (a|b)|c: the last operation is at the top of the tree.
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        nodes.append(node.right)
        node = node.left
    return [node, *reversed(nodes)]


def _bind(ops: str, node: ast.expr) -> tuple[Callable[..., np.ndarray], dict[str, Any], bool]:
    """Resolves one operation and checks its arguments against the signature."""
    where = f"at character {node.col_offset + 1} of {ops!r}"
    name = node.func if isinstance(node, ast.Call) else node
    if not isinstance(name, ast.Name) or name.id not in OPS:
        written = ast.unparse(name)
        hint = nearest(written, OPS)
        raise ValueError(f"unknown operation {written!r} {where}; have {sorted(OPS)}.{hint}")
    op = OPS[name.id]
    args = [_literal(a, where) for a in node.args] if isinstance(node, ast.Call) else []
    keywords = node.keywords if isinstance(node, ast.Call) else []
    kwargs = {str(k.arg): _literal(k.value, where) for k in keywords}
    named = name_arguments(f"{name.id} {where}", op, args, kwargs, given=("image", "rng"))
    return op, named, "rng" in argument_names(op)


def _literal(node: ast.expr, where: str) -> Any:
    # A bare word is a string: `background(white)`.
    if isinstance(node, ast.Name):
        return node.id
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(
            f"got {ast.unparse(node)!r} {where}, expected a number, a string or a tuple."
        ) from error
