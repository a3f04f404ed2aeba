"""What differs between two plans is named, with both values, and only that."""

import json

import pytest

from bias_clip.core.plans import SHOWN, check_same_plan, claim_folder, differences

PLAN = {
    "model": {"size": 3, "name": "a"},
    "seed": 0,
    "parts": [{"x": 1}, {"x": 2}],
    "sizes": (1, 2),
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"sizes": [1, 2]}, []),
        ({"later": None}, []),
        ({"seed": 1}, ["seed: 1 there, 0 now"]),
        ({"model": {"size": 4, "name": "a"}}, ["model.size: 4 there, 3 now"]),
        ({"model": {"name": "a"}}, ["model.size: None there, 3 now"]),
        ({"extra": {"y": 1}}, ["extra.y: 1 there, None now"]),
        ({"parts": [{"x": 1}, {"x": 5}]}, ["parts.1.x: 5 there, 2 now"]),
        ({"parts": []}, ["parts.0.x: None there, 1 now", "parts.1.x: None there, 2 now"]),
        ({"sizes": [2, 1]}, ["sizes: [2, 1] there, [1, 2] now"]),
    ],
)
def test_differences_are_named_with_both_values(change, expected):
    found = differences({**PLAN, **change}, PLAN)
    assert [line for line in found if line != "parts: [] there, None now"] == expected


def test_what_may_change_may_and_its_namesakes_may_not():
    there = {**PLAN, "model": {"size": 9, "name": "b"}, "models": 1}
    assert differences(there, PLAN, may_change=["model"]) == ["models: 1 there, None now"]
    assert differences(there, PLAN, may_change=["model.size", "models"]) == [
        "model.name: 'b' there, 'a' now"
    ]


def test_the_message_says_what_differs_and_what_to_do():
    check_same_plan("x", PLAN, PLAN, advice="y")
    with pytest.raises(ValueError, match=r"^runs/a is another \(seed: 1 there, 0 now\). Move it.$"):
        check_same_plan("runs/a is another", {**PLAN, "seed": 1}, PLAN, advice="Move it.")


def test_long_messages_are_cut_and_say_so():
    many = {f"k{i}": i for i in range(SHOWN + 3)}
    with pytest.raises(ValueError, match=rf"k{SHOWN - 1}: .*; and 3 more\)"):
        check_same_plan("x", many, {}, advice="y")
    (line,) = differences({"a": "z" * 5000}, {"a": "b"})
    assert len(line) < 300
    assert line.endswith("... there, 'b' now")


def test_a_folder_becomes_one_of_the_plan_and_stays_it(tmp_path):
    folder = tmp_path / "new" / "folder"
    arguments = dict(claim="taken", advice="Choose another.")
    claim_folder(folder, PLAN, **arguments)
    assert json.loads((folder / "plan.json").read_text()) == json.loads(json.dumps(PLAN))
    (folder / "result").touch()
    claim_folder(folder, PLAN, **arguments)
    with pytest.raises(ValueError, match=r"^taken \(seed: 0 there, 5 now\). Choose another.$"):
        claim_folder(folder, {**PLAN, "seed": 5}, **arguments)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "plan.json.partial").write_text("ha")  # as a kill leaves it
    claim_folder(tmp_path, PLAN, claim="x", advice="y", ignore=(".lock",))
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"holds other things, \['.lock'\]; choose another folder"):
        claim_folder(tmp_path, PLAN, claim="x", advice="y")
    assert not (tmp_path / "plan.json").exists()
