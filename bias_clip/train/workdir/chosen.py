"""Which parameters `init_from` takes from a checkpoint, and whether they fit."""

import re
from collections.abc import Mapping, Sequence


def select(names: list[str], only: Sequence[str], skip: Sequence[str]) -> list[str]:
    """The names that `only` and `skip` leave.

    Raises:
      ValueError: a regex is found in no name, or nothing is left.
    """
    for pattern in (*only, *skip):
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"init_from: {pattern!r} is found in no parameter of the model; they are "
                f"{names[:20]}{' and more' if len(names) > 20 else ''}."
            )
    chosen = [
        name
        for name in names
        if (not only or any(re.search(p, name) for p in only))
        and not any(re.search(p, name) for p in skip)
    ]
    if not chosen:
        raise ValueError(f"init_from: only={list(only)} and skip={list(skip)} leave no parameter.")
    return chosen


def check_shapes(model: Mapping[str, tuple], saved: Mapping[str, tuple]) -> None:
    """Raises ValueError if shapes of equal names differ; names them."""
    wrong = [f"{n}: saved {saved[n]}, this model {model[n]}" for n in model if model[n] != saved[n]]
    if wrong:
        raise ValueError(
            f"init_from: {len(wrong)} parameters have another shape; leave them out with "
            f"init_from.skip, or change the model: {'; '.join(wrong[:8])}."
        )
