"""What a stream is: which records the steps of a run read, in one phase or in two."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bias_clip.data.records import Source
from bias_clip.data.stream.examples import Order


class Phase(NamedTuple):
    """What some of the steps draw from.

    Attributes:
      source: of their records.
      keys: batch keys beside those of `make_columns`, an entry per record of `source`.
      order: in which records are visited; the shuffle of all of them where it is None.
    """

    source: Source
    keys: Mapping[str, np.ndarray]
    order: Order | None = None


class Plan(NamedTuple):
    """Which phase a step draws from.

    Attributes:
      phases: one, or two in their order.
      switch: the step, counted from 0, from which on it is the second.
      identity: what makes another stream of examples when it differs, as JSON.
    """

    phases: tuple[Phase, ...]
    switch: int
    identity: Mapping[str, Any]

    def number(self, step: int) -> int:
        """The place in `phases` of the one that a step draws from."""
        return int(len(self.phases) > 1 and step >= self.switch)


def plain_plan(source: Source) -> Plan:
    """Every step draws from all of the source."""
    return Plan((Phase(source, {}),), 0, {})
