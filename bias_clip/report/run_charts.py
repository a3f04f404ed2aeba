"""Which curves and numbers the report shows."""

import re
from collections.abc import Mapping
from typing import Any

from bias_clip.core.formatting import format_number, format_percent
from bias_clip.report.metric_names import is_share, metric_name, spaced
from bias_clip.report.plots import Chart, line_chart, sparkline
from bias_clip.report.run_read import Run, curve

AXES = ("step", "examples", "seconds")
SHARE: dict[str, Any] = {"percent": True, "zero": True}
ZERO: dict[str, Any] = {"zero": True}

# title, unit, {key in metrics.jsonl: label}, form of the axis
TRAIN_CHARTS: tuple[tuple[str, str, dict[str, str], dict], ...] = (
    ("Loss", "per picture", {"train/loss": "loss"}, {}),
    (
        "Accuracy within the batch",
        "share of the batch",
        {"train/acc_img": "picture finds text", "train/acc_txt": "text finds picture"},
        SHARE,
    ),
    (
        "Logits",
        "cosine times scale, plus bias",
        {
            "train/logit_pos": "pairs",
            "train/logit_neg": "non-pairs",
            "train/logit_pos_min": "weakest pair",
            "train/logit_neg_max": "strongest non-pair",
        },
        {},
    ),
    ("Scale", "factor of the cosine", {"train/scale": "scale"}, {}),
    ("Bias", "added to every logit", {"train/bias": "bias"}, {}),
    ("Learning rate", "step size", {"lr": "learning rate"}, {"zero": True}),
    ("Throughput", "examples per second", {"examples_per_second": "throughput"}, {"zero": True}),
    ("Waiting for input", "share of time", {"input_wait": "waiting"}, SHARE),
    ("Utilisation", "share of peak FLOP/s", {"mfu": "MFU"}, SHARE),
    ("Norm of the gradient", "all parameters", {"train/grad_norm": "norm"}, {"zero": True}),
    ("Norm of the parameters", "all of them", {"train/param_norm": "norm"}, {}),
)

# by kind of evaluator: what follows its name in the title, unit, {metric: label}, form of the axis
EVAL_CHARTS: dict[str, tuple[tuple[str, str, dict[str, str], dict], ...]] = {
    "zeroshot": (
        (
            "",
            "share of pictures",
            {"acc5": "top-5", "acc1": "top-1", "map": "mAP", "chance": "chance"},
            SHARE,
        ),
    ),
    "retrieval": (
        (
            ": text to picture",
            "recall",
            {"t2i_r10": "R@10", "t2i_r5": "R@5", "t2i_r1": "R@1", "t2i_r1_chance": "chance"},
            SHARE,
        ),
        (
            ": picture to text",
            "recall",
            {"i2t_r10": "R@10", "i2t_r5": "R@5", "i2t_r1": "R@1", "i2t_r1_chance": "chance"},
            SHARE,
        ),
    ),
    "bias": (
        (
            ": preference",
            "for the second group",
            {
                "preference": "in a role",
                "preference_plain": "no role named",
                "preference_objects": "nobody shown",
            },
            SHARE,
        ),
        (
            ": gap",
            "between the groups",
            {"association_mean": "mean gap", "association_chance": "chance"},
            SHARE,
        ),
        (
            ": recognition",
            "share of pictures",
            {"recognition": "group", "association_recall": "role"},
            SHARE,
        ),
    ),
    "contrastive": (
        (": loss", "per pair", {"loss": "loss"}, {}),
        (
            ": batches",
            "share of pairs",
            {"acc_img": "picture finds text", "acc_txt": "text finds picture", "chance": "chance"},
            SHARE,
        ),
    ),
    "probe": (
        (
            "",
            "share of pictures",
            {"acc1": "accuracy", "class_recall": "mean recall", "chance": "chance"},
            SHARE,
        ),
    ),
    "groups": (
        (
            ": accuracy",
            "share of pictures",
            {"acc": "all", "acc_mean": "mean over groups", "acc_worst": "worst group"},
            SHARE,
        ),
    ),
    "parity": (
        (
            ": gap",
            "between the groups",
            {"parity_max": "largest", "parity_mean": "mean over words"},
            SHARE,
        ),
    ),
    "representation": (
        (
            ": preference",
            "for the second group",
            {"preference": "share", "preference_probability": "mean probability"},
            SHARE,
        ),
    ),
    "association": (
        (
            ": gap",
            "between the groups",
            {"pairs_max": "largest", "pairs_mean": "mean over pairs"},
            SHARE,
        ),
    ),
}

