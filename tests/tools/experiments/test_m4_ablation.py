"""The ablation of M4: its grid, and the report of finished runs."""

import json

import pytest

from configs.m4_people import get_config
from tools.experiments.m4_ablation import SHARES, variants
from tools.experiments.m4_report import METRICS, difference, write_report


def write_runs(folder, value, seeds=3):
    """Evaluations of runs whose every metric is value(variant, seed)."""
    for variant in variants():
        for seed in range(seeds):
            evals = folder / f"{variant}_{seed}" / "evals"
            evals.mkdir(parents=True)
            for name in {metric.partition("/")[0] for metric in METRICS}:
                own = [m.partition("/")[2] for m in METRICS if m.startswith(f"{name}/")]
                found = {"step": 1, "metrics": dict.fromkeys(own, value(variant, seed))}
                roles = [{"name": "judge", "gap": 0.5}, {"name": "elf", "gap": None}]
                found["details"] = {"concepts": roles}
                (evals / f"{name}.json").write_text(json.dumps(found))
    return folder


def example(variant, seed):
    return 0.3 + 0.01 * seed - (0.1 + 0.001 * seed) * ("balanced,100" in variant)


def test_grid_is_losses_by_data_by_stages_and_every_config_of_it_loads():
    grid = variants()
    assert len(set(grid)) == len(grid) == 2 * (1 + 3 * len(SHARES) + 1)
    for variant in grid:
        config = get_config(variant)
        _, data, percent = variant.split(",")
        assert (config.data.balance is None) == (data == "plain")
        if percent == "90":
            assert config.data.balance.switch == "90%"


def test_report_pairs_runs_of_one_seed_and_has_all_figures(tmp_path):
    runs = write_runs(tmp_path / "runs", example)
    text = write_report(runs, variants(), 3, tmp_path / "out")
    assert "| balanced - plain | RB, roles | -10.1 | 6 | 0.031 |" in text
    assert "| balanced | 20.9 ± 0.9 |" in text
    sizes = [(tmp_path / "out" / f"{name}.png").stat().st_size for name in ("stages", "quality")]
    assert min(sizes) > 10_000
    assert (tmp_path / "out" / "roles.png").exists()


def test_difference_is_of_pairs_and_not_of_means_alone(tmp_path):
    groups = {
        f"{loss},{name}": {"m": values}
        for loss in ("siglip", "clip")
        for name, values in (("a,100", [0.1, 0.5, 0.9]), ("b,0", [0.2, 0.6, 1.0]))
    }
    found = difference(groups, "a,100", "b,0", "m")
    assert found == pytest.approx((-0.1, 6, 2 / 2**6))


def test_unfinished_run_is_named(tmp_path):
    runs = write_runs(tmp_path, example)
    (runs / "clip,proxies,90_2" / "evals" / "known.json").unlink()
    with pytest.raises(ValueError, match=r"clip,proxies,90_2"):
        write_report(runs, variants(), 3, tmp_path / "out")
