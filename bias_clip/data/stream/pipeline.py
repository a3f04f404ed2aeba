"""The training stream: an endless, seeded, resumable sequence of fixed-shape batches.

The example at a position is a pure function of (seed, position), see `examples`; with two phases, the
step decides which one it comes from. Hosts, threads and restarts only decide who computes it and when.
"""

import functools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from bias_clip.data.image import ImageFn
from bias_clip.data.records import Source
from bias_clip.data.stream.batch import Batch, check_example, collate
from bias_clip.data.stream.columns import make_columns
from bias_clip.data.stream.examples import Example, make_examples_fn
from bias_clip.data.stream.plan import Plan, plain_plan
from bias_clip.data.stream.worker import ended, settle
from bias_clip.data.text import TextFn

# Rows per task of the thread pool: large enough to hide the cost of a task, small enough to spread a
# per-host batch of thousands over all threads.
_CHUNK = 32
# Chunks of a worker that wait in shared memory: 2 x 32 images of 224 px are 10 MB.
_HANDED_OVER = 2
_SHARED = Path("/dev/shm")  # of Linux
# With fewer examples the share of bad records is not reliable; the allowed number is that of so many.
_SHARE_OVER = 1000
_MAX_NAMED = 100
_MAX_RECORDS = 2**53  # all number types here and the shuffle's cipher can hold it


class _Stream(NamedTuple):
    """What the steps of one phase read: examples by position, and further keys by record."""

    make_examples: Callable[[Sequence[int]], list[Example]]
    columns: Mapping[str, np.ndarray]


class _Reading(NamedTuple):
    """How many threads and processes prepare batches, and how many batches ahead."""

    threads: int  # of each process
    workers: int  # processes; 0: this one
    prefetch: int


class Stats(NamedTuple):
    """Counts of the stream so far, on this host.

    The stream returned `examples` rows, of which `replaced` replace a bad record; `bad` has the names
    of the first hundred bad records, each with the reason.
    """

    examples: int
    replaced: int
    bad: dict[str, str]


