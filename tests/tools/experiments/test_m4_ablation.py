"""The ablation of M4: its grid, and the report of finished runs."""

import json

import pytest

from bias_clip.evals.audit.audit import VERSION
from configs.m4_people import SUITES, get_config
from tools.experiments.m4_ablation import SHARES, variants
from tools.experiments.m4_report import METRICS, difference, write_report
from tools.experiments.m4_suites import AUDITED, NUMBERS, audit_flags

LOSSES = ("siglip", "clip")


def write_runs(folder, value, seeds=3):
    """Evaluations of runs whose every metric is value(variant, seed), 0.1 wide, and their audits."""
    keys = [*METRICS, *NUMBERS]
    for variant in variants():
        for seed in range(seeds):
            x = value(variant, seed)
            evals = folder / f"{variant}_{seed}" / "evals"
            evals.mkdir(parents=True)
            for name in {key.partition("/")[0] for key in keys}:
                own = [key.partition("/")[2] for key in keys if key.startswith(f"{name}/")]
                found = {"step": 1, "metrics": dict.fromkeys(own, x)}
                roles = [{"name": "judge", "gap": 0.5}, {"name": "elf", "gap": None}]
                ends = {key: [x - 0.05, x + 0.05] for key in own}
                found["details"] = {"concepts": roles, "intervals": ends}
                (evals / f"{name}.json").write_text(json.dumps(found))
    for loss in LOSSES:
        for seed in range(seeds):
            path = folder / "audits" / f"{loss}_{seed}" / "audit.json"
            path.parent.mkdir(parents=True)
            plain, *others = [value(f"{loss},{variant}", seed) for variant in AUDITED.values()]
            path.write_text(json.dumps(example_audit([x - plain for x in others])))
    return folder


def example_audit(differences):
    """Differences with intervals of 0.02 to either side; those of at least 0.1 have a small p."""
    contrasts = [
        dict(value=d, low=d - 0.02, high=d + 0.02, corrected=0.01 if abs(d) >= 0.1 else 0.5)
        for d in differences
    ]
    suites: dict = {}
    for key in NUMBERS:
        evaluator, _, metric = key.partition("/")
        suite = max((s for s in SUITES if evaluator.startswith(s)), key=len)
        part = evaluator.removeprefix(suite).lstrip("_") or "all"
        own = suites.setdefault((suite, part), [])
        own.append({"key": metric, "contrasts": contrasts})
    return {
        "models": [{"name": name} for name in AUDITED],
        "settings": {"version": VERSION},
        "suites": [
            {"name": suite, "parts": [{"name": part, "numbers": numbers}]}
            for (suite, part), numbers in suites.items()
        ],
    }


def example(variant, seed):
    lower = 0.1 + 0.001 * seed if "balanced,100" in variant else 0.05 * ("proxies,100" in variant)
    return 0.3 + 0.01 * seed - lower


def test_grid_is_losses_by_data_by_stages_and_every_config_of_it_loads():
    grid = variants()
    assert len(set(grid)) == len(grid) == 2 * (1 + 3 * len(SHARES) + 1)
    for variant in grid:
        config = get_config(variant)
        _, data, percent = variant.split(",")
        assert (config.data.balance is None) == (data == "plain")
        if percent == "90":
            assert config.data.balance.switch == "90%"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of the example's report, which is drawn once."""
    folder = tmp_path_factory.mktemp("report")
    write_report(write_runs(folder / "runs", example), variants(), 3, folder / "out")
    return folder / "out"


def test_report_pairs_runs_of_one_seed_and_has_all_figures(report):
    text = (report / "results.md").read_text()
    assert "| balanced - plain | RB, roles | -10.1 | 6 | 0.031 |" in text
    assert "| balanced | 20.9 ± 0.9 |" in text
    assert "| balanced - plain | max skew of the first 50, nats | -0.101 | 6 | 0.031 |" in text
    sizes = [(report / f"{name}.png").stat().st_size for name in ("stages", "quality")]
    assert min(sizes) > 10_000
    assert (report / "roles.png").exists()


def test_numbers_of_suites_have_the_mean_interval_over_images_beside_the_deviation(report):
    text = (report / "results.md").read_text()
    plain, balanced = "31.0 [26.0, 36.0] ± 1.0", "20.9 [15.9, 25.9] ± 0.9"
    values = f"{plain} | {plain} | {balanced} | 26.0 [21.0, 31.0] ± 1.0"
    same, lower = "+0.0 [-2.0, +2.0] ± 0.0; 0 of 3", "-10.1 [-12.1, -8.1] ± 0.1; 3 of 3"
    differences = f"{same} | {lower} | -5.0 [-7.0, -3.0] ± 0.0; 0 of 3"
    for cells in (values, differences):
        assert text.count(f"| role recognised, % | {cells} |") == 2
    written = json.loads((report / "suites.json").read_text())
    found = written["minus_plain"]["clip"]["balanced"]["emoji_association/pairs_mean"][2]
    assert found == pytest.approx(dict(value=-0.102, low=-0.122, high=-0.082, p=0.01))


def test_audit_is_of_the_runs_and_suites_that_the_report_reads(tmp_path):
    flags = audit_flags(tmp_path, "clip", 2)
    runs = flags[: flags.index("--suite")]
    assert runs[0] == f"plain={tmp_path}/clip,plain,0_2"
    assert {run.partition("=")[2].removesuffix("_2") for run in runs} <= {
        f"{tmp_path}/{variant}" for variant in variants()
    }
    evals = get_config("clip,plain,0").evals
    assert all(evals[name].type == "suite" for name in SUITES)
    assert flags[len(runs) + 1 : -1] == list(SUITES)


def test_audit_of_other_models_is_refused_by_name(tmp_path):
    runs = write_runs(tmp_path / "runs", example)
    path = runs / "audits" / "clip_1" / "audit.json"
    audit = json.loads(path.read_text())
    audit["models"].reverse()
    path.write_text(json.dumps(audit))
    with pytest.raises(ValueError, match=r"clip_1.*expected \['plain'"):
        write_report(runs, variants(), 3, tmp_path / "out")


def test_audit_of_another_version_is_refused_by_name(tmp_path):
    runs = write_runs(tmp_path / "runs", example)
    path = runs / "audits" / "clip_1" / "audit.json"
    audit = json.loads(path.read_text())
    audit["settings"]["version"] = VERSION - 1
    path.write_text(json.dumps(audit))
    with pytest.raises(ValueError, match=rf"clip_1.* is of version {VERSION - 1}, not {VERSION}"):
        write_report(runs, variants(), 3, tmp_path / "out")


def test_run_without_intervals_is_named(tmp_path):
    runs = write_runs(tmp_path / "runs", example)
    path = runs / "siglip,random,100_1" / "evals" / "emoji_roles.json"
    result = json.loads(path.read_text())
    del result["details"]["intervals"]["acc_range"]
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"siglip,random,100_1 has no emoji_roles/acc_range"):
        write_report(runs, variants(), 3, tmp_path / "out")


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
