"""Averages the weights of two models and measures each average: quality against bias, as a curve.

    bias-clip interpolate --workdir hf://owner/base runs/tuned --weights 0 0.25 0.5 0.75 1 \\
        --config my_evals.py --plot curve.html

Both are runs or published checkpoints of one architecture, such as a checkpoint and its fine-tuned form.
At mixing weight w each parameter is (1 - w) * first + w * second, the logarithm of the scale too. All
are measured with the preprocessing and tokenizer of the first, which must be those of the second, by
the evaluators of --config, or else by those of the second. Nothing is written to either.

The curve is of the first headline of quality and the first of bias, unless --quality and --bias name
others as "evaluator/metric". After Wortsman et al., Robust fine-tuning of zero-shot models, 2022.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_clip.cli.compare import check_page
from bias_clip.cli.shared.flags import (
    Parser,
    add_json,
    add_workdirs,
    print_notes,
    read_changes,
    run_tool,
    show,
)
from bias_clip.core.write import write_file

if TYPE_CHECKING:
    from bias_clip.evals.results import EvalResult

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, averages, measures, prints, and draws the page."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Measures the averages of the command line.

    Raises:
      ValueError: not two models, weights outside of 0 to 1, models that differ in more than parameters,
        no evaluators, or a metric that none of them has.
    """
    from bias_clip.cli.shared.evaluate_run import evaluate_stages
    from bias_clip.cli.shared.mixture import mix
    from bias_clip.report.comparison import markdown_table, sorted_keys, table_rows
    from bias_clip.report.tradeoff import render_tradeoff, tradeoff_chart
    from bias_clip.train.workdir.load_model import load_models

    # Before models are loaded and measured.
    check_page(args.plot)
    _check(args)
    first, second = models = load_models(args.workdir, args.step, changes=read_changes(args.set))
    print_notes(models, to_stderr=args.json == "-")
    measured: dict[str, dict[str, float]] = {}
    results: Mapping[str, EvalResult] = {}
    for weight in args.weights:
        mixed = mix(first, second, weight)
        results = evaluate_stages([mixed], form="raw", evaluators=args.config)
        # Keys as the user wrote them: 0.25 and not 0.2500.
        measured[f"{weight:g}"] = _flat(results)
    details = {name: result.details for name, result in results.items()}
    keys = sorted_keys(list(next(iter(measured.values()))), details)
    groups = {name: {key: [x] for key, x in values.items()} for name, values in measured.items()}
    show("\n".join(markdown_table(groups, keys, details)), measured, args.json)
    if args.plot is None:
        return
    quality, bias = (
        args.quality or _first(results, bias=False),
        args.bias or _first(results, bias=True),
    )
    for key in filter(None, (quality, bias)):
        if key not in keys:
            raise ValueError(f"there is no metric {key!r}; expected one of {keys}.")
    chart = None
    if quality and bias:
        chart = tradeoff_chart(measured, quality=quality, bias=bias, details=details)
    rows = table_rows(groups, keys, details)
    page = render_tradeoff(chart, names=args.workdir, head=["metric", *measured], rows=rows)
    write_file(args.plot, page)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_workdirs(parser)
    add(
        "--weights", nargs="+", type=float, default=WEIGHTS, metavar="W", help="of the second model"
    )
    add("--config", type=Path, metavar="FILE", help="whose evaluators are used")
    add("--quality", metavar="EVALUATOR/METRIC", help="of the curve, upwards")
    add("--bias", metavar="EVALUATOR/METRIC", help="of the curve, to the right")
    add("--plot", type=Path, metavar="FILE.html", help="the page with the curve and all numbers")
    add_json(parser)
    return parser


def _check(args: argparse.Namespace) -> None:
    if len(args.workdir) != 2:
        raise ValueError(f"got {len(args.workdir)} paths after --workdir; expected two models.")
    outside = [weight for weight in args.weights if not 0 <= weight <= 1]
    # Equal weights would be one column of the table.
    if outside or len(set(args.weights)) < len(args.weights):
        raise ValueError(f"got --weights {args.weights}; expected different numbers from 0 to 1.")


def _flat(results: Mapping[str, "EvalResult"]) -> dict[str, float]:
    return {
        f"{name}/{metric}": value
        for name, result in results.items()
        for metric, value in result.metrics.items()
    }


def _first(results: Mapping[str, "EvalResult"], *, bias: bool) -> str | None:
    """The first headline whose evaluator measures bias, or the first of one that measures quality."""
    from bias_clip.evals.headlines import by_importance, describe, headline_metrics

    for name in by_importance(results):
        topic: Any = describe(results[name].details).topic
        # Numbers of the data or of a batch are of no use as an axis.
        if (topic == "bias") == bias and topic not in ("data", "health"):
            for key in headline_metrics(results[name]):
                return f"{name}/{key}"
    return None


if __name__ == "__main__":
    main()
