"""The balancing problem: attributes and their targets, labels, tolerances, rate and cap.

The method is M4 of Alabdulmohsin, Wang, Steiner, Goyal, D'Amour and Zhai, CLIP the Bias: How Useful
is Balancing Data in Multimodal Learning?, 2024. The authors published no code. These docstrings
credit the paper with its structure as reviews and summaries restate it: hinge penalties at level V
on E[q (s - target) y] and E[q (s - target)], a rate eta, a utility, per-example updates of v and mu.
Everything else is this project's derivation, and the docstrings say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
from jaxtyping import Float, Int8

from bias_clip.balancing.counts import CountTable

TOLERANCES = ("prevalence", "relative", "absolute")
UNKNOWNS = ("masked", "unmasked")

Tolerance = float | Mapping[str, float]


@dataclass(frozen=True)
class Problem:
    """A checked problem; make one with `make_problem`, whose arguments are its fields.

    `attributes` and `labels` name the columns of the data; proxies are the last labels. Constraints
    refer to `groups`: the attributes, then one product per intersection.
    """

    attributes: tuple[str, ...]
    labels: tuple[str, ...]
    proxies: tuple[str, ...]
    intersections: tuple[tuple[str, ...], ...]
    targets: tuple[float, ...]  # one per group
    eps_representation: tuple[float, ...]  # one per group
    eps_association: tuple[float, ...]  # one per label
    tolerance: str
    unknown: str
    penalty: float
    eta: float | str
    cap: float

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of everything with a target: attributes, then intersections."""
        return self.attributes + tuple(" & ".join(names) for names in self.intersections)


def make_problem(
    targets: Mapping[str, float],
    labels: Sequence[str] = (),
    *,
    proxies: Sequence[str] = (),
    intersections: Mapping[tuple[str, ...], float] | None = None,
    eps_representation: Tolerance = 0.01,
    eps_association: Tolerance = 0.01,
    tolerance: str = "prevalence",
    unknown: str = "masked",
    penalty: float = 10.0,
    eta: float | str = 0.9,
    cap: float = 1.0,
) -> Problem:
    """Checks a balancing problem and completes it.

    Balancing finds weights q with mean `eta`, between 0 and `cap`, as close to eta * utility as the
    constraints allow:

    ::

        minimise  1/2 E[(q - eta u)^2] + penalty * sum of excesses over all groups k and labels r
        excess    max(0, |E[q (s_k - target_k) y_r]| - eps_association[k, r])
                  max(0, |E[q (s_k - target_k)]|     - eps_representation[k])

    The hinges, the penalty, eta and the utility are the paper's, as its readers restate them. The
    quadratic, the cap, intersections and the three tolerances are this project's.

    Args:
      targets: target share of each attribute among the rows where it is known.
      labels: names of the label columns.
      proxies: names of the label columns that follow: they reveal an attribute ("cockpit" for
        "pilot"). The solver treats them like other labels; reports list them separately.
      intersections: tuples of attribute names to the target share of rows with all of them.
      eps_representation: a number, or one per group by name; `inf` for no constraint. An
        intersection is named "a & b".
      eps_association: a number, or one per label and proxy by name; `inf` for no constraint.
      tolerance: unit of both. "prevalence": a share of the constraint's own weight, that of the rows
        where s_k is known (and y_r is 1) before balancing. It holds rare labels and sparse
        annotations as tightly as others. "relative": a share of the total weight. "absolute": in
        units of E[q a], as in the formula.
      unknown: "masked": rows where s_k is unknown are outside constraint k. "unmasked": they count
        as s_k = 0, so the target must be a share of all rows: one half cannot be met when most rows
        show no person. We do not know how the paper treats them.
      penalty: the paper's V. Constraints hold exactly while all multipliers stay below it.
      eta: mean weight, the share that thinning keeps; "max" for the largest feasible one.
      cap: largest weight. 1 to thin; above 1 to repeat or to weight the loss.

    Raises:
      ValueError: no attribute; duplicate or unknown names; targets outside [0, 1]; negative or NaN
        tolerances; negative penalty; eta not in (0, cap]; a word that is not listed above.

    Example:
      >>> from bias_clip.balancing import make_problem
      >>> make_problem({"woman": 0.5, "old": 0.3}, ["nurse"], intersections={("woman", "old"): 0.15}).groups
      ('woman', 'old', 'woman & old')
    """
    intersections = intersections or {}
    # Proxies are labels in all formulas; only messages tell them apart.
    labels = (*labels, *proxies)
    _check_names(tuple(targets), labels, intersections)
    groups = (*targets, *(" & ".join(names) for names in intersections))
    shares = (*targets.values(), *intersections.values())
    _check_shares(groups, shares)
    _check_choice("tolerance", tolerance, TOLERANCES)
    _check_choice("unknown", unknown, UNKNOWNS)
    _check_numbers(penalty, eta, cap)
    return Problem(
        attributes=tuple(targets),
        labels=labels,
        proxies=tuple(proxies),
        intersections=tuple(tuple(names) for names in intersections),
        targets=tuple(float(x) for x in shares),
        eps_representation=_by_name("eps_representation", eps_representation, groups),
        eps_association=_by_name("eps_association", eps_association, labels),
        tolerance=tolerance,
        unknown=unknown,
        penalty=float(penalty),
        eta=eta if isinstance(eta, str) else float(eta),
        cap=float(cap),
    )