# by kind: the same for metrics whose names hold a group or a cut-off, by pattern; label from its group
PATTERN_CHARTS: dict[str, tuple[tuple[str, str, str, str, dict], ...]] = {
    "groups": ((": each group", "share of pictures", r"acc_of_(.*)", "{}", SHARE),),
    "skew": (
        (": max skew", "nats, equal shares wanted", r"maxskew_uniform_(\d+)", "first {}", ZERO),
        (": NDKL", "nats, equal shares wanted", r"ndkl_uniform_(\d+)", "first {}", ZERO),
    ),
}
MOST_LINES = 6  # a chart has so many colours


def train_charts(rows: list[dict]) -> list[Chart]:
    """The charts of TRAIN_CHARTS that have data, then one for every other signal that was logged."""
    charts = _charts(rows, "", TRAIN_CHARTS)
    known = {*AXES}.union(*(keys for _, _, keys, _ in TRAIN_CHARTS))
    others = sorted({key for row in rows for key in row if not key.startswith("eval/")} - known)
    terms = {key: spaced(key[11:]) for key in others if key.startswith("train/term_")}
    if len(terms) > 1:  # a single one is the loss itself
        charts += _charts(rows, "", (("Terms of the loss", "per picture", terms, {}),))
    for key in others:
        if key not in terms:
            name = spaced(key.removeprefix("train/"))
            charts += _charts(rows, "", ((name.capitalize(), "", {key: name}, {}),))
    return charts


def eval_charts(run: Run) -> list[Chart]:
    """How the main metrics of each evaluator went over training."""
    charts = []
    for name, record in run.evals.items():
        kind = record["details"].get("kind")
        table = (*EVAL_CHARTS.get(kind, ()), *_by_pattern(kind, record["metrics"]))
        titled = tuple(
            (f"{spaced(name)}{part}", _named(unit, record["details"]), *rest)
            for part, unit, *rest in table
        )
        charts += _charts(run.rows, f"eval/{name}/", titled)
    return charts


def metric_table(run: Run) -> list[dict]:
    """All final metrics: a group for each evaluator, a row (name, value, course) for each metric."""
    groups = []
    for name, record in run.evals.items():
        rows, kind = [], record["details"].get("kind")
        for metric, value in record["metrics"].items():
            spell = format_percent if is_share(metric) else format_number
            values = curve(run.rows, f"eval/{name}/{metric}").y.tolist()
            course = sparkline(values) if len(set(values)) > 1 else ""
            words = _named(metric_name(metric, kind), record["details"])
            rows.append({"name": words, "value": spell(value), "course": course})
        groups.append({"name": spaced(name), "step": record.get("step"), "rows": rows})
    return groups


def _by_pattern(kind: str | None, metrics: Mapping) -> tuple[tuple[str, str, dict, dict], ...]:
    """The charts of PATTERN_CHARTS, with the metrics that there are; none of too many lines."""
    charts = []
    for title, unit, pattern, label, form in PATTERN_CHARTS.get(kind or "", ()):
        found = {metric: re.fullmatch(pattern, metric) for metric in metrics}
        keys = {metric: label.format(match[1]) for metric, match in found.items() if match}
        charts += [(title, unit, keys, form)] if len(keys) <= MOST_LINES else []
    return tuple(charts)


def _named(text: str, details: Mapping) -> str:
    """The text with the name of the second group, where the evaluator has groups."""
    groups = details.get("groups")
    return text.replace("the second group", f"“{groups[1]}”") if groups else text


def _charts(rows: list[dict], prefix: str, table: tuple | Mapping) -> list[Chart]:
    charts = []
    for title, unit, keys, form in table:
        curves = {label: curve(rows, prefix + key) for key, label in keys.items()}
        charts.append(line_chart(title, curves, unit=unit, dashed=("chance",), **form))
    return [chart for chart in charts if chart]
