"""The results of the M4 ablation: tables, paired tests and figures from its finished runs.

`tools/experiments/m4_ablation.py` calls it. It reads the results of the runs' evaluators and of the audits, and
computes only means, deviations and Wilcoxon's signed-rank test on pairs of runs with the same loss and seed.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bias_clip.cli.compare import Group, read_group
from bias_clip.evals.audit import to_json
from tools.experiments.m4_suites import (
    AUDITED,
    NUMBERS,
    difference_table,
    read_differences,
    read_values,
    value_table,
)

LOSSES = {"siglip": "SigLIP", "clip": "CLIP"}
METRICS = {  # evaluator/metric to its name in the tables
    "known/representation": "RB, roles",
    "known/representation_objects": "RB, objects",
    "known/association_mean": "AB, recognition",
    "known/stereotype_preference": "stereotype, preference",
    "known/stereotype_gap": "stereotype, recognition",
    "known/recognition": "gender recognised",
    "style_bias/representation": "RB, unseen style",
    "style_bias/stereotype_preference": "stereotype, unseen style",
    "style_concept/acc1": "concept, first",
    "style/acc5": "name, in five",
    "images_concept/acc1": "concept, held-out images",
    "retrieval/i2t_r5": "caption for image, in five",
    "retrieval/t2i_r5": "image for caption, in five",
}
BIAS, QUALITY = list(METRICS)[:8], list(METRICS)[8:]
PAIRS = (  # (question, one variant, the other, metrics)
    ("balanced - plain", "balanced,100", "plain,0", list(METRICS)),
    ("balanced - random part", "balanced,100", "random,100", list(METRICS)),
    ("with proxies - balanced", "proxies,100", "balanced,100", BIAS),
    ("balanced for 90 %, then plain - plain", "balanced,90", "plain,0", BIAS),
    ("balanced for 10 %, then plain - plain", "balanced,10", "plain,0", BIAS),
    ("plain for 90 %, then balanced - plain", "balanced_last,90", "plain,0", BIAS),
    ("plain for 90 %, then balanced - balanced", "balanced_last,90", "balanced,100", BIAS),
)


class Difference(NamedTuple):
    """A paired comparison: mean difference, number of pairs, two-sided p of Wilcoxon's test."""

    mean: float
    pairs: int
    p: float


def write_report(workdir: Path, variants: Sequence[str], seeds: int, out: Path) -> str:
    """Writes results.json, results.md and the figures to `out`; returns the text.

    Args:
      workdir: folder of the sweep, with a run `<variant>_<seed>` each, and `audits`.
      variants: "loss,data,percent".
      seeds: number of runs per variant.
      out: output folder, made if it is missing.

    Raises:
      ValueError: a run is not finished, runs measured different metrics, or an audit lacks a number.
    """
    groups = {v: read_group([workdir / f"{v}_{s}" for s in range(seeds)]) for v in variants}
    gaps = {v: _role_gaps([workdir / f"{v}_{s}" for s in range(seeds)]) for v in variants}
    out.mkdir(parents=True, exist_ok=True)
    values = {loss: read_values(workdir, loss, seeds) for loss in LOSSES}
    changes = {loss: read_differences(workdir, loss, seeds) for loss in LOSSES}
    found = {
        name: {"runs": {v: group[name] for v, group in groups.items()}, "called": called}
        for name, called in METRICS.items()
    }
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    suites = {"values": values, "minus_plain": changes}
    (out / "suites.json").write_text(json.dumps(to_json(suites), indent=1) + "\n")
    lines = [line for loss in LOSSES for line in (*_table(groups, loss), "")] + _tests(groups)
    for loss, called in LOSSES.items():
        lines += ["", *value_table(values[loss], called)]
        lines += ["", *difference_table(changes[loss], called)]
    text = "\n".join(lines) + "\n"
    (out / "results.md").write_text(text)
    _plot_stages(groups, out / "stages.png")
    _plot_quality(groups, out / "quality.png")
    _plot_roles(gaps, out / "roles.png")
    return text


def difference(groups: Mapping[str, Group], one: str, other: str, metric: str) -> Difference:
    """Compares two variants over all losses and seeds, in pairs of runs.

    Raises:
      ValueError: a metric without a value in some run.
    """
    from scipy.stats import wilcoxon

    pairs = [
        (a, b)
        for loss in LOSSES
        for a, b in zip(
            groups[f"{loss},{one}"][metric], groups[f"{loss},{other}"][metric], strict=True
        )
    ]
    if any(value is None for pair in pairs for value in pair):
        raise ValueError(f"{metric} has no value in some run of {one} or {other}.")
    differences = [a - b for a, b in pairs]
    p = float(wilcoxon(differences).pvalue) if any(differences) else 1.0
    return Difference(statistics.mean(differences), len(pairs), p)


def _table(groups: Mapping[str, Group], loss: str) -> list[str]:
    lines = [f"| {LOSSES[loss]}, % | {' | '.join(METRICS.values())} |"]
    lines.append("|---" * (len(METRICS) + 1) + "|")
    for name, group in groups.items():
        if name.startswith(f"{loss},"):
            cells = [_cell(group[metric]) for metric in METRICS]
            lines.append(f"| {_called(name)} | {' | '.join(cells)} |")
    return lines


