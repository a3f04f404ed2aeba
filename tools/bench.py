"""Measures speed and memory, always as a ratio within one run, because machines and their load differ.

python -m tools.bench step     images per second of the train step, beside open_clip's
python -m tools.bench losses   temporary memory and time of the losses, dense, chunked and as a ring
python -m tools.bench balance  M4 on counted rows, beside a QP on rows, the stream and raking
python -m tools.bench draws    how balanced draws by the weights are, by the cube method and by coins
python -m tools.bench priors   the bias of each estimator of priors, on mixtures whose classes are known
python -m tools.bench scale    start-up and memory at 1e6 to 1e8 records, by mapped columns and by a table
python -m tools.bench kmeans   a Lloyd iteration and an assignment, beside scikit-learn's; memory on a pod
python -m tools.bench attention  a fused kernel's values, gradients and time, beside XLA's
python -m tools.bench input    photographs per second from JPEG to batches, beside a torch DataLoader
python -m tools.bench forms    samples per second from tars, Parquet, tables, folders, and from a slow server
python -m tools.bench ranks    ranks and zero-shot accuracy, beside float64 NumPy
python -m tools.bench start    from the command to the first step, with and without compiled programs
python -m tools.bench audit    scores and resamples 50,000 images, 1,000 classes and 80 templates

open_clip is measured if it can be imported: `pip install torch open_clip_torch` in a separate
environment, because it downloads gigabytes. `--help` after a command lists its arguments.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from bias_clip.cli.shared.flags import Parser, add_json, in_one_line, write_json

BENCHES = (
    *("step", "losses", "balance", "draws", "priors", "scale"),
    *("kmeans", "attention", "input", "forms", "audit", "ranks", "start"),
)


def main() -> None:
    """Parses, measures, prints."""
    args = make_parser(sys.argv[1:2]).parse_args()
    in_one_line(lambda: _measure(args))


def make_parser(words: Sequence[str] = BENCHES) -> Parser:
    """Returns the parser; only the benches that `words` name are imported, for their arguments."""
    parser = Parser(prog="python -m tools.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in BENCHES:
        if name not in words:
            commands.add_parser(name)
            continue
        module = _module(name)
        command = commands.add_parser(name, description=module.__doc__)
        module.add_arguments(command)
        add_json(command)
    return parser


def _measure(args: Any) -> None:
    record = _module(args.command).bench(args)
    if args.json:
        write_json(record, args.json)


def _module(name: str) -> Any:
    return importlib.import_module(f"tools.benches.{name}")


if __name__ == "__main__":
    main()