def group_values(problem: Problem, attributes: Int8[Any, "n m"], xp: Any = np) -> Int8[Any, "n k"]:
    """1, 0 or -1 (unknown) for each attribute and intersection; `xp` is numpy or jax.numpy.

    A product is 0 if any factor is 0, even if others are unknown.
    """
    columns = [attributes]
    for names in problem.intersections:
        factors = [attributes[:, problem.attributes.index(name)] for name in names]
        # Known zeros before unknowns: one factor of 0 decides the product.
        zero = xp.stack([factor == 0 for factor in factors]).any(0)
        unknown = xp.stack([factor < 0 for factor in factors]).any(0)
        product = xp.where(zero, 0, xp.where(unknown, -1, 1)).astype(attributes.dtype)
        columns.append(product[:, None])
    return xp.concatenate(columns, axis=1)


def centred(problem: Problem, values: Int8[Any, "n k"], xp: Any = np) -> Float[Any, "n k"]:
    """s - target of each group; where s is unknown, the problem's policy decides."""
    targets = xp.asarray(problem.targets, dtype=float)
    # 0 takes an unknown row out of the moment; "unmasked" counts it as not in the group.
    if problem.unknown == "masked":
        return xp.where(values < 0, 0.0, values - targets)
    return xp.maximum(values, 0) - targets


def tolerances(problem: Problem, table: CountTable | None, eta: float) -> Float[np.ndarray, "k c1"]:
    """Tolerances of E[q a] for each group with each label; the last column is the group alone.

    Raises:
      ValueError: no table although tolerance="prevalence" needs one.
    """
    # [k, c + 1]: labels, then the group alone.
    eps = np.tile([*problem.eps_association, 0.0], (len(problem.groups), 1))
    eps[:, -1] = problem.eps_representation
    if problem.tolerance == "absolute":
        return eps
    if problem.tolerance == "relative":
        return eta * eps
    if table is None:
        raise ValueError(
            "tolerance='prevalence': got no count table; expected one (a sample's will do), or "
            "'relative' or 'absolute' tolerances."
        )
    values = group_values(problem, table.attributes)
    known = (values >= 0) | (problem.unknown == "unmasked")
    columns = np.concatenate([table.labels == 1, np.ones((len(values), 1), bool)], axis=1)
    # Weights are not solved yet: the share of rows before balancing, times eta, stands for their weight.
    prevalence = known.T.astype(float) @ (columns * table.counts[:, None]) / table.counts.sum()
    # inf * 0 would be NaN for a label that no row has; no constraint stays none.
    return np.where(np.isinf(eps), np.inf, eta * np.where(np.isinf(eps), 0, eps) * prevalence)


def constraint_name(problem: Problem, group: int, column: int) -> str:
    """The readable name of a constraint; `column` is that of a label, or the number of labels."""
    moment = f"{problem.groups[group]} - {problem.targets[group]:g}"
    if column == len(problem.labels):
        return f"E[q ({moment})]"
    name = problem.labels[column]
    return f"E[q ({moment}) {name}]" + (" (proxy)" if name in problem.proxies else "")


def _check_names(attributes, labels, intersections) -> None:
    if not attributes:
        raise ValueError("targets: got none; expected a share for at least one attribute.")
    for what, names in (("targets", attributes), ("labels and proxies", labels)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"{what}: got {list(names)}; expected distinct names, not {twice}.")
    seen = set()
    for names in intersections:
        unknown = [name for name in names if name not in attributes]
        if isinstance(names, str) or unknown:
            raise ValueError(
                f"intersections: got {names!r}; expected tuples of {sorted(attributes)}."
            )
        # Sets, because the order of the names in an intersection means nothing.
        if len(names) < 2 or len(set(names)) < len(names) or frozenset(names) in seen:
            raise ValueError(f"intersections: got {names}; expected two or more distinct, once.")
        seen.add(frozenset(names))


def _check_shares(groups, shares) -> None:
    for name, share in zip(groups, shares, strict=True):
        if not 0 <= share <= 1:
            raise ValueError(f"target of {name!r}: got {share}; expected a share in [0, 1].")


def _check_choice(what: str, word: str, choices: tuple[str, ...]) -> None:
    if word not in choices:
        raise ValueError(f"{what}: got {word!r}; expected one of {', '.join(map(repr, choices))}.")


def _check_numbers(penalty: float, eta: float | str, cap: float) -> None:
    if not (isfinite(penalty) and penalty >= 0):
        raise ValueError(f"penalty: got {penalty}; expected a finite number, at least 0.")
    if not (isfinite(cap) and cap > 0):
        raise ValueError(f"cap: got {cap}; expected a finite number above 0.")
    if isinstance(eta, str):
        _check_choice("eta", eta, ("max",))
    elif not 0 < eta <= cap:
        raise ValueError(f"eta: got {eta} with cap {cap}; expected 0 < eta <= cap, or 'max'.")


def _by_name(what: str, given: Tolerance, names: tuple[str, ...]) -> tuple[float, ...]:
    if isinstance(given, Mapping):
        if set(given) != set(names):
            odd = sorted(set(given) ^ set(names))
            raise ValueError(f"{what}: missing or unknown {odd}; expected one for each of {names}.")
        values = tuple(float(given[name]) for name in names)
    else:
        values = (float(given),) * len(names)
    if not all(0 <= value <= inf for value in values):
        raise ValueError(f"{what}: got {given}; expected numbers from 0 to inf.")
    return values
