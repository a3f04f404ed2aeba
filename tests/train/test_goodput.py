"""The parts of a run's wall time add up to it, over restarts that lose work."""

import json
import time

import pytest

from bias_clip.core.storage import write_whole
from bias_clip.report.run_page import goodput_rows
from bias_clip.report.run_read import Run
from bias_clip.train.display import goodput


def test_parts_of_an_interval_and_the_rest_as_steps(tmp_path):
    spent = goodput.start(tmp_path, step=0, began=time.time() - 3)
    spent = goodput.add(spent, 10.0, {"compile": 4.0, "input": 1.0})
    assert spent.seconds["steps"] == pytest.approx(5)
    assert spent.seconds["compile"] == 4
    assert spent.seconds["start"] == pytest.approx(3, abs=0.5)
    line = goodput.line(spent)
    assert line["goodput"] == pytest.approx(5 / 13, abs=0.02)
    assert sum(line[f"goodput/{part}"] for part in goodput.PARTS) == pytest.approx(13, abs=0.5)


def killed_after(workdir, *, saved, then, ago):
    """A run that saved after step 4 and went on; its last sign of life was `ago` seconds ago."""
    spent = goodput.add(goodput.start(workdir, step=0, began=time.time()), *saved)
    spent = goodput.add(goodput.mark_saved(spent, 4), *then)
    goodput.write(workdir, spent._replace(alive=time.time() - ago))


def test_work_after_the_checkpoint_is_lost_and_the_gap_is_waiting(tmp_path):
    killed_after(
        tmp_path, saved=(20.0, {"compile": 8.0}), then=(7.0, {"input": 2.0, "save": 1.0}), ago=50
    )
    again = goodput.start(tmp_path, step=4, began=time.time() - 5).seconds
    assert again["lost"] == pytest.approx(6)  # four of steps and two of input
    assert again["steps"] == pytest.approx(12)
    assert again["input"] == 0
    assert again["compile"] == 8  # was necessary, and is not made up for
    assert again["waiting"] == pytest.approx(45, abs=0.5)
    assert again["start"] == pytest.approx(5, abs=0.5)
    assert sum(again.values()) == pytest.approx(20 + 7 + 50, abs=1)


def test_all_is_lost_without_a_checkpoint_and_nothing_if_its_sums_are_unknown(tmp_path):
    killed_after(tmp_path, saved=(20.0, {}), then=(7.0, {}), ago=0)
    assert goodput.start(tmp_path, step=0, began=time.time()).seconds["lost"] == pytest.approx(27)
    assert goodput.start(tmp_path, step=9, began=time.time()).seconds["lost"] == 0


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"seconds": 1, "saved": {}, "alive": 0}']
)
def test_a_damaged_file_is_named(tmp_path, content):
    write_whole(tmp_path / goodput.FILE, content)
    with pytest.raises(ValueError, match=r"goodput.json: got .*remove it"):
        goodput.start(tmp_path, step=0, began=time.time())


def test_the_file_is_json_and_only_the_newest_saves_stay(tmp_path):
    spent = goodput.start(tmp_path, step=0, began=time.time())
    for step in range(100):
        spent = goodput.mark_saved(spent, step)
    goodput.write(tmp_path, spent)
    assert next(iter(json.loads((tmp_path / goodput.FILE).read_text())["saved"])) == "36"


def test_the_report_lists_the_largest_part_first():
    row = {"step": 1, "goodput/steps": 75.0, "goodput/save": 25.0, "goodput/lost": 0.0}
    rows = goodput_rows(Run("run", {}, {}, [row], {}, []))
    assert [(name, share) for name, _, share in rows] == [
        ("training steps", "75.0\u202f%"),
        ("saving checkpoints", "25.0\u202f%"),
    ]