def _tests(groups: Mapping[str, Group]) -> list[str]:
    lines = ["| difference, points | metric | mean | pairs | p |", "|---|---|---|---|---|"]
    for called, one, other, metrics in PAIRS:
        for metric in metrics:
            d = difference(groups, one, other, metric)
            row = f"| {called} | {METRICS[metric]} | {100 * d.mean:+.1f} | {d.pairs} | {d.p:.3f} |"
            lines.append(row)
    return lines + _suite_tests(groups)


def _suite_tests(groups: Mapping[str, Group]) -> list[str]:
    (plain_name, plain), *others = AUDITED.items()
    lines = []
    for called, variant in others:
        for metric, (name, factor, digits) in NUMBERS.items():
            d = difference(groups, variant, plain, metric)
            mean = f"{factor * d.mean:+.{digits}f}"
            lines.append(f"| {called} - {plain_name} | {name} | {mean} | {d.pairs} | {d.p:.3f} |")
    return lines


def _called(variant: str) -> str:
    """ "siglip,balanced,90" is "balanced for 90 %, then plain"."""
    _, data, percent = variant.split(",")
    name = {"random": "random part", "proxies": "balanced with proxies"}.get(data, data)
    if data == "balanced_last":
        return f"plain for {percent} %, then balanced"
    return name if percent in ("0", "100") else f"{name} for {percent} %, then plain"


def _cell(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _role_gaps(workdirs: Sequence[Path]) -> dict[str, float]:
    """Per role, how much better men are recognised in it than women, as a mean over runs."""
    found: dict[str, list[float]] = {}
    for workdir in workdirs:
        details = json.loads((workdir / "evals" / "known.json").read_text())["details"]
        for concept in details["concepts"]:
            if concept["gap"] is not None:
                found.setdefault(concept["name"], []).append(concept["gap"])
    return {name: statistics.mean(values) for name, values in found.items()}


def _plot_stages(groups: Mapping[str, Group], path: Path) -> None:
    """RB and AB by the length of the first phase, with a line per variant and a dot per run."""
    import matplotlib.pyplot as plt

    shown = [f"known/{m}" for m in ("representation", "association_mean")]
    shown += [f"known/{m}" for m in ("stereotype_gap", "stereotype_preference")]
    figure, panels = plt.subplots(2, 4, figsize=(13, 6), sharex=True, layout="constrained")
    for row, loss in zip(panels, LOSSES, strict=True):
        for panel, metric in zip(row, shown, strict=True):
            for i, data in enumerate(("random", "balanced", "proxies")):
                names = [f"{loss},plain,0", *(f"{loss},{data},{s}" for s in (10, 90, 100))]
                cells = [[100 * x for x in groups[name][metric]] for name in names]
                means = [statistics.mean(cell) for cell in cells]
                panel.plot(range(4), means, color=f"C{i}", label=_called(f",{data},100"))
                for place, cell in enumerate(cells):
                    panel.plot([place + 0.06 * (i - 1)] * len(cell), cell, ".", color=f"C{i}")
            panel.set_title(f"{LOSSES[loss]}: {METRICS[metric]}, points", fontsize=9)
            panel.set_xticks(range(4), ["0 %", "10 %", "90 %", "100 %"])
            panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[1]:
        panel.set_xlabel("first phase, before the plain data")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_quality(groups: Mapping[str, Group], path: Path) -> None:
    """Changes of quality against the plain data, over all losses and seeds, with a bar per metric."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for i, data in enumerate(("random", "balanced", "proxies")):
        found = [difference(groups, f"{data},100", "plain,0", metric) for metric in QUALITY]
        places = [j + 0.25 * (i - 1) for j in range(len(QUALITY))]
        axes.bar(places, [100 * d.mean for d in found], 0.23, label=_called(f",{data},100"))
        for place, metric in zip(places, QUALITY, strict=True):
            for loss in LOSSES:
                one, base = groups[f"{loss},{data},100"][metric], groups[f"{loss},plain,0"][metric]
                points = [100 * (a - b) for a, b in zip(one, base, strict=True)]
                axes.plot([place] * len(points), points, ".k", markersize=4)
    axes.axhline(0, color="k", lw=0.8)
    axes.set_xticks(range(len(QUALITY)), [METRICS[m] for m in QUALITY], fontsize=8)
    axes.set_ylabel("change against the plain data, points")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_roles(gaps: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A heat map of the recognition gap, man minus woman, by role and variant."""
    import matplotlib.pyplot as plt

    variants = [v for v in gaps if v.split(",")[2] in ("0", "100")]
    roles = sorted(gaps[variants[0]], key=lambda role: gaps[variants[0]][role])
    cells = [[100 * gaps[v].get(role, float("nan")) for role in roles] for v in variants]
    figure, axes = plt.subplots(figsize=(11, 4.5), layout="constrained")
    image = axes.imshow(cells, cmap="RdBu", vmin=-100, vmax=100, aspect="auto")
    axes.set_xticks(range(len(roles)), roles, rotation=60, ha="right", fontsize=7)
    called = [f"{LOSSES[v.split(',')[0]]}: {_called(v)}" for v in variants]
    axes.set_yticks(range(len(variants)), called, fontsize=8)
    figure.colorbar(image, label="recognised better, points: women (-), men (+)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
