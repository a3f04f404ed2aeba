"""Records of captions for the tests of rows and of the pipeline, and what one process makes of them."""

import numpy as np

from bias_clip.curation.captions import Lists
from bias_clip.curation.rows import (
    ColumnRule,
    Fields,
    Plan,
    annotate_rows,
    count_columns,
    join_columns,
    make_annotators,
    plan_names,
    row_of,
)
from bias_clip.curation.word_lists import WordList

LISTS = Lists(
    attributes=(WordList("gender", "0" * 64, {"man": ("man",), "woman": ("woman",)}),),
    labels=(WordList("jobs", "1" * 64, {"nurse": ("nurse",), "pilot": ("pilot",)}),),
    proxies=(WordList("things", "2" * 64, {"plane": ("plane",)}),),
)
PLAN = Plan(LISTS, (ColumnRule("old", "age", ("old",), ("young",), None),))
FIELDS = Fields("id", ("caption",))


def records(n):
    rng = np.random.default_rng(0)
    words = ["a man", "a woman", "a nurse", "a pilot", "a plane", "the sea"]
    return [
        {
            "id": f"x{i}",
            "caption": " and ".join(rng.choice(words, 2, replace=False)),
            "age": str(rng.choice(["old", "young", "?"])),
        }
        for i in range(n)
    ]


def annotated(given):
    """Columns by rising id."""
    rows = [row_of(record, FIELDS) for record in given]
    return join_columns([annotate_rows(rows, make_annotators(PLAN), PLAN.rule)])


def counted(given):
    """Count table and names."""
    names = plan_names(PLAN)
    return count_columns(annotated(given), names), names
