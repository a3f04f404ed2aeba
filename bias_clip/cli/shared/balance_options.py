"""The flags of `balance`, such as --targets man=0.5, as the problem that is solved."""

import argparse
from collections.abc import Sequence
from typing import Any

from bias_clip.balancing import Problem, make_problem, solve
from bias_clip.cli.shared.flags import read_pairs
from bias_clip.curation import weights
from bias_clip.curation.captions import Names


def read_problem(args: argparse.Namespace, names: Names | None = None) -> Problem:
    """The problem of the flags, completed by what the table of annotations has, or by `names`.

    Raises:
      ValueError: flags that do not go together, or name what the table lacks.
    """
    names = weights.read_names(args.annotations) if names is None else names
    targets = _shares("--targets", args.targets)
    if not targets:
        if len(names.attributes) != 1:
            raise ValueError(
                f"{args.annotations} has the attributes {list(names.attributes)}; expected --targets "
                "with a share for each that is to be balanced, such as man=0.5."
            )
        targets = {names.attributes[0]: 0.5}
    proxies = names.proxies if args.proxies is None else args.proxies
    # A label that the user calls a proxy is not a label as well.
    given = [n for n in names.labels if n not in proxies] if args.labels is None else args.labels
    products = _shares("--intersections", args.intersections)
    intersections = {tuple(name.split("+")): share for name, share in products.items()}
    groups = [*targets, *(" & ".join(name) for name in intersections)]
    # After groups and labels are known, so that a misspelt name is an error.
    eps = _tolerances(args.eps, groups, [*given, *proxies])
    return make_problem(
        targets,
        given,
        proxies=proxies,
        intersections=intersections,
        eps_representation={name: eps[name] for name in groups},
        eps_association={name: eps[name] for name in (*given, *proxies)},
        tolerance=args.tolerance,
        unknown=args.unknown,
        penalty=args.v,
        eta=args.eta,
        cap=args.q,
    )


def solve_problem(counted: weights.Counted, problem: Problem, min_retained: float) -> Any:
    """`solve`, whose errors name the flags to change."""
    try:
        return solve(counted.table, problem, min_retained=min_retained)
    except ValueError as error:
        raise ValueError(
            f"{error} (Flags: --targets, --eta, --q, --eps NAME=inf, --min-retained; --min-per-side 10 "
            "frees the labels that fewer than 10 examples have in a group or outside it.)"
        ) from error


def read_utility(args: argparse.Namespace) -> weights.Utility | None:
    """The utility that --utility names, or None.

    Raises:
      ValueError: more than a file and a column, or what `weights.read_utility` raises.
    """
    if args.utility is None:
        return None
    if len(args.utility) > 2:
        raise ValueError(f"--utility: got {args.utility}, expected COLUMN, or FILE COLUMN.")
    scores = args.utility[0] if len(args.utility) == 2 else None
    return weights.read_utility(
        args.annotations, args.utility[-1], scores=scores, buckets=args.buckets
    )


def _shares(flag: str, words: Sequence[str]) -> dict[str, float]:
    pairs = read_pairs(
        words, flag=flag, last=True, example="man=0.5"
    )  # the name of a label may hold "="
    return {name: _number(flag, text) for name, text in pairs.items()}


def _tolerances(
    words: Sequence[str], groups: Sequence[str], labels: Sequence[str]
) -> dict[str, float]:
    """--eps 0.01 nurse=0.1 woman+old=0.02"""
    plain = [word for word in words if "=" not in word]
    if len(plain) > 1:
        raise ValueError(f"--eps: got the numbers {plain}, expected one, then NAME=NUMBER.")
    every = _number("--eps", plain[0]) if plain else 0.01
    some = _shares("--eps", [word for word in words if "=" in word])
    # Products are written with "+" on the command line, where "&" would need quotes.
    some = {name.replace("+", " & ") if "+" in name else name: x for name, x in some.items()}
    unknown = sorted(set(some) - {*groups, *labels})
    if unknown:
        raise ValueError(f"--eps: got {unknown}, expected names of {[*groups, *labels]}.")
    return {name: some.get(name, every) for name in (*groups, *labels)}


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{flag}: got {text!r}, expected a number.") from error
