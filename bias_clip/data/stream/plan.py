"""Which records the steps of a run read, in one phase or in two."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bias_clip.data.records import Source
from bias_clip.data.stream.examples import Order


class Phase(NamedTuple):
    """The data of one phase of a run.

    Attributes:
      source: of its records.
      keys: batch keys in addition to those of `make_columns`, with an entry per record of `source`.
      order: in which records are visited; None: a shuffle of all of them.
    """

    source: Source
    keys: Mapping[str, np.ndarray]
    order: Order | None = None


class Plan(NamedTuple):
    """The phases of a run.

    Attributes:
      phases: one, or two in order.
      switch: the first step, counted from 0, of the second phase.
      identity: JSON that differs whenever the stream of examples differs.
    """

    phases: tuple[Phase, ...]
    switch: int
    identity: Mapping[str, Any]

    def number(self, step: int) -> int:
        """The index in `phases` of the phase of a step."""
        return int(len(self.phases) > 1 and step >= self.switch)


def plain_plan(source: Source) -> Plan:
    """A plan in which every step uses the whole source."""
    return Plan((Phase(source, {}),), 0, {})