def make_train_iterator(
    source: Source,
    *,
    image_fn: ImageFn,
    text_fn: TextFn,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    num_workers: int = 0,
    prefetch: int = 2,
    max_bad_share: float = 0.01,
    first_caption: float = 0.0,
    columns: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
) -> "TrainIterator":
    """Makes the stream of training batches of this host.

    Global batch `t` is positions `[t B, (t + 1) B)` of the shuffled source, reshuffled at each
    repeat, `B = batch_size`; host `h` of `p` holds its rows `[h B / p, (h + 1) B / p)`. A batch is

        image   uint8 or float32 [b, h, w, 3], as `image_fn` gives them
        text    int32 [b, l]
        text_id int32 [b]   hash of the tokens: equal where the model reads the same caption
        index   int64 [b]   the record in the source
        ...     [b]         what `columns` names, see `make_columns`

    A record that raises ValueError (a broken image, no caption) is replaced by another, drawn from
    (seed, position), and is counted and named. `prefetch` is in batches; with `num_threads=0`
    everything runs in the caller. A thread makes up to 32 rows at a time and requests their records
    together: a remote source reads 32 times `num_threads` records concurrently.

    `num_workers` is a number of processes, each with `num_threads`. Threads suffice up to about a
    thousand images per second: decoding and resizing release Python's lock, but the code between them
    does not (about 0.3 ms per image of 500 px). Processes receive source and functions pickled
    (cloudpickle), start in seconds, and return their rows in shared memory.

    `first_caption` is a share, see `make_example_fn`. `plan`, see `make_plan` and `make_cells_plan`,
    thins, weights or orders the source, throughout or in one of two phases. With two phases, batch `t`
    is batch `t` of the stream that has only the phase of step `t`.

    Returns: the iterator; close it, or use it in a `with`.
    Raises: ValueError at once for contradicting arguments, an empty source, a first example of the
      wrong form, or too little shared memory; later, if the share of bad records exceeds
      `max_bad_share`.

        with make_train_iterator(source, image_fn=image_fn, text_fn=text_fn, batch_size=256,
                                 seed=0) as batches:
            next(batches)["image"].shape   # (256, 48, 48, 3)
    """
    reading = _Reading(num_threads, num_workers, prefetch)
    _check_arguments(batch_size, process_index, process_count, reading, max_bad_share)
    _check_source(source, seed)
    plan = plan or plain_plan(source)
    draw = functools.partial(
        make_examples_fn, image_fn=image_fn, text_fn=text_fn, seed=seed, first_caption=first_caption
    )
    streams = [
        _Stream(draw(source, order=order), {**make_columns(source, columns or {}), **keys})
        for source, keys, order in plan.phases
    ]
    # One example at once: a wrong operation or shape ends the run before processes start.
    example = streams[0].make_examples([0])[0]
    check_example(example)
    if num_workers:
        _check_shared_memory(example.image.nbytes, batch_size // process_count, num_workers)
    return TrainIterator(
        lambda step: streams[plan.number(step)],
        identity={
            "records": len(source),
            "batch_size": batch_size,
            "seed": seed,
            **getattr(source, "identity", {}),  # of a mixture: its rates
            **plan.identity,
        },
        host=(process_index, process_count),
        reading=reading,
        max_bad_share=max_bad_share,
    )


class TrainIterator(Iterator[Batch]):
    """Batches of one host from a position on; keeps grain's threads and processes until `close`."""

    def __init__(
        self,
        stream_at: Callable[[int], _Stream],
        *,
        identity: Mapping[str, Any],
        host: tuple[int, int],
        reading: _Reading,
        max_bad_share: float,
    ):
        self._stream_at = stream_at
        self._identity = identity
        self._host = host
        self._reading = reading
        self._max_bad_share = max_bad_share
        self._step = 0
        self._stats = Stats(0, 0, {})
        self._batches: Any = None

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises: ValueError when too many records are bad; ChildProcessError when a process that prepares
          images has ended. After the latter, the next call starts all of them again at this batch.
        """
        if self._batches is None:
            self._batches = self._open(self._step)
        # The position moves only after a batch has arrived: an error or Ctrl-C here leaves the state valid.
        try:
            batch, bad = next(self._batches)
        except RuntimeError as error:
            self.close()  # grain would go on without the process whose error this is: with other examples
            if (reason := ended(error, host=self._host[0])) is None:
                raise
            raise reason from error
        self._step += 1
        self._stats = _count(self._stats, len(batch["index"]), bad)
        _check_share(self._stats, self._max_bad_share)
        return batch

    def __enter__(self) -> "TrainIterator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops threads and processes; the next batch, if asked for, starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def stats(self) -> Stats:
        """Returns the counts of examples and bad records up to the last returned batch."""
        return self._stats

    def get_state(self) -> dict[str, Any]:
        """Returns the position in the stream as JSON; the same on all hosts except for the counts."""
        counts = {**self._stats._asdict(), "bad": dict(self._stats.bad)}
        return {"step": self._step, **self._identity, "stats": counts}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to a saved position; the next batch is the one that followed it, bit for bit.

        Raises: ValueError if the state belongs to another source, batch size, seed or plan.
        """
        saved = {key: value for key, value in state.items() if key not in ("step", "stats")}
        if saved != self._identity:
            raise ValueError(
                f"the saved input state is of {saved}, this run has {self._identity}: the order of "
                "examples would differ. Use the saved values, or start without the input state."
            )
        self.close()
        self._step = int(state["step"])
        self._stats = Stats(**{**state["stats"], "bad": dict(state["stats"]["bad"])})

    def _open(self, step: int) -> Any:
        """Starts grain at a step: it makes chunks of rows in parallel and joins them into batches."""
        batch_size, (process_index, process_count) = self._identity["batch_size"], self._host
        stream_at = self._stream_at  # closures that go to other processes must not hold self
        rows = batch_size // process_count
        # The largest chunk that divides this host's rows: batches then consist of whole chunks.
        size = max(c for c in range(1, min(rows, _CHUNK) + 1) if rows % c == 0)
        per_batch = rows // size

        def chunk(number: int) -> tuple[Batch, list]:
            step, part = divmod(number, per_batch)
            first = step * batch_size + process_index * rows + part * size
            stream = stream_at(step)
            examples = stream.make_examples(range(first, first + size))
            return collate(examples, stream.columns)

        threads, workers, prefetch = self._reading
        each = -(-prefetch * per_batch // max(1, workers))  # chunks ahead, of one process
        ahead = max(each, threads) if threads else 0
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        # 2^62: endless, for the stream repeats by arithmetic and not by grain's `repeat`.
        numbers = grain.MapDataset.range(step * per_batch, 2**62)
        chunks = numbers.map(chunk).to_iter_dataset(options)
        if workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads its own flags, which nobody parses in a library
            many = grain.MultiprocessingOptions(workers, _HANDED_OVER)
            chunks = chunks.mp_prefetch(many, worker_init_fn=settle)
        batches = chunks.batch(per_batch, batch_fn=_join)
        if threads or workers:  # joining copies the batch: do that in a thread, too
            batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=1)
        return iter(batches)


def _join(chunks: Sequence[tuple[Batch, list]]) -> tuple[Batch, list]:
    if len(chunks) == 1 and type(chunks[0][0]["index"]) is np.ndarray:  # not shared memory
        return chunks[0]
    batch = {k: np.concatenate([c[k] for c, _ in chunks]) for k in chunks[0][0]}
    return batch, [bad for _, bads in chunks for bad in bads]


def _count(stats: Stats, rows: int, bad: Sequence[tuple[tuple[str, str], ...]]) -> Stats:
    # A copy, because `stats()` has given the old dictionary away.
    named = dict(stats.bad)
    for name, reason in (pair for row in bad for pair in row):
        if name not in named and len(named) < _MAX_NAMED:
            named[name] = reason
            logging.getLogger(__name__).warning("bad record %s: %s", name, reason)
    return Stats(stats.examples + rows, stats.replaced + len(bad), named)


def _check_share(stats: Stats, max_bad_share: float) -> None:
    allowed = max_bad_share * max(stats.examples, _SHARE_OVER)
    if stats.replaced > allowed:
        names = "; ".join(f"{name}: {reason}" for name, reason in list(stats.bad.items())[:10])
        raise ValueError(
            f"{stats.replaced} of {stats.examples} examples were bad records, more than "
            f"max_bad_share={max_bad_share} allows. Repair or leave them out, or raise the share. "
            f"The first: {names}"
        )


def _check_arguments(
    batch_size: int,
    process_index: int,
    process_count: int,
    reading: _Reading,
    share: float,
) -> None:
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"got batch_size={batch_size} for {process_count} processes, expected a positive "
            "multiple of the number of processes: batch_size is that of all together."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"got process_index={process_index} of {process_count} processes.")
    check_reading(*reading, max_bad_share=share)


