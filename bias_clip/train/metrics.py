"""What a run says of itself: health of the towers, a file of metrics, a clock."""

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

from bias_clip.core.formatting import spaced
from bias_clip.core.json_object import parse_object
from bias_clip.core.storage import UPLOAD_SECONDS, Growing, write_whole, writing
from bias_clip.evals.headlines import find_metric
from bias_clip.models.two_towers import Outputs
from bias_clip.train.hosts.distributed import is_main

HEALTH_ANCHORS = 1024  # rows of the batch that are compared with all of it


def health(outputs: Outputs, batch: Mapping[str, Array]) -> dict[str, Float[Array, ""]]:
    """Returns the signals that tell a healthy contrastive run from a sick one.

    `scale`, `bias`; mean and extreme logit of the pairs and of the non-pairs; the share of images
    whose own caption has the highest logit of the batch (`acc_img`), and of captions (`acc_txt`).
    Non-pairs with an equal caption (`text_id`) are left out. The first 1024 rows are anchors, the
    whole batch are candidates, so that the cost grows linearly with the batch.
    """
    # Logits in float32, as in the losses.
    zimg, ztxt = (jnp.asarray(z, jnp.float32) for z in (outputs.zimg, outputs.ztxt))
    anchors = min(len(zimg), HEALTH_ANCHORS)
    rows = jnp.arange(anchors)
    own = rows[:, None] == jnp.arange(len(zimg))
    other = ~own
    if "text_id" in batch:
        other &= batch["text_id"][:anchors, None] != batch["text_id"]
    by_image = outputs.scale * zimg[:anchors] @ ztxt.T + outputs.bias
    by_text = outputs.scale * ztxt[:anchors] @ zimg.T + outputs.bias
    # Selected by `own` from the logits of the anchors: one product serves pairs and non-pairs.
    positive = jnp.sum(jnp.where(own, by_image, 0.0), axis=1)
    # -inf and not 0, because logits with a bias are mostly negative.
    hardest_text = jnp.max(jnp.where(other, by_image, -jnp.inf), axis=1)
    hardest_image = jnp.max(jnp.where(other, by_text, -jnp.inf), axis=1)
    return {
        "scale": outputs.scale,
        "bias": outputs.bias,
        "logit_pos": jnp.mean(positive),
        "logit_pos_min": jnp.min(positive),
        "logit_neg": jnp.mean(by_image, where=other),
        "logit_neg_max": jnp.max(hardest_text),
        "acc_img": jnp.mean(positive > hardest_text),
        "acc_txt": jnp.mean(positive > hardest_image),
    }


