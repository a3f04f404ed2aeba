"""The embedded emoji as a suite's data: they need no download, and say nothing about real people."""

from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.data.emoji.source import emoji_source
from bias_clip.data.emoji.splits import MEN_ROLES, WOMEN_ROLES
from bias_clip.data.image import make_image_fn
from bias_clip.data.records import Record, column
from bias_clip.evals.suites.layouts.data import SuiteData, take

WHITE = make_image_fn("decode|background(white)")
PARTS = ("all", "roles", "nobody")
GENDERS = ("woman", "man")


class OnWhite:
    """A source of images without transparency, so that every model sees the same.

    Processors of published models drop the alpha channel, and what colour lies under it is an accident
    of the file.
    """

    def __init__(self, source: Any):  # that of the emoji, which has its columns as arrays
        self._source = source
        self.columns = source.columns

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        return {**record, "image": WHITE(record["image"], np.random.default_rng(0))}


def read_emoji(
    path: Path, *, split: str = "style", part: str = "all", label: str = "name"
) -> SuiteData:
    """Reads the emoji of a split.

    Args:
      path: not used; the emoji are in the package.
      split: see `emoji_source`; the style that no training set of this project has, by default.
      part: "all"; "roles", women and men in the roles that a thinned training set makes stereotypes
        of; or "nobody", images without a person.
      label: column of the classes. Those of "name" are the names of all emoji, also of other splits.

    Raises:
      ValueError: an unknown part.
    """
    if part not in PARTS:
        raise ValueError(f"part={part!r}; expected one of {list(PARTS)}.")
    source = OnWhite(emoji_source(split=split))
    gender, concept = column(source, "gender"), column(source, "concept")
    codes = np.array([GENDERS.index(g) if g in GENDERS else -1 for g in gender])
    rows = np.arange(len(source))
    if part == "roles":
        rows = np.flatnonzero((codes >= 0) & np.isin(concept, sorted(MEN_ROLES | WOMEN_ROLES)))
    elif part == "nobody":
        rows = np.flatnonzero(gender == "none")
    values = column(source, label)
    among = (
        # All names, also of emoji outside the split: fewer to choose from would make the task easier.
        column(emoji_source(split="all", unit="entry"), label) if label == "name" else values[rows]
    )
    classes = tuple(np.unique(among).tolist())
    # np.unique has sorted the classes.
    labels = np.searchsorted(classes, values)
    data = SuiteData(
        source,
        {"gender": codes, "label": labels},
        {"gender": GENDERS},
        {"": classes},
        {"": ("{}", "a drawing of {}", "a picture of {}", "an emoji of {}")},
        # The genders and tones of a concept are one drawing in other colours.
        clusters=np.unique(concept, return_inverse=True)[1],
        cluster="concept",
    )
    return data if part == "all" else take(data, rows)
