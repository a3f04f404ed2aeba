"""The folder of an audit, with its page and its numbers; and the whole audit of a model of two functions."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.core.json_object import to_json as json_text
from bias_clip.core.write import write_file
from bias_clip.evals.audit import Audit, functions_model, run_audit, to_json
from bias_clip.evals.audit.own_data import EMOJI, EMOJI_LIMITS, suite_item
from bias_clip.report.audits.audit_page import render_audit, unknowing_lines
from bias_clip.report.audits.audit_text import audit_csv, audit_latex, audit_lines


def audit_functions(
    encode_images: Callable[[Sequence[np.ndarray]], Any],
    encode_texts: Callable[[Sequence[str]], Any],
    *,
    identity: Mapping[str, Any],
    out: str | Path,
    name: str = "model",
    suites: Mapping[str, str | None] | None = None,
    files: Mapping[str, Mapping[str, str]] | None = None,
    batch_size: int = 128,
    resamples: int = 2000,
) -> Audit:
    """Audits a model of any framework, and writes what `tools/audit.py` writes.

    Args:
      encode_images: maps a list of uint8 RGB images [h, w, 3] of any sizes to an array [n, d].
      encode_texts: maps a list of strings to an array [n, d].
      identity: what tells this model from others, such as a name and a version. Change it whenever
        the weights change: embeddings of an equal identity are taken from the cache in `out`.
      out: folder to write.
      name: on the page.
      suites: name to the folder of its data set; None for the suites on the emoji in this package.
      files: suite to role to your copy of a file that may not be shipped.
      batch_size: images or strings per call.
      resamples: behind each interval.

    Raises:
      ValueError: an unknown suite, what its reader raises, or embeddings that are not finite, zero, or
        not one row per input.
    """
    given = dict.fromkeys(EMOJI) if suites is None else suites
    items = [
        suite_item(suite, path, (files or {}).get(suite, {}), {}) for suite, path in given.items()
    ]
    model = functions_model(
        name,
        encode_images,
        encode_texts,
        identity=identity,
        cache=Path(out) / "cache",
        batch_size=batch_size,
        say=say,
    )
    audit = run_audit([model], items, num=resamples, say=say)
    write_audit(audit, Path(out))
    return audit


def write_audit(audit: Audit, out: Path) -> None:
    """Writes the page, JSON, CSV and LaTeX to the folder, and prints where they are.

    Args:
      audit: from `run_audit`.
      out: the folder.
    """
    # However they were asked for, also beside other suites.
    limits = EMOJI_LIMITS if any(suite.name in EMOJI for suite in audit.suites) else ()
    record = to_json(audit)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "index.html", render_audit(record, limits=limits))
    write_file(out / "audit.json", json_text(record, indent=2) + "\n")
    write_file(out / "audit.csv", audit_csv(record))
    write_file(out / "audit.tex", audit_latex(record))
    print("\n".join([*audit_lines(record), *unknowing_lines(record), *limits]))
    print(f"page: {out / 'index.html'}; numbers: audit.json, audit.csv, audit.tex beside it")


def say(text: str) -> None:
    """Prints a line of progress to stderr, at once."""
    print(text, file=sys.stderr, flush=True)
