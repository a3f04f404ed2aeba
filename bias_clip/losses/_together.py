"""Several losses in one turn of the ring: a loss says which folds it needs, and a driver computes them.

A loss is written as a generator. It yields what it needs, is sent the result, and returns its value:

    @on_explicit_axes(per_row=True)
    @by_folds
    def some_loss(z, *, axis_name=None):
        rows = yield from once(prepared, z)
        total = yield from fold(step, start, rows, axis_name)
        return total / 2

Called by itself such a loss gets its folds one by one. `together` runs several losses at once: of
those that wait for a fold over the same ring, in chunks of the same size, one fold does the work.
Arrays that several of them send round the ring travel once, and what a turn of the ring costs is paid
once.
"""

import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax

from bias_clip.losses._blocks import (
    TURN_ROWS,
    AxisName,
    Tree,
    add_trees,
    fold_blocks_both,
    one_sided,
)
from bias_clip.losses._explicit import explicit_mesh

T = TypeVar("T")


class Fold(NamedTuple):
    """A fold that a loss needs: the arguments of `fold_blocks_both`.

    Attributes:
      step: as there, and so for the others.
      init: its carry.
      block: this device's.
      block_init: the block's carry.
      join: of two carries of a block.
      axis_name: of the ring.
      chunk_size: of the walk.
      alone: gives the same result at less cost, where no other loss folds over the same ring.
    """

    step: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
    init: Tree
    block: Tree
    block_init: Tree
    join: Callable[[Tree, Tree], Tree]
    axis_name: AxisName
    chunk_size: int | None
    alone: Callable[[], tuple[Tree, Tree]] | None = None


class Once(NamedTuple):
    """What several losses may make from the same arrays: `make(*args)`, made once for all of them."""

    make: Callable[..., Any]
    args: tuple[Any, ...]


Needs: TypeAlias = Generator[Fold | Once, Any, T]
"""A loss that is being computed; T is its value."""


def by_folds(loss: Callable[..., Needs[T]]) -> Callable[..., T]:
    """Makes of a generator a function that gets its folds by itself; `together` finds the generator."""

    @functools.wraps(loss)
    def call(*args: Any, **kwargs: Any) -> T:
        return _run([loss(*args, **kwargs)])[0]

    call.needs = loss  # type: ignore[attr-defined]
    return call


def needs_of(loss: Callable[..., Any]) -> Callable[..., Needs[Any]]:
    """Returns the generator of a loss made by `by_folds`."""
    needs = getattr(loss, "needs", None)
    if needs is None:
        raise ValueError(f"together: got {loss!r}; expected a loss of bias_clip.losses.")
    return needs


def once(make: Callable[..., Any], *args: Any) -> Needs[Any]:
    """Returns `make(*args)`; losses that run together and give the same arrays get the same result."""
    return (yield Once(make, args))


def fold(
    step: Callable[[Tree, Tree], Tree],
    init: Tree,
    block: Tree,
    axis_name: AxisName,
    *,
    chunk_size: int | None,
    alone: Callable[[], Tree] | None = None,
) -> Needs[Tree]:
    """`fold_blocks`, as a need; `alone` returns the carry."""
    needed = Fold(one_sided(step), init, block, (), add_trees, axis_name, chunk_size)
    if alone is not None:
        rule = alone
        needed = needed._replace(alone=lambda: (rule(), ()))
    return (yield needed)[0]


def fold_both(
    step: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]],
    init: Tree,
    block: Tree,
    block_init: Tree,
    axis_name: AxisName,
    *,
    join: Callable[[Tree, Tree], Tree],
    chunk_size: int | None,
) -> Needs[tuple[Tree, Tree]]:
    """`fold_blocks_both`, as a need."""
    return (yield Fold(step, init, block, block_init, join, axis_name, chunk_size))


