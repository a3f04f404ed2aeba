"""Selects the curves and numbers of the report."""

from collections.abc import Mapping
from typing import Any

from bias_clip.core.formatting import format_unit, spaced
from bias_clip.evals.headlines import describe, find_metric
from bias_clip.evals.metrics import Metric, family_of
from bias_clip.report.plots import Chart, line_chart, sparkline
from bias_clip.report.run_read import Curve, Run, curve
from bias_clip.report.run_tiles import interval_of

AXES = ("step", "examples", "seconds")
SHARE: dict[str, Any] = {"form": "share", "zero": True}
UNITS = {  # of a chart, in words
    "share": "share, %",
    "points": "percentage points",
    "signed points": "percentage points",
    "nats": "nats",
    "cosine": "cosine similarity",
}
MOST_LINES = 6  # a chart has so many colours

# title, unit, {key in metrics.jsonl: label}, form of the axis
TRAIN_CHARTS: tuple[tuple[str, str, dict[str, str], dict], ...] = (
    ("Loss", "per image", {"train/loss": "loss"}, {}),
    (
        "Accuracy within the batch",
        "share of the batch, %",
        {"train/acc_img": "image finds text", "train/acc_txt": "text finds image"},
        SHARE,
    ),
    (
        "Logits",
        "cosine times scale, plus bias",
        {
            "train/logit_pos": "positives",
            "train/logit_neg": "negatives",
            "train/logit_pos_min": "weakest positive",
            "train/logit_neg_max": "strongest negative",
        },
        {},
    ),
    ("Scale", "factor of the cosine", {"train/scale": "scale"}, {}),
    ("Bias", "added to every logit", {"train/bias": "bias"}, {}),
    ("Learning rate", "step size", {"lr": "learning rate"}, {"zero": True}),
    ("Throughput", "examples per second", {"examples_per_second": "throughput"}, {"zero": True}),
    ("Waiting for input", "share of time, %", {"input_wait": "waiting"}, SHARE),
    ("Utilisation", "share of peak FLOP/s, %", {"mfu": "MFU"}, SHARE),
    (
        "Skipped steps",
        "bad loss or gradient",
        {
            "train/skipped": "this step",
            "train/skipped_in_row": "in a row",
            "train/skipped_total": "in all",
        },
        {"zero": True},
    ),
    ("Time in training steps", "share of time, %", {"goodput": "steps"}, SHARE),
    ("Gradient norm", "all parameters", {"train/grad_norm": "norm"}, {"zero": True}),
    ("Parameter norm", "all parameters", {"train/param_norm": "norm"}, {}),
)


def train_charts(rows: list[dict]) -> list[Chart]:
    """The charts of TRAIN_CHARTS that have data, then one for every other signal that was logged."""
    charts = _charts(rows, TRAIN_CHARTS)
    known = {*AXES}.union(*(keys for _, _, keys, _ in TRAIN_CHARTS))
    # Sorted, so that the page does not depend on the order in which signals were first logged.
    # Where the time went is a list in the head of the page, in which the parts have their names.
    apart = ("eval/", "goodput/")
    others = sorted({key for row in rows for key in row if not key.startswith(apart)} - known)
    terms = {key: spaced(key[11:]) for key in others if key.startswith("train/term_")}
    if len(terms) > 1:  # a single one is the loss itself
        charts += _charts(rows, (("Terms of the loss", "per image", terms, {}),))
    for key in others:
        if key not in terms:
            name = spaced(key.removeprefix("train/"))
            charts += _charts(rows, ((name.capitalize(), "", {key: name}, {}),))
    return charts


def eval_charts(run: Run) -> list[Chart]:
    """The charts of each evaluator, from its description; no chart has more lines than colours."""
    charts = []
    for name, record in run.evals.items():
        metrics = {key: find_metric(key, record["details"]) for key in sorted_keys(record)}
        titles = dict.fromkeys(m.chart for m in metrics.values() if m.chart is not None)
        for title in titles:
            drawn = {key: metric for key, metric in metrics.items() if metric.chart == title}
            # A family of many groups stays in the table: lines of equal colours could not be told apart.
            if len(drawn) <= MOST_LINES:
                charts.append(_eval_chart(run.rows, name, title, drawn))
    return [chart for chart in charts if chart]


def metric_table(run: Run) -> list[dict]:
    """All final metrics: one group per evaluator, one row (name, value, course) per metric."""
    groups = []
    for name, record in run.evals.items():
        rows = []
        for key in sorted_keys(record):
            value = record["metrics"][key]
            metric = find_metric(key, record["details"])
            values = curve(run.rows, f"eval/{name}/{key}").y.tolist()
            # A constant has no course worth a line.
            course = sparkline(values) if len(set(values)) > 1 else ""
            shown = interval_of(key, metric.unit, record["details"])
            text = f"{format_unit(value, metric.unit)} {shown}".rstrip()
            rows.append({"name": metric.name, "value": text, "course": course})
        groups.append({"name": spaced(name), "step": record.get("step"), "rows": rows})
    return groups


def sorted_keys(record: Mapping) -> list[str]:
    """The metrics of an evaluator in the order of its description, unknown ones last."""
    described = describe(record["details"]).metrics
    place = {family: i for i, family in enumerate(described)}
    found = {key: family_of(key, described) for key in record["metrics"]}
    return sorted(found, key=lambda key: place[family[0]] if (family := found[key]) else len(place))


def _eval_chart(
    rows: list[dict], evaluator: str, title: str, drawn: Mapping[str, Metric]
) -> Chart | None:
    curves: dict[str, Curve] = {}
    for key, metric in drawn.items():
        curves[metric.label] = curve(rows, f"eval/{evaluator}/{key}")
    chances = [m.chance for m in drawn.values() if m.chance is not None]
    if chances:  # of the first line; those of the others are close to it or stand in the table
        curves["chance"] = curve(rows, f"eval/{evaluator}/{chances[0]}")
    unit = next(iter(drawn.values())).unit
    return line_chart(
        f"{spaced(evaluator)}: {title}" if title else spaced(evaluator),
        curves,
        unit=UNITS.get(unit, ""),
        form=unit,
        zero=unit in ("share", "points", "nats"),
        dashed=("chance",),
    )


def _charts(rows: list[dict], table: tuple) -> list[Chart]:
    charts = []
    for title, unit, keys, form in table:
        curves = {label: curve(rows, key) for key, label in keys.items()}
        charts.append(line_chart(title, curves, unit=unit, **form))
    return [chart for chart in charts if chart]
