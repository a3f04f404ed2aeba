"""Measures speed and memory, always as a ratio within one run: the machine next door is no constant.

python tools/bench.py step     pictures per second of the train step, beside open_clip's
python tools/bench.py losses   temporary memory and time of the losses, dense, chunked and as a ring
python tools/bench.py balance  M4 on counted rows, beside a QP on rows, the stream and raking
python tools/bench.py kmeans   a Lloyd iteration and an assignment, beside scikit-learn's; memory on a pod
python tools/bench.py attention  a fused kernel's values, gradients and time, beside XLA's
python tools/bench.py input    photographs per second from JPEG to batches, beside a torch DataLoader

open_clip is measured where it can be imported: `pip install torch open_clip_torch` in an environment
of its own, for it pulls gigabytes. `--help` after a command lists its arguments.
"""

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    """Parses, measures, prints."""
    root = str(Path(__file__).resolve().parent.parent)  # for configs and tools
    if root not in sys.path:
        sys.path.insert(0, root)
    from tools.benches import attention, balance, input, kmeans, losses, step

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    modules = {"step": step, "losses": losses, "balance": balance}
    modules |= {"kmeans": kmeans, "input": input, "attention": attention}
    for name, module in modules.items():
        text = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=text, description=module.__doc__)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(command)
        command.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    record = modules[args.command].bench(args)
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