def together(*calls: functools.partial) -> tuple[Any, ...]:
    """Computes several losses in one turn of the ring.

    The values and gradients are those of the losses one after another, up to the order in which sums are
    rounded. Losses with equal `axis_name`, `chunk_size` and number of rows share their turns: the
    embeddings travel once, and a logit that two of them need is computed once.

    Args:
      calls: `functools.partial` of losses of this package, with all their arguments.

    Returns:
      What each call returns, in their order.

    Raises:
      ValueError: a call of something else than a loss of this package; and as the losses.

    Example:
      >>> from functools import partial
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import sigmoid_loss, softmax_loss, together
      >>> z = jnp.eye(4)
      >>> sigmoid, softmax = together(
      ...     partial(sigmoid_loss, z, z, scale=10.0, bias=-10.0),
      ...     partial(softmax_loss, z, z, scale=10.0),
      ... )
      >>> print(round(float(sigmoid[0]), 4), round(float(softmax[0]), 6))
      0.6933 0.000136
    """
    for call in calls:
        if not isinstance(call, functools.partial):
            raise ValueError(f"together: got {call!r}; expected a functools.partial of a loss.")
    needs = [needs_of(call.func) for call in calls]
    # On explicit axes each loss changes them to automatic ones for itself.
    if any(
        explicit_mesh(x) is not None for x in jax.tree.leaves([(c.args, c.keywords) for c in calls])
    ):
        return tuple(call() for call in calls)
    parts = [need(*call.args, **call.keywords) for need, call in zip(needs, calls, strict=True)]
    return tuple(_run(parts))


def _run(parts: Sequence[Needs[Any]]) -> list[Any]:
    """Computes losses side by side, fold by fold; returns their values."""
    values: dict[int, Any] = {}
    made: dict[Any, Any] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(parts)))
    while answers:
        waiting: dict[Any, dict[int, Fold]] = {}
        for i, answer in answers.items():
            try:
                needed = parts[i].send(answer)
                while isinstance(needed, Once):
                    needed = parts[i].send(_made(needed, made))
            except StopIteration as end:
                values[i] = end.value
            else:
                waiting.setdefault(_kind(needed), {})[i] = needed
        answers = {}
        for folds in waiting.values():
            answers.update(zip(folds, _folded(list(folds.values())), strict=True))
    return [values[i] for i in range(len(parts))]


def _made(needed: Once, made: dict[Any, Any]) -> Any:
    # Arrays are known by their identity, so the arrays are kept as long as their results.
    key = (needed.make, *(id(x) if hasattr(x, "dtype") else x for x in needed.args))
    if key not in made:
        made[key] = (needed.make(*needed.args), needed.args)
    return made[key][0]


def _kind(fold: Fold) -> tuple[Any, ...]:
    """Folds of equal kinds can be one: what `fold_blocks_both` makes of ring, rows and chunks."""
    rows = jax.tree.leaves(fold.block)[0].shape[0]
    given = fold.chunk_size
    # Not the chunk size as it is: none at all and one that is large enough are the same.
    sizes = (min(given or limit, limit) for limit in (rows, TURN_ROWS))
    return (fold.axis_name, rows, *sizes)


def _folded(folds: list[Fold]) -> list[tuple[Tree, Tree]]:
    """The results of folds of one kind."""
    first = folds[0]
    if len(folds) == 1 and first.alone is not None:
        return [first.alone()]
    leaves, trees = _distinct([fold.block for fold in folds])

    def step(carries, leaves, block_carries):
        blocks = [jax.tree.map(lambda i: leaves[i], tree) for tree in trees]
        found = [
            fold.step(*given)
            for fold, *given in zip(folds, carries, blocks, block_carries, strict=True)
        ]
        # From pairs of carries to two lists of them.
        return tuple(map(list, zip(*found, strict=True)))

    def join(a, b):
        return [fold.join(x, y) for fold, x, y in zip(folds, a, b, strict=True)]

    carries, block_carries = fold_blocks_both(
        step,
        [fold.init for fold in folds],
        leaves,
        [fold.block_init for fold in folds],
        first.axis_name,
        join=join,
        chunk_size=first.chunk_size,
    )
    return list(zip(carries, block_carries, strict=True))


def _distinct(blocks: list[Tree]) -> tuple[list[Any], list[Tree]]:
    """All different arrays of the trees, and the trees with the place of each array instead of it."""
    leaves: list[Any] = []
    places: dict[int, int] = {}

    def place(x: Any) -> int:
        if id(x) not in places:
            places[id(x)] = len(leaves)
            leaves.append(x)
        return places[id(x)]

    return leaves, [jax.tree.map(place, block) for block in blocks]
