"""The audit's emoji suites in the report of the M4 ablation: values with intervals, and differences.

Values and intervals over images are what the evaluators of the runs wrote. Differences on the same images are
those of the audits, `audits/<loss>_<seed>`, which compare the variants of one loss and seed with the plain data.
Nothing is resampled here.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.cli.compare import read_results
from bias_clip.core.json_object import read_object
from bias_clip.evals.audit.audit import VERSION

# Name in the audits to variant without its loss; the first is what the others are compared with.
AUDITED = {
    "plain": "plain,0",
    "random part": "random,100",
    "balanced": "balanced,100",
    "with proxies": "proxies,100",
}
NUMBERS = {  # evaluator/metric to its name in the tables, and its factor and decimals there
    "emoji_roles/acc": ("role recognised, %", 100, 1),
    "emoji_roles/acc_range": ("the same, women and men apart, points", 100, 1),
    "emoji_search_gender/maxskew_even_50": ("max skew of the first 50, nats", 1, 3),
    "emoji_association/pairs_mean": ("gap in pairs of roles, points", 100, 1),
    "emoji_representation/preference": ('nearer to "man", nobody shown, %', 100, 1),
    "emoji_representation/representation": ("the same, away from one half, points", 100, 1),
}
SIGNIFICANT = 0.05  # of a p that Holm's method has corrected over the numbers of its suite


class Interval(NamedTuple):
    """A number of one run, or a difference of two, with the ends of its 95 % interval over images."""

    value: float
    low: float
    high: float
    p: float | None = None  # of a difference, corrected


Found = Mapping[str, Mapping[str, Sequence[Interval]]]  # variant to number to its runs


def audit_flags(workdir: Path, loss: str, seed: int) -> list[str]:
    """The arguments of the audit of one loss and seed, except `--out`."""
    from configs.m4_people import SUITES

    runs = [f"{name}={workdir / f'{loss},{own}_{seed}'}" for name, own in AUDITED.items()]
    return [*runs, "--suite", *SUITES, "--no-baselines"]


def read_values(workdir: Path, loss: str, seeds: int) -> dict[str, dict[str, list[Interval]]]:
    """What the runs' evaluators found, by name in `AUDITED`.

    Raises:
      ValueError: a run that is not finished, or has no interval for a number.
    """
    return {
        name: _by_number([_of_run(workdir / f"{loss},{own}_{s}") for s in range(seeds)])
        for name, own in AUDITED.items()
    }


def read_differences(workdir: Path, loss: str, seeds: int) -> dict[str, dict[str, list[Interval]]]:
    """What the audits found: each variant minus the plain data, by name in `AUDITED`.

    Raises:
      ValueError: an audit that is missing, of other models, or without a number.
    """
    audits = [_of_audit(workdir / "audits" / f"{loss}_{s}" / "audit.json") for s in range(seeds)]
    return {name: _by_number([own[name] for own in audits]) for name in list(AUDITED)[1:]}


def value_table(found: Found, called: str) -> list[str]:
    """A row per number, a column per variant: mean, mean ends of the intervals, deviation over seeds."""
    lines = [f"| {called} | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for key, (name, factor, digits) in NUMBERS.items():
        cells = [_cell(own[key], factor, f".{digits}f") for own in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def difference_table(found: Found, called: str) -> list[str]:
    """As `value_table`, with the number of seeds whose p is below `SIGNIFICANT`."""
    columns = [f"{name} - plain" for name in found]
    lines = [f"| {called} | {' | '.join(columns)} |", "|---" * (len(found) + 1) + "|"]
    for key, (name, factor, digits) in NUMBERS.items():
        cells = []
        for own in found.values():
            small = sum(run.p is not None and run.p < SIGNIFICANT for run in own[key])
            form = f"{_cell(own[key], factor, f'+.{digits}f')}; {small} of {len(own[key])}"
            cells.append(form)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(runs: Sequence[Interval], factor: float, form: str) -> str:
    low, value, high = (
        format(factor * statistics.mean(ends), form)
        for ends in zip(*((run.low, run.value, run.high) for run in runs), strict=True)
    )
    if len(runs) == 1:
        return f"{value} [{low}, {high}]"
    deviation = factor * statistics.stdev(run.value for run in runs)
    return f"{value} [{low}, {high}] ± {format(deviation, form.lstrip('+'))}"


def _by_number(runs: Sequence[Mapping[str, Interval]]) -> dict[str, list[Interval]]:
    return {key: [run[key] for run in runs] for key in NUMBERS}


def _of_run(workdir: Path) -> dict[str, Interval]:
    results, found = read_results(workdir), {}
    for key in NUMBERS:
        evaluator, _, metric = key.partition("/")
        own = results.get(evaluator, {"metrics": {}, "details": {}})
        ends = own["details"].get("intervals", {}).get(metric)
        if own["metrics"].get(metric) is None or ends is None or None in ends:
            raise ValueError(
                f"{workdir} has no {key} with an interval; train it with the present configs/m4_people.py."
            )
        found[key] = Interval(own["metrics"][metric], *ends)
    return found


def _of_audit(path: Path) -> dict[str, dict[str, Interval]]:
    audit = read_object(path, advice="run the ablation again")
    version = audit["settings"]["version"]
    if version != VERSION:
        raise ValueError(
            f"{path} is of version {version}, not {VERSION}; remove it, and audit again."
        )
    names = [model["name"] for model in audit["models"]]
    if names != list(AUDITED):
        raise ValueError(f"{path} is of the models {names}; expected {list(AUDITED)}; remove it.")
    numbers = {
        f"{_evaluator(suite['name'], part['name'])}/{number['key']}": number
        for suite in audit["suites"]
        for part in suite["parts"]
        for number in part["numbers"]
    }
    missing = sorted(NUMBERS.keys() - numbers.keys())
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; remove it, and audit again.")
    return {
        name: {key: _difference(numbers[key]["contrasts"][i], path, key) for key in NUMBERS}
        for i, name in enumerate(names[1:])
    }


def _difference(contrast: Mapping[str, Any], path: Path, key: str) -> Interval:
    if contrast["value"] is None or contrast["low"] is None:
        raise ValueError(f"{path} has no interval for {key}: {contrast['note']}.")
    return Interval(contrast["value"], contrast["low"], contrast["high"], contrast["corrected"])


def _evaluator(suite: str, part: str) -> str:
    """A part by the name that its evaluator has in a run."""
    return suite if part == "all" else f"{suite}_{part}"
