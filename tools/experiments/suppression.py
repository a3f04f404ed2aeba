"""Feature suppression: stages (MCL) against other uses of as much training; tables and a figure.

    python -m tools.experiments.suppression --workdir=runs/suppressed --out docs/suppressed --jobs 2

For each seed it runs `configs/suppressed.py` as three stages, each within the cells of earlier stages. The later
stages start from the weights of stage 0, as in the authors' code, and again from new weights. It also runs one job
three times as long, and two more plain runs, which together with stage 0 are three independent runs. `--concat raw`
joins several runs. After an interruption, repeat the same command: finished runs are kept. Needs `pip install -e ".[train,experiments]"`.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bias_clip.cli.shared.flags import Parser

if TYPE_CHECKING:
    from bias_clip.cli.sweep import Run

CONFIG = "configs/suppressed.py"
STAGES = 3
EXAMPLES = 40_000  # of a stage, as in the config
FACTORS = {"name": "drawing", "top": "upper colour", "bottom": "lower colour"}
SETS = {"test": "known styles", "style": "unseen style"}
ROWS = {  # evaluated runs to their name in the table
    "base 0": "stage 0, a plain run",
    "base 0-1": "stages 0 and 1",
    "base 0-2": "stages 0 to 2",
    "base 1": "stage 1 alone",
    "base 2": "stage 2 alone",
    "scratch 0-1": "stages 0 and 1, from new weights",
    "scratch 0-2": "stages 0 to 2, from new weights",
    "long": "one run, three times as long",
    "plain 0-1": "two plain runs",
    "plain 0-2": "three plain runs",
}


def main() -> None:
    """Trains, evaluates, reports."""
    args = make_parser().parse_args()
    from bias_clip.cli.sweep import run_all

    workdir = args.workdir.resolve()
    try:
        run_all(
            [run for seed in range(args.seeds) for run in plan(workdir, seed, args.k)], args.jobs
        )
        found = {name: [judge(workdir, name, seed) for seed in range(args.seeds)] for name in ROWS}
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    out = args.out or workdir
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    text = "\n".join(make_table(found)) + "\n"
    (out / "results.md").write_text(text)
    plot(found, out / "suppressed.png")
    print(text)


def make_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder of tables and figure (the workdir)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--k", type=int, default=10, help="clusters of a stage")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    return parser


def plan(workdir: Path, seed: int, k: int) -> Iterator["Run"]:
    """Yields the runs of a seed."""
    from bias_clip.cli.sweep import Run

    for init in ("base", "scratch"):
        own = workdir / f"{init}_{seed}"
        command = [
            sys.executable,
            "-m",
            "bias_clip.cli.multistage",
            f"--config={CONFIG}",
            f"--workdir={own}",
        ]
        command += ["--stages", str(STAGES), "--k", str(k), "--seed", str(seed), "--init", init]
        yield Run(init, command, own, last="manifest.json")
    yield _train("long", workdir / f"long_{seed}", seed, examples=STAGES * EXAMPLES)
    for other in range(1, STAGES):
        yield _train("plain", workdir / f"plain{other}_{seed}", 100 * other + seed)


def judge(workdir: Path, name: str, seed: int) -> dict[str, float]:
    """Returns the metrics of a row of the table, by "evaluator/metric".

    Raises:
      ValueError: a run is missing.
    """
    from bias_clip.cli.shared.commands import write_json
    from bias_clip.cli.shared.evaluate_run import evaluate_stages
    from bias_clip.train.evaluation import flat_metrics
    from bias_clip.train.workdir.load_model import load_models

    path = workdir / "judged" / f"{name.replace(' ', '_')}_{seed}.json"
    if not path.exists():
        results = evaluate_stages(load_models(runs_of(workdir, name, seed)), form="raw")
        path.parent.mkdir(exist_ok=True)
        write_json(path, flat_metrics(results))
    return json.loads(path.read_text())


def runs_of(workdir: Path, name: str, seed: int) -> list[Path]:
    """The workdirs of the runs that form a row of the table."""
    if name == "long":
        return [workdir / f"long_{seed}"]
    what, number = name.split()
    if what == "plain":
        later = [workdir / f"plain{j}_{seed}" for j in range(1, STAGES)]
        runs = [workdir / f"base_{seed}" / "stage0" / "run", *later]
    else:
        runs = [workdir / f"{what}_{seed}" / f"stage{j}" / "run" for j in range(STAGES)]
    first, _, last = number.partition("-")
    return runs[int(first) : int(last or first) + 1]


def make_table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Returns the lines of a Markdown table: mean and deviation over seeds, in percent."""
    columns = [f"{FACTORS[f]}, {SETS[s]}" for s in SETS for f in FACTORS]
    lines = [f"| read from the embeddings, % | {' | '.join(columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, runs in found.items():
        values = [[100 * run[f"eval/{s}/acc1_{f}"] for run in runs] for s in SETS for f in FACTORS]
        lines.append(f"| {ROWS[name]} | {' | '.join(map(_cell, values))} |")
    chances = [100 * found["base 0"][0][f"eval/{s}/chance_{f}"] for s in SETS for f in FACTORS]
    return [*lines, f"| the most frequent | {' | '.join(f'{c:.1f}' for c in chances)} |"]


def plot(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Plots the accuracy of the emoji and of the colours by training spent, with a dot per seed."""
    import matplotlib.pyplot as plt

    lines = {
        "stages": ["base 0", "base 0-1", "base 0-2"],
        "stages, new weights": ["base 0", "scratch 0-1", "scratch 0-2"],
        "plain runs": ["base 0", "plain 0-1", "plain 0-2"],
    }
    panels = [
        ("drawing", ["name"], "test"),
        ("drawing, unseen style", ["name"], "style"),
        ("colours", ["top", "bottom"], "test"),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(11.5, 3.2), layout="constrained")
    for axis, (title, factors, test) in zip(axes, panels, strict=True):

        def accuracy(name, factors=factors, test=test):
            keys = [f"eval/{test}/acc1_{factor}" for factor in factors]
            return [100 * statistics.mean(run[key] for key in keys) for run in found[name]]

        for colour, (label, names) in enumerate(lines.items()):
            values = [accuracy(name) for name in names]
            means = [statistics.mean(v) for v in values]
            axis.plot(range(1, STAGES + 1), means, "-", color=f"C{colour}", label=label)
            for x, own in enumerate(values, 1):
                axis.plot([x] * len(own), own, "o", color=f"C{colour}", ms=4)
        own = accuracy("long")
        axis.plot([STAGES], [statistics.mean(own)], "_", color="C3", ms=18, mew=2)
        axis.plot([STAGES] * len(own), own, "o", color="C3", ms=4, label="one longer run")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(1, STAGES + 1))
        axis.set_xlabel(f"training, {EXAMPLES:,} examples each")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("right, linear probe (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _train(name: str, own: Path, seed: int, examples: int = EXAMPLES) -> "Run":
    from bias_clip.cli.sweep import Run

    command = [sys.executable, "-m", "bias_clip.train", f"--config={CONFIG}", f"--workdir={own}"]
    command += [f"--config.seed={seed}", f"--config.total={examples} examples"]
    return Run(name, command, own)


def _cell(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
