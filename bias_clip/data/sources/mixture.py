"""Several sources mixed at given rates into one source, whose records are found by arithmetic."""

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from bias_clip.core.hashing import make_key
from bias_clip.data.records import (
    LazyColumns,
    Record,
    Source,
    as_array,
    column,
    read_many,
    text_array,
)
from bias_clip.stages._bijection import permute

OWN = "mixture"  # the attribute that holds the name of a record's source


def make_mixture(
    make_source: Callable[..., Source],
    *,
    sources: Mapping[str, Mapping[str, Any]],
    rates: Mapping[str, float],
    records: int | None = None,
    seed: int = 0,
) -> Source:
    """Mixes sources, which `make_source` makes from their arguments; see `mixture_source`."""
    _check(sources, rates, records, seed)
    made = {name: make_source(**arguments) for name, arguments in sources.items()}
    return Mixture(made, rates, records=records, seed=seed)


class Mixture:
    """Records of several sources; `n_i = rate_i N / sum(rates)` of each, rounded to a sum of N.

    If a source must give more records than it has, it repeats: whole passes, then a seeded choice for
    the rest. Without `records`, N is the smallest number at which every source gives all its records.
    Record v of the mixture is found by arithmetic, so a mixture of any size takes no memory. The
    stream's shuffle then alternates the sources at random.

    Each repetition of a record has its own id, "name/id" and then "name/id#2", so that tables of
    weights, cells or annotations made from the mixture fit it.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        rates: Mapping[str, float],
        *,
        records: int | None = None,
        seed: int = 0,
    ):
        """Takes sources and rates by name; see `mixture_source`."""
        self._names = tuple(sources)
        self._sources = tuple(sources.values())
        self._sizes = tuple(len(source) for source in self._sources)
        empty = [n for n, size in zip(self._names, self._sizes, strict=True) if not size]
        if empty:
            raise ValueError(f"mixture: {empty} have no records; leave them out.")
        # Exact: a sum of rounded floats could lose a record, or differ between machines.
        shares = [Fraction(rates[name]) for name in self._names]
        self._counts = _counts(shares, self._sizes, records)
        self._starts = [sum(self._counts[:i]) for i in range(len(self._counts) + 1)]
        self._seed = seed
        self.identity = {
            "mixture": {
                "records": dict(zip(self._names, self._sizes, strict=True)),
                "drawn": dict(zip(self._names, self._counts, strict=True)),
                "seed": seed,
            }
        }
        for name, drawn, size in zip(self._names, self._counts, self._sizes, strict=True):
            level = logging.INFO if drawn == size else logging.WARNING
            logging.getLogger(__name__).log(level, "mixture: %s", describe(name, drawn, size))
        columns: list[Any] = [getattr(source, "columns", None) for source in self._sources]
        if all(own is not None for own in columns):
            every = dict.fromkeys([OWN, *(name for own in columns for name in own)])
            self.columns = LazyColumns(list(every), self._column)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Record:
        (record,) = self.read_many([index])
        if isinstance(record, ValueError):
            raise record
        return record

    def read_many(self, indices: Sequence[int]) -> list[Record | ValueError]:
        """Reads several records; those of the same source together."""
        # `range` takes negative indices and raises IndexError beyond the end, as a list does.
        places = [self.find(range(len(self))[index]) for index in indices]
        found: dict[tuple[int, int], Record | ValueError] = {}
        for number in sorted({number for number, _, _ in places}):
            # A record that the batch has several times is read once.
            rows = list(dict.fromkeys(row for n, _, row in places if n == number))
            records = read_many(self._sources[number], rows)
            found |= {(number, row): r for row, r in zip(rows, records, strict=True)}
        return [self._own(found[number, row], number, turn, row) for number, turn, row in places]

    def _own(
        self, record: Record | ValueError, number: int, turn: int, row: int
    ) -> Record | ValueError:
        """A source's record, with the id and the attribute that it has in the mixture."""
        name = self._names[number]
        if isinstance(record, ValueError):
            error = ValueError(f"record {row} of {name!r}: {record}")
            error.__cause__ = record
            return error
        # A mixture of mixtures keeps the path, as "web/news".
        own = name if OWN not in record else f"{name}/{record[OWN]}"
        return {**record, "id": _id(name, record["id"], turn), OWN: own}

    def find(self, index: int) -> tuple[int, int, int]:
        """The source of a record, the pass over that source (from 0), and the row in it."""
        number = bisect_right(self._starts, index) - 1
        size = self._sizes[number]
        turn, place = divmod(index - self._starts[number], size)
        # Whole passes go in order. Only the last, partial one is a choice, by a permutation.
        if (turn + 1) * size <= self._counts[number]:
            return number, turn, place
        return number, turn, int(self._chosen(number, np.array([place]))[0])

    def _chosen(self, number: int, places: np.ndarray) -> np.ndarray:
        """The rows at some places of the seeded order of the last, partial pass over a source."""
        key = make_key("mixture", self._seed, self._names[number])
        shape = len(places)
        return permute(places, np.full(shape, self._sizes[number]), np.full(shape, key))

    def _rows(self, number: int) -> np.ndarray:
        """The rows of all records that come from one source."""
        whole, rest = divmod(self._counts[number], self._sizes[number])
        last = self._chosen(number, np.arange(rest))
        return np.concatenate([np.tile(np.arange(self._sizes[number]), whole), last])

    def _column(self, name: str) -> np.ndarray:
        parts = [self._part(number, name) for number in range(len(self._sources))]
        # Arrays of one kind join as they are. Otherwise the values decide again, as in a single source.
        if len({part.dtype.kind for part in parts}) == 1 and parts[0].dtype.kind in "Uibf":
            return np.concatenate(parts)
        return as_array([value for part in parts for value in part.tolist()], name)

    def _part(self, number: int, name: str) -> np.ndarray:
        """One column of the records from one source; None if the source does not have it."""
        own, columns = self._names[number], self._sources[number].columns  # type: ignore[attr-defined]
        if name == OWN and OWN not in columns:
            return np.repeat(text_array([own]), self._counts[number])
        if name not in columns:
            return np.full(self._counts[number], None, object)
        rows = self._rows(number)
        values = column(self._sources[number], name)[rows]
        if name == OWN:
            return text_array([f"{own}/{value}" for value in values.tolist()])
        if name != "id":
            return values
        # The same ids as in `_own`, without reading a record.
        turns = (np.arange(len(rows)) // self._sizes[number]).tolist()
        pairs = zip(values.tolist(), turns, strict=True)
        return text_array([_id(own, value, turn) for value, turn in pairs])


def describe(name: str, drawn: int, size: int) -> str:
    """Describes how much of a source a mixture draws."""
    if drawn == size:
        return f"{name}: each of {size} records once"
    if drawn > size:
        return f"{name}: {drawn} of {size} records, each {drawn / size:.2f} times on average"
    return f"{name}: a seeded choice of {drawn} of {size} records; the others are never read"


def _counts(
    shares: Sequence[Fraction], sizes: Sequence[int], records: int | None
) -> tuple[int, ...]:
    """The number of records from each source: at least one, and by the rates up to rounding."""
    total = sum(shares)
    if records is None:
        # The scale at which the source with the fewest records per share gives all of them.
        exact = max(Fraction(size) / share for size, share in zip(sizes, shares, strict=True))
        return tuple(max(1, round(exact * share)) for share in shares)
    if records < len(sizes):
        raise ValueError(f"mixture: got records={records} for {len(sizes)} sources; expected more.")
    # Rounding the ends and not the counts: the differences then add up to `records`.
    ends = [round(records * sum(shares[: i + 1]) / total) for i in range(len(shares))]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if min(counts) < 1:
        raise ValueError(
            f"mixture: of {records} records a source would give none; raise `records`."
        )
    return tuple(counts)


def _id(name: str, own: str, turn: int) -> str:
    return f"{name}/{own}" if turn == 0 else f"{name}/{own}#{turn + 1}"


def _check(
    sources: Mapping[str, Any], rates: Mapping[str, float], records: int | None, seed: int
) -> None:
    if set(sources) != set(rates) or not sources:
        raise ValueError(
            f"mixture: got rates for {sorted(rates)} and sources {sorted(sources)}; expected one rate per source."
        )
    lacks = [name for name, arguments in sources.items() if "name" not in arguments]
    if lacks:
        raise ValueError(
            f"mixture: sources {lacks} have no `name`; give arguments of make_source, as dict(name="
            "'parquet', path=...)."
        )
    wrong = {
        n: r for n, r in rates.items() if isinstance(r, bool | str) or not 0 < r < float("inf")
    }
    if wrong:
        raise ValueError(f"mixture: got the rates {wrong}; expected positive numbers.")
    if records is not None and records < 1:
        raise ValueError(f"mixture: got records={records}; expected at least 1.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"mixture: got seed={seed}, expected 0 to 2^63 - 1.")
