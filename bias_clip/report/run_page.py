"""The report page of a run: report.html, one file with every curve, image and number of a workdir."""

import contextlib
import datetime
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.core.formatting import (
    format_duration,
    format_large,
    format_number,
    format_percent,
    is_number,
    spaced,
)
from bias_clip.core.storage import run_folder, write_whole
from bias_clip.evals.results import EvalResult
from bias_clip.report import plots
from bias_clip.report.pages import render_page
from bias_clip.report.run_charts import eval_charts, metric_table, train_charts
from bias_clip.report.run_read import Run, curve, read_run
from bias_clip.report.run_tiles import Tile, make_tile

# Parts of the wall time in metrics.jsonl (train/display/goodput.py), and their names for a reader.
GOODPUT = {
    "steps": "training steps",
    "compile": "compiling the step",
    "input": "waiting for data",
    "evaluate": "evaluation",
    "save": "saving checkpoints",
    "start": "reading, restoring, preparing",
    "lost": "steps that a restart made again",
    "waiting": "between two starts",
}
IMAGE_BYTES = 1_400_000  # of base64 on the page: what keeps the whole file under two megabytes


def write_report(workdir: str | Path) -> Path:
    """Writes `report.html` into a workdir from the files of a run, finished or not.

    The page loads nothing: style, script, charts and images are inside, and its content security
    policy forbids the rest. The same files give the same bytes.

    Returns:
      The path of the page.

    Raises:
      ValueError: the folder is not a workdir, or one of its files is malformed.
      NotSavedError: the page cannot be written.
    """
    page = render(read_run(workdir))
    path = run_folder(workdir) / "report.html"
    write_whole(path, page)
    return path


def render(run: Run) -> str:
    """Returns the page of a run as HTML."""
    # One share for all evaluators, so that no gallery takes the room of the others.
    share = image_share(run.evals.values())
    return render_page(
        "run.html",
        run=run,
        started=_moment(run.info.get("started", "")),
        facts=run_facts(run),
        goodput=goodput_rows(run),
        tiles=quality_tiles(run),
        galleries=_images(run, "zeroshot", "examples", share),
        searches=_images(run, "retrieval", "queries", share),
        biases=_biases(run),
        train_charts=train_charts(run.rows),
        eval_charts=eval_charts(run),
        table=metric_table(run),
        config_lines=list(config_lines(run.config)),
        # Without a config it is not known, and the notes are shown.
        uses_emoji=not run.config or _uses_emoji(run.config),
    )


def _uses_emoji(config: Any) -> bool:
    """Whether the run trains on, or is judged on, the embedded emoji: their notes are of no use elsewhere."""
    if not isinstance(config, Mapping):
        return False
    named = str(config.get("name", "")).startswith("emoji")
    return named or any(_uses_emoji(value) for value in config.values())


def run_facts(run: Run) -> list[tuple[str, str]]:
    """The cost of the run as (name, value): steps, examples, time, speed, parameters, devices."""
    last = run.rows[-1] if run.rows else {}
    logged: tuple[tuple[str, Any, Callable], ...] = (
        ("steps", last.get("step"), format_number),
        ("examples seen", _last(run, "examples"), format_large),
        ("time", _last(run, "seconds"), format_duration),
        ("examples per second", _middle(run, "examples_per_second"), format_large),
        ("waiting for input", _middle(run, "input_wait"), format_percent),
        ("share of peak FLOP/s", _middle(run, "mfu"), format_percent),
        ("parameters", run.info.get("parameters"), format_large),
    )
    # What a run did not log is left out and not shown as a gap.
    facts = [(name, spell(value)) for name, value, spell in logged if is_number(value)]
    devices = [("devices", str(run.info["devices"]))] if "devices" in run.info else []
    return facts + devices + start_facts(run.start)


def start_facts(start: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The checkpoint that a run began with: path, family, fingerprint, and each override of it."""
    facts = [("started from", str(start["path"]))] if "path" in start else []
    if start.get("family") in ("clip", "siglip"):
        layout = str(start.get("layout", "")).replace("_", " ")
        facts.append(("family", f"{start['family']}, in the layout of {layout}"))
    facts += [(f"SHA-256 of {name}", str(sum_)) for name, sum_ in start.get("sha256", {}).items()]
    return facts + [("of the checkpoint", str(text)) for text in start.get("said", ())]


def goodput_rows(run: Run) -> list[tuple[str, str, str]]:
    """Where the wall time went over all starts: (part, time, share), the largest first."""
    last = {part: _last(run, f"goodput/{part}") for part in GOODPUT}
    # Sums over all starts of the run are logged: the last value is the total.
    seconds = {part: value for part, value in last.items() if is_number(value) and value > 0}
    total = sum(seconds.values())
    parts = sorted(seconds, key=lambda part: -seconds[part])
    return [
        (GOODPUT[part], format_duration(seconds[part]), format_percent(seconds[part] / total))
        for part in parts
    ]


def quality_tiles(run: Run) -> list[Tile]:
    """The headline numbers: one tile per evaluator that has any."""
    tiles = [
        make_tile(name, EvalResult(record["metrics"], record["details"]))
        for name, record in run.evals.items()
    ]
    return [tile for tile in tiles if tile]


def image_share(records: Iterable[Mapping]) -> float:
    """The share of all images that fits in IMAGE_BYTES."""
    details = [record["details"] for record in records]
    images = [item for d in details for item in d.get("examples", ())]
    images += [item for d in details for q in d.get("queries", ()) for item in q["pictures"]]
    total = sum(len(image["png"]) for image in images)
    return min(1.0, IMAGE_BYTES / total) if total else 1.0


def config_lines(config: Mapping, depth: int = 0) -> Iterator[tuple[int, str, str, str]]:
    """The config as one (depth, key, value, kind) per line; a section has no value."""
    for key, item in config.items():
        if isinstance(item, dict) and item:
            yield depth, str(key), "", "section"
            yield from config_lines(item, depth + 1)
        else:
            kind = "text" if isinstance(item, str) else "value"
            yield depth, str(key), json.dumps(item, ensure_ascii=False), kind


def _images(run: Run, kind: str, key: str, share: float) -> list[dict]:
    """The images of all evaluators of a kind, as many as fit on the page."""
    found = []
    for name, record in run.evals.items():
        if record["details"].get("kind") == kind:
            items = record["details"][key]
            # Rounded up: at least one image of each.
            shown = items[: math.ceil(share * len(items))]
            found.append({"name": spaced(name), "shown": shown, "count": len(items)})
    return found


def _biases(run: Run) -> list[dict]:
    return [
        {
            "name": spaced(name),
            "details": record["details"],
            "chart": plots.bias_chart(record["details"]["concepts"]),
        }
        for name, record in run.evals.items()
        if record["details"].get("kind") == "bias"
    ]


def _last(run: Run, key: str) -> float | None:
    values = curve(run.rows, key).y
    return float(values[-1]) if len(values) else None


def _middle(run: Run, key: str) -> float | None:
    # The median: the first steps compile, and evaluations interrupt others.
    values = curve(run.rows, key).y
    return float(np.median(values)) if len(values) else None


def _moment(text: str) -> str:
    """An ISO time in a readable form; other text is returned unchanged."""
    with contextlib.suppress(ValueError):
        moment = datetime.datetime.fromisoformat(text)
        return f"{moment:%-d %B %Y, %H:%M} {moment.tzname() or ''}".strip()
    return text
