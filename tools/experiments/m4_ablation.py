"""The ablation of M4 on the emoji of people: annotates, solves, trains the grid, audits, writes the report.

    python -m tools.experiments.m4_ablation --jobs 2 --out docs/m4

The grid is {no balancing, a random part of the data, balanced, balanced with proxies} x {10, 90, 100 % of the
training on it, before the plain data} x {SigLIP, CLIP} x seeds, and the plain data before the balanced. Runs of
`configs/m4_people.py` are under runs/m4_people and take a minute or two each. After an interruption, repeat the
same command: finished runs are kept. Needs `pip install -e ".[experiments]"`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from bias_clip.cli.shared.flags import Parser

CONFIG = "configs/m4_people.py"
SHARES = (10, 90, 100)
LAST = 90  # percent of the plain data, in the runs that begin with them
BALANCED = ("--eta", "max", "--min-per-side", "3")


def main() -> None:
    """Prepares, trains, audits, reports."""
    args = make_parser().parse_args()
    from bias_clip.cli.sweep import plan, run_all
    from configs.m4_people import TABLES
    from tools.experiments.m4_report import write_report

    workdir = Path(TABLES).resolve()
    try:
        make_tables(workdir)
        configs = [f"{CONFIG}:{variant}" for variant in variants()]
        run_all(list(plan(configs, args.seeds, [], workdir)), args.jobs)
        audit_runs(workdir, args.seeds)
        print(write_report(workdir, variants(), args.seeds, args.out or workdir))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def make_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--out", type=Path, help="folder of tables and figures (runs/m4_people)")
    return parser


def variants() -> list[str]:
    """The grid as the config's arguments: "siglip,plain,0", "siglip,random,10", ..."""
    from configs.m4_people import LOSSES

    stages = ["plain,0", *(f"{d},{s}" for d in ("random", "balanced", "proxies") for s in SHARES)]
    stages.append(f"balanced_last,{LAST}")
    return [f"{loss},{stage}" for loss in LOSSES for stage in stages]


def make_tables(workdir: Path) -> None:
    """Annotates and solves, unless the tables of weights exist.

    Raises:
      RuntimeError: a tool failed; its message is above.
    """
    annotations = workdir / "annotations.parquet"
    _make("annotate", annotations, *annotate_flags())
    given = ("--annotations", str(annotations))
    _make("balance", workdir / "proxies.parquet", *given, *BALANCED)
    _make("balance", workdir / "balanced.parquet", *given, *BALANCED, "--no-proxies")
    eta = f"{_mean_weight(workdir / 'balanced.parquet'):.4f}"
    _make("balance", workdir / "random.parquet", *given, "--eps", "inf", "--eta", eta)


def audit_runs(workdir: Path, seeds: int) -> None:
    """Audits the runs that the report compares on the same images, unless the audits exist.

    Raises:
      RuntimeError: an audit failed; its message is above.
    """
    from configs.m4_people import LOSSES
    from tools.experiments.m4_suites import audit_flags

    for loss in LOSSES:
        for seed in range(seeds):
            out = workdir / "audits" / f"{loss}_{seed}"
            # What the tool writes last: without it the audit was interrupted.
            if not (out / "audit.tex").exists():
                _run("audit", "--out", str(out), *audit_flags(workdir, loss, seed))


def annotate_flags() -> list[str]:
    """Gender and role from the columns, so that matching errors do not affect the comparison."""
    from bias_clip.data.emoji.splits import MEN_ROLES, WOMEN_ROLES
    from bias_clip.data.sources import column, make_source
    from configs.m4_people import get_config

    arguments = get_config("siglip,plain,0").data.source.to_dict()
    concepts = column(make_source(**arguments), "concept").tolist()
    roles = ",".join(sorted((MEN_ROLES | WOMEN_ROLES).intersection(concepts)))
    source = [arguments.pop("name"), *(f"{key}={value}" for key, value in arguments.items())]
    gender = ["man=gender", "yes=man", "no=woman", "unknown=*"]
    roles_of = ["--categories", "concept", f"values={roles}", "--attributes", "--labels"]
    return ["--source", *source, "--column", *gender, *roles_of]


def _make(tool: str, out: Path, *flags: str) -> None:
    if not out.exists():
        _run(tool, "--out", str(out), "--report", str(out.with_suffix(".report")), *flags)


def _run(tool: str, *flags: str) -> None:
    line = [sys.executable, "-m", f"bias_clip.cli.{tool}", *flags]
    done = subprocess.run(line, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)} failed with status {done.returncode}.")


def _mean_weight(path: Path) -> float:
    from bias_clip.data.tables import read_table

    return float(np.mean(read_table(path, kind="weights").columns["weight"]))


if __name__ == "__main__":
    main()
