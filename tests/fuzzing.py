"""What all fuzzers share: damage to bytes, and the count of what came of each input.

`FUZZ` sets the number of inputs of a fuzzer, `FUZZ_SEED` the random numbers.
"""

import collections
import copy
import json
import math
import os
import random
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SEED = int(os.environ.get("FUZZ_SEED", 18))
MEMORY = 600 * 2**20  # bytes that the process may grow by over all inputs
SECONDS = 20.0  # of processor time for one input; a hang takes more
PIECES = (b"\0", b'"', b"'", b"\n", b"\r", b",", b"\t", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80")
PIECES += (
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 2000,
    b"{}",
    b"[]",
)
PIECES += (b"true", b"\\ud800", b"\xe2\x80\xa8", b"/dev/zero", b"../../x")


VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    2**40,
    2**70,
    0.5,
    1e300,
    math.nan,
    math.inf,
    "",
    "x",
)
VALUES += ("image", "../../etc/passwd", "\ud800", [], {}, [1], [None], ["x", "x"], {"a": 1}, [[]])


def count_of(default: int) -> int:
    """The number of inputs."""
    return int(os.environ.get("FUZZ", default))


def damage(content: bytes, rng: random.Random, pieces: Sequence[bytes] = PIECES) -> bytes:
    """Flips bits, cuts, empties, repeats or overwrites a part, or puts in what readers dislike."""
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        place = rng.randrange(len(raw) + 1)
        match rng.randrange(6):
            case 0 | 1 if place < len(raw):
                raw[place] ^= 1 << rng.randrange(8)
            case 2:
                del raw[place : place + rng.choice((1, 1, 5, 50))]
            case 3:
                raw[place:place] = rng.choice(pieces)
            case 4:
                piece = rng.choice(pieces)
                raw[place : place + len(piece)] = piece
            case 5:
                other = rng.randrange(len(raw) + 1)
                raw[place:place] = raw[other : other + rng.randrange(1, 100)]
    kind = rng.random()
    if kind < 0.1:
        del raw[rng.randrange(len(raw) + 1) :]
    elif kind < 0.12:
        raw.clear()
    elif kind < 0.14:
        raw[:] = rng.randbytes(rng.randrange(1, 300))
    return bytes(raw)


def damage_json(content: bytes, rng: random.Random) -> bytes:
    """Damages bytes, or keeps JSON and changes, adds or removes some of its values."""
    if rng.random() < 0.3:
        return damage(content, rng)
    whole = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(whole))
        if not places:
            break
        section, key = rng.choice(places)
        match rng.randrange(4):
            case 0:
                del section[key]
            case 1 if isinstance(section, dict):
                section[rng.choice(("x", "", "step", "../x"))] = copy.deepcopy(rng.choice(VALUES))
            case _:
                section[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(whole).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in list(items):
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


class Outcomes:
    """Counts outcomes; everything except a result or a ValueError of ours that names the input is wrong."""

    def __init__(self, what: str):
        """Starts to count, and to measure the memory of the process."""
        self.what, self.counts = what, collections.Counter[str]()
        self.wrong: list[str] = []
        self._slowest, self._rss = 0.0, _rss()

    def note(self, kind: str, wanted: Sequence[str], call: Callable[[], object]) -> object:
        """Calls; returns the result, or None after an error, whose message must have all of `wanted`."""
        start, result = time.process_time(), None
        try:
            result = call()
            self.counts[f"{kind} taken"] += 1
        except ValueError as error:
            self.counts[f"{kind} refused"] += 1
            said = str(error)
            if type(error) is not ValueError or "\n" in said or not all(w in said for w in wanted):
                self._add(kind, error)
        except Exception as error:  # noqa: BLE001 - all of them are reported at the end
            self.counts[f"{kind} another error"] += 1
            self._add(kind, error)
        self._slowest = max(self._slowest, time.process_time() - start)
        return result

    def check(self, capsys) -> None:
        """Prints the counts; fails with all that was wrong."""
        grown = max(_rss() - self._rss, 0)
        with capsys.disabled():
            print(
                f"\n{self.what}: {sum(self.counts.values())}: {dict(sorted(self.counts.items()))}; slowest "
                f"{self._slowest:.1f} s, {grown / 1e6:.0f} MB more"
            )
        kinds = collections.Counter(self.wrong)
        assert not kinds, f"{len(self.wrong)}:\n" + "\n".join(
            f"{n} x {text}" for text, n in kinds.most_common(40)
        )
        assert self._slowest < SECONDS
        assert grown < MEMORY

    def _add(self, kind: str, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(frames) if "/bias_clip/" in f.filename), frames[-1])
        where = f"{place.filename.rpartition('/bias_clip/')[2]}:{place.lineno}"
        self.wrong.append(f"{kind}: {type(error).__name__} at {where}: {str(error)[:160]!r}")


def _rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