class MetricWriter:
    """Metrics of one run on disk: `metrics.jsonl`, an object a line, and TensorBoard events.

    Of many processes, which all have the same metrics, the first writes and the others do nothing.
    In a bucket a line appears within a minute, or with the next checkpoint. Where nothing can be
    written, all its functions raise NotSavedError.
    """

    def __init__(
        self, workdir: Path, *, start_step: int, evaluators: Mapping[str, str] | None = None
    ):
        """Opens the files; lines of steps after `start_step`, which will be run again, are cut.

        Args:
          workdir: of the run.
          start_step: the last step that counts.
          evaluators: kind of each evaluator by its name, for what TensorBoard says of its metrics.
        """
        self._kinds = dict(evaluators or {})
        self._said: set[str] = set()
        self._writes = is_main()
        if not self._writes:
            return
        self._files = Growing(workdir)
        self._path = self._files.folder / "metrics.jsonl"
        self._folder = self._files.folder / "tensorboard"
        self._files.fetch("metrics.jsonl")
        # Cut before the first event is written, so that a continued run has every step once.
        self._file: TextIO = _open_after(self._path, start_step)
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            # Not SummaryWriter: its thread ends on a full disk, and its queue then waits for ever.
            self._events = EventsWriter(str(self._folder / "events"))
        start = SessionLog(status=SessionLog.START)  # TensorBoard drops that step and all after it
        self._add_event(Event(step=start_step + 1, session_log=start))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line and the same scalars as events; a NaN, no number, is left out."""
        if not self._writes:
            return
        plain = plain_numbers(values)
        scalars = [
            Summary.Value(tag=name, simple_value=value, metadata=self._about(name))
            for name, value in plain.items()
        ]
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **plain}) + "\n")
            # Flushed line by line: a killed run then loses no line that it has said.
            self._file.flush()
        self._add_event(Event(step=step, summary=Summary(value=scalars)))
        self._files.upload(after=UPLOAD_SECONDS)

    def flush(self) -> None:
        """Sees to it that all lines are where the run is; on a disk they always are."""
        if self._writes:
            self._files.upload()

    def close(self) -> None:
        """Writes what is buffered."""
        if self._writes:
            with writing(self._path), contextlib.closing(self._events):
                self._file.close()
            self._files.close()

    def _about(self, tag: str) -> SummaryMetadata | None:
        """What the evaluator says of a metric, once per tag; None for the others."""
        part, _, rest = tag.partition("/")
        evaluator, _, key = rest.partition("/")
        if part != "eval" or evaluator not in self._kinds or tag in self._said:
            return None
        self._said.add(tag)
        metric = find_metric(key, {"kind": self._kinds[evaluator]})
        better = "" if metric.better == "neither" else f", {metric.better} is better"
        name = f"{spaced(evaluator)}: {metric.name}"
        return SummaryMetadata(display_name=name, summary_description=f"{metric.unit}{better}")

    def _add_event(self, event: Event) -> None:
        event.wall_time = time.time()
        with writing(self._folder):
            self._events.write_event(event)
            self._events.flush()


class Clock:
    """Seconds since the last report, and how many of them were spent in a part of the work."""

    def __init__(self) -> None:
        """Starts now."""
        self._start = time.perf_counter()
        self._parts: dict[str, float] = {}

    def timed(self, part: str, function: Callable, *args: Any) -> Any:
        """Returns `function(*args)`; its time counts for `part`."""
        start = time.perf_counter()
        result = function(*args)
        self._parts[part] = self._parts.get(part, 0.0) + time.perf_counter() - start
        return result

    def passed(self) -> tuple[float, dict[str, float]]:
        """Returns what `report` would, and goes on counting."""
        return time.perf_counter() - self._start, dict(self._parts)

    def report(self) -> tuple[float, dict[str, float]]:
        """Returns (seconds since the last report, seconds by part) and starts again."""
        seconds, parts = time.perf_counter() - self._start, self._parts
        self._start, self._parts = time.perf_counter(), {}
        return seconds, parts


def plain_numbers(values: Mapping[str, Any]) -> dict[str, float | int]:
    """Returns the values as Python's numbers, without those that are NaN."""
    plain = {name: _number(value) for name, value in values.items()}
    return {name: value for name, value in plain.items() if not math.isnan(value)}


def _number(value: Any) -> float | int:
    value = jax.device_get(value)
    return value if isinstance(value, int) else float(value)


def _open_after(path: Path, step: int) -> TextIO:
    """Opens the file to append to it, without the lines of steps after `step`, which come again.

    It is locked before it is cut: the cut file is another one under the same name, and a second writer
    would go on with a file that has no name any more.
    """
    with _open_locked(path):
        _cut_after(path, step)
        return _open_locked(path)


def _open_locked(path: Path) -> TextIO:
    with writing(path):
        file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except BlockingIOError:
        mine = False
    except OSError:
        mine = True  # a file system without locks: the lock of the workdir has to do
    if not mine:
        file.close()
        raise ValueError(f"another run is writing {path}: end it first, or give another --workdir.")
    return file


def _cut_after(path: Path, step: int) -> None:
    *lines, last = path.read_bytes().split(b"\n")
    if _is_whole(last):  # else it is of a run that was killed while it wrote
        lines.append(last)
    kept = []
    for number, line in enumerate(lines, 1):
        record = parse_object(line, f"{path}:{number}", advice="remove that line")
        if type(record.get("step")) is not int:
            raise ValueError(
                f"{path}:{number}: got the step {record.get('step')!r}, expected an integer; remove "
                "that line."
            )
        if record["step"] <= step:
            kept.append(line.decode() + "\n")
    write_whole(path, "".join(kept))


def _is_whole(line: bytes) -> bool:
    try:
        return "step" in parse_object(line, "", advice="")
    except ValueError:
        return False
