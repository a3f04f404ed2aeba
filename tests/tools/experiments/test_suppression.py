"""What the comparison of stages with as much other training runs, reads and prints."""

from pathlib import Path

from configs.suppressed import get_config
from tools.experiments import suppression


def test_controls_cost_what_the_stages_cost():
    runs = list(suppression.plan(Path("w"), 1, 10))
    assert [run.name for run in runs] == ["base", "scratch", "long", "plain", "plain"]
    assert get_config().total.replace("_", "") == f"{suppression.EXAMPLES} examples"
    totals = [part for run in runs[2:] for part in run.command if "total" in part]
    assert totals == ["--config.total=120000 examples"] + ["--config.total=40000 examples"] * 2
    seeds = [part for run in runs[2:] for part in run.command if "seed" in part]
    assert len(set(seeds)) == 3
    assert runs[0].command[runs[0].command.index("--seed") + 1] == "1"
    assert len({run.workdir for run in runs}) == 5


def test_rows_join_the_runs_that_they_name():
    found = {name: suppression.runs_of(Path("w"), name, 0) for name in suppression.ROWS}
    counts = {name: len(runs) for name, runs in found.items()}
    assert counts == dict(
        [("base 0", 1), ("base 0-1", 2), ("base 0-2", 3), ("base 1", 1), ("base 2", 1)]
        + [("scratch 0-1", 2), ("scratch 0-2", 3), ("long", 1), ("plain 0-1", 2), ("plain 0-2", 3)]
    )
    assert found["plain 0-2"][0] == found["base 0"][0]  # the stages' own plain run is one of three
    assert found["base 0-2"][2] == found["base 2"][0]
    made = [run.workdir for run in suppression.plan(Path("w"), 0, 10)]
    assert {found["long"][0], *found["plain 0-2"][1:]} <= set(made)


def test_the_table_is_in_percent(tmp_path):
    def run(value):
        metrics = {
            f"eval/{s}/{kind}_{f}": value
            for s in suppression.SETS
            for f in suppression.FACTORS
            for kind in ("acc1", "chance")
        }
        return {**metrics, "eval/style/acc1_name": value / 2}

    found = {name: [run(0.25), run(0.75)] for name in suppression.ROWS}
    lines = suppression.make_table(found)
    assert len(lines) == 2 + len(suppression.ROWS) + 1
    assert lines[2].startswith("| stage 0, a plain run | 50.0 ± 35.4 |")
    assert "| 25.0 ± 17.7 |" in lines[2]
    suppression.plot(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000
