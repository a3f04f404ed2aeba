"""The table of plans is the one of its file, and says what a record says."""

import json
from pathlib import Path

import pytest

from tools.experiments.plan_table import ROWS, command, make_table

DOCS = Path(__file__).parents[3] / "docs"


def record(**changes):
    return {
        "memory": dict(parameters=1, optimizer=0.5, batch=0.25, loss=0.5, activations=2, code=0),
        "total": 4.25,
        "fits": True,
        "flops": 5.5e15,
        "sent bytes": {"all-reduce": 3 * 2**20},
        "seconds": {"compute": 0.1, "hbm": 0.2, "links": 0.01},
        "mfu at most": 0.5,
        "mfu in turns": 0.25,
        "compiler's seconds": 0.3,
        **changes,
    }


def cells(number, found):
    lines = make_table({" ".join(command(*ROWS[number - 1][1:])): found})
    assert len(lines) == 3  # two of the head
    return [cell.strip() for cell in lines[2].split("|")[1:-1]]


def test_a_row_says_what_its_record_says():
    *_, state, temporaries, loss, whole, flops, sent, times, mfu, guess = cells(1, record())
    assert (state, temporaries, loss, whole) == ("1.00 + 0.50 + 0.25", "2.50", "512.0", "4.25")
    assert (flops, sent, times, mfu) == ("5.50", "all-reduce 3", "100, 200, 10", "25 to 50")
    assert guess == "300"


def test_what_does_not_fit_is_said():
    assert cells(7, record(fits=False))[6] == "4.25 (**does not fit**)"
    refused = record(fits=False)
    del refused["total"]
    assert cells(7, refused)[4] == "**does not fit**"


def test_a_compiler_that_guesses_nothing_leaves_no_number():
    assert cells(3, record(**{"compiler's seconds": None}))[-1] == ""


def test_rows_are_calls_of_their_own():
    assert len({" ".join(command(*row[1:])) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("line", make_table(json.loads((DOCS / "plans.json").read_text())))
def test_the_page_has_the_table_of_the_file(line):
    assert line in (DOCS / "plans.md").read_text().splitlines()
