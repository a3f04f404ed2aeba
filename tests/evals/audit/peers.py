"""Audits torch models by the lines of docs/audit.md, and their exported weights loaded here: equal numbers.

In an environment with torch, transformers and this package, after `tests.pretrained.exports.write FOLDER`:

    python -m tests.evals.audit.peers FOLDER
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import bias_clip
import tests.pretrained.exports.load  # noqa: F401  (else torchvision cannot be imported)
from bias_clip.cli.audit import main as audit_main
from bias_clip.cli.audit import make_parser, read_models
from bias_clip.evals.audit import functions_model, run_audit, to_json
from bias_clip.evals.audit.own_data import own_items
from tests.evals.audit.people import LABELS, People

# Of every number: on images of the model's own size, and on the emoji, which each library resizes. The page asks for
# PIL's resizing: torchvision's of CLIP is up to two grey levels off, of which random weights make 0.025.
SAME = 1e-5
MODELS = ("whole_hf_siglip", "whole_hf_clip")
DOCS = Path(__file__).parents[3] / "docs" / "audit.md"
SIZE = 48  # of the models: nothing is resized, so both read the same pixels
SETTINGS = ["--resamples", "50", "--no-baselines"]


class Noise(People):
    """People whose images are noise of the size of the models."""

    def __getitem__(self, i: int) -> dict:
        pixels = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        return {**super().__getitem__(i), "image": pixels}


def main(root: Path) -> int:
    """Prints a line per model; returns the exit status."""
    failed = 0
    for name in MODELS:
        with tempfile.TemporaryDirectory() as out:
            same, close, number = compare(root / name, Path(out))
        good = max(same, close) <= SAME
        failed += not good
        print(
            f"{'passed' if good else 'FAILED'} {name}: {number} numbers; at most {same:.2g} apart on "
            f"equal pixels, {close:.2g} on the emoji"
        )
    return int(failed > 0)


def compare(folder: Path, out: Path) -> tuple[float, float, int]:
    """The largest difference of any number on equal pixels, that on the emoji, and how many there are."""
    functions = run_docs(folder, out / "docs")
    audit_main([f"model={folder}", "--out", str(out / "ours"), *SETTINGS])
    emoji = [json.loads((out / part / "audit.json").read_text()) for part in ("docs", "ours")]
    torch_model = functions_model("model", *functions, identity={}, cache=out / "torch")
    args = make_parser().parse_args([f"model={folder}", "--out", str(out / "ours")])
    items = own_items(Noise(), {}, by="group", label="label", words=LABELS)
    with torch.no_grad():
        own = [
            to_json(run_audit([model], items, num=50, baselines=False))
            for model in (torch_model, *read_models(args))
        ]
    return apart(*own), apart(*emoji), len(values(own[0])) + len(values(emoji[0]))


def run_docs(folder: Path, out: Path) -> tuple[Callable, Callable]:
    """Runs the lines of the page on the model in the folder; returns its two functions."""
    (block,) = re.findall(r"```python\n(import torch\n.*?)```", DOCS.read_text("utf-8"), re.S)
    lines = block.replace("google/siglip-base-patch16-224", str(folder))
    lines = lines.replace('out="audits/siglip"', f"out={str(out)!r}, resamples=50")
    with mock.patch.object(
        bias_clip, "audit_functions", wraps=bias_clip.audit_functions, create=True
    ) as audit:
        exec(compile(lines, str(DOCS), "exec"), {})
    return audit.call_args.args


def values(record: dict) -> list[float | None]:
    """Every value and every end of an interval."""
    return [
        number["values"][0][key]
        for suite in record["suites"]
        for part in suite["parts"]
        for number in part["numbers"]
        for key in ("value", "low", "high")
    ]


def apart(first: dict, second: dict) -> float:
    """The largest difference of two audits; infinite where only one of them has a number."""
    pairs = list(zip(values(first), values(second), strict=True))
    if any((a is None) != (b is None) for a, b in pairs):
        return float("inf")
    return max(abs(a - b) for a, b in pairs if a is not None)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