def check_reading(
    num_threads: int, num_workers: int, prefetch: int, *, max_bad_share: float
) -> None:
    """Raises ValueError for arguments of `make_train_iterator` that are out of range."""
    if min(num_threads, num_workers) < 0 or prefetch < 1 or not 0 <= max_bad_share <= 1:
        raise ValueError(
            f"got num_threads={num_threads}, num_workers={num_workers}, prefetch={prefetch}, "
            f"max_bad_share={max_bad_share}; expected at least 0, 0 and 1, and a share between 0 and 1."
        )


def _check_shared_memory(image_bytes: int, rows: int, workers: int) -> None:
    # The chunks of one batch until they are joined, and in each process those waiting or being made.
    images = rows + workers * (_HANDED_OVER + 1) * _CHUNK
    if _SHARED.is_dir() and (free := shutil.disk_usage(_SHARED).free) < images * image_bytes:
        raise ValueError(
            f"{_SHARED} has {free / 1e6:.0f} MB free; {rows} rows of a batch and {workers} workers need "
            f"{images * image_bytes / 1e6:.0f} MB. Give the container more (--shm-size, or an emptyDir with "
            "medium: Memory on Kubernetes), or set fewer data.num_workers; 0 needs none."
        )


def _check_source(source: Source, seed: int) -> None:
    if not 0 < len(source) <= _MAX_RECORDS:
        raise ValueError(f"the source has {len(source)} records, expected 1 to {_MAX_RECORDS}.")
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that not every generator of random numbers takes."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"got seed={seed}, expected 0 to 2^63 - 1.")
