"""The tool that embeds a data set: what it writes, and that a kill leaves no trace."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bias_clip.cli import embed as tool
from bias_clip.cli import evaluate
from bias_clip.cli.shared import evaluate_run
from bias_clip.data.sources import SOURCES
from bias_clip.data.tables.embeddings import open_embeddings
from bias_clip.evals import embed_rows
from bias_clip.evals.concat import concat_encode
from bias_clip.train.workdir import load_model, load_run
from tests.tools.runs import make_run
from tests.train.tiny import Squares, use_squares
from tests.users import environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two stages; the second's model is narrower, and the first has two checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        first = make_run(folder / "first", seed=0, steps=(4, 6))
        second = make_run(folder / "second", seed=1, width=16)
    return first, second


@pytest.fixture(scope="module")
def once():
    """Loads and compiles each checkpoint once for all tests: it is most of what they cost."""
    loaded, stages, real = {}, {}, (load_run.load_run, load_run.as_stage)

    def load(workdir, step=None):
        workdir = Path(workdir)
        if (workdir, step) not in loaded:
            run = real[0](workdir, step)
            loaded[workdir, step] = loaded[workdir, run.step] = run
        return loaded[workdir, step]

    def compiled(run, size):
        key = (run.workdir, run.step, size)
        if key not in stages:
            stages[key] = real[1](run, size)
        return stages[key]

    return load, compiled


@pytest.fixture(autouse=True)
def squares(monkeypatch, once):
    use_squares(monkeypatch)
    monkeypatch.setattr(load_run, "load_run", once[0])
    monkeypatch.setattr(load_model, "load_run", once[0])
    for module in (load_run, evaluate_run):
        monkeypatch.setattr(module, "as_stage", once[1])


def run_tool(out, *workdirs, flags=(), batch="16", source=("squares",)):
    given = [word for workdir in workdirs for word in ("--workdir", str(workdir))]
    tool.main([*given, "--source", *source, "--out", str(out), "--batch-size", batch, *flags])


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


def expected(*workdirs, form="raw"):
    stages = [load_run.as_stage(load_run.load_run(w), 16) for w in workdirs]
    encode, source = concat_encode(stages, form=form, batch_size=16), Squares()
    texts = [source[i]["captions"][0] for i in range(len(source))]
    return encode.images(source), encode.texts(texts)


def test_rows_are_the_models_embeddings_of_image_and_first_caption(runs, tmp_path, capsys):
    run_tool(tmp_path / "z", runs[0], flags=("--shard-rows", "16"))
    found = open_embeddings(tmp_path / "z")
    assert found.ids == Squares().columns["id"].tolist()
    for z, wanted in zip((found.image, found.text), expected(runs[0]), strict=True):
        np.testing.assert_allclose(np.asarray(z), wanted, atol=1e-5)
    assert found.manifest["shards"] == [16, 16, 8]
    plan, notes = found.manifest["plan"], found.manifest["notes"]
    assert plan["source"] == {"name": "squares"}
    assert plan["models"][0]["step"] == 6
    assert notes == {"checkpoints": [str(runs[0] / "checkpoints" / "6")]}
    assert "image and text of 40 examples, 32 numbers each" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["raw", "unit"])
def test_several_workdirs_are_one_model(runs, tmp_path, form):
    run_tool(tmp_path / "z", *runs, flags=("--concat", form, "--step", "6", "--step", "4"))
    found = open_embeddings(tmp_path / "z")
    assert found.manifest["width"] == 48
    for z, wanted in zip((found.image, found.text), expected(*runs, form=form), strict=True):
        np.testing.assert_allclose(np.asarray(z), wanted, atol=1e-5)
    alone = tmp_path / "alone"
    run_tool(alone, runs[0])
    raw = np.asarray(found.image)[:, :32] * found.image_norm[:, None]
    norm = open_embeddings(alone).image_norm if form == "raw" else np.ones(40)
    np.testing.assert_allclose(np.linalg.norm(raw, axis=1), norm, rtol=1e-5)


def test_killed_within_a_shard_it_goes_on_and_leaves_the_same_bytes(runs, tmp_path, monkeypatch):
    flags = ("--shard-rows", "8")
    run_tool(tmp_path / "once", runs[0], flags=flags)
    real, calls = embed_rows._features, []

    def counted(*arguments):
        calls.append(arguments[1])
        if len(calls) == 6:  # the texts of the third shard
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(embed_rows, "_features", counted)
    with pytest.raises(KeyboardInterrupt):
        run_tool(tmp_path / "twice", runs[0], flags=flags)
    run_tool(tmp_path / "twice", runs[0], flags=flags)
    assert len(calls) == 6 + 2 * 3  # three of five shards were not whole
    assert files(tmp_path / "once") == files(tmp_path / "twice")


def test_an_out_of_another_checkpoint_source_or_form_is_refused(runs, tmp_path):
    out = tmp_path / "z"
    run_tool(out, runs[0], flags=("--step", "6"))
    before = files(out)
    for changes, key in (
        ({"workdir": runs[1]}, "models"),
        ({"flags": ("--concat", "unit")}, "concat"),
        ({"flags": ("--modalities", "image")}, "modalities"),
        ({"source": ("squares", "shift=5")}, "source"),
    ):
        with pytest.raises(SystemExit, match=rf"other embeddings \({key}"):
            run_tool(out, changes.pop("workdir", runs[0]), **changes)
    assert files(out) == before
    run_tool(out, runs[0])  # the newest is that of step 6: nothing is left to do
    assert files(out) == before


class Spoilt(Squares):
    """Squares of which one cannot be decoded, one has no caption, and one cannot be read."""

    def __getitem__(self, i):
        if i == 20:
            raise ValueError("no such record")
        record = super().__getitem__(i)
        if i == 3:
            record["image"] = b"broken"
        return record | ({"captions": (" ",)} if i == 9 else {})


def test_bad_records_are_named_and_have_no_row(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SOURCES, "spoilt", Spoilt)
    out, words = tmp_path / "z", dict(source=("spoilt",))
    with pytest.raises(SystemExit, match=r"3 records cannot be read, 2 are allowed.*square/3"):
        run_tool(out, runs[0], **words, flags=("--max-broken", "2"))
    run_tool(out, runs[0], **words, flags=("--max-broken", "3"))
    found = open_embeddings(out)
    assert list(found.manifest["broken"]) == ["3", "9", "20"]
    assert found.ids == [f"square/{i}" for i in range(40) if i not in (3, 9, 20)]
    wanted = np.delete(expected(runs[0])[0], [3, 9, 20], axis=0)
    np.testing.assert_allclose(np.asarray(found.image), wanted, atol=1e-5)
    text = capsys.readouterr().out
    assert "no row for record 9: 'square/9': no caption" in text
    run_tool(
        tmp_path / "pictures",
        runs[0],
        **words,
        flags=("--max-broken", "2", "--modalities", "image"),
    )
    assert len(open_embeddings(tmp_path / "pictures").ids) == 38


def test_what_is_wrong_is_said_before_anything_is_written(runs, tmp_path):
    for words, message in (
        (dict(source=("circles",)), "unknown source 'circles'"),
        (dict(source=("squares", "shift")), "expected key=value"),
        (dict(flags=("--step", "5")), r"no checkpoint of step 5; it has \[4, 6\]"),
        (dict(flags=("--step", "4", "--step", "6")), "2 steps for 1 workdirs"),
        (dict(batch="12"), "12 does not divide over 8 devices"),
        (dict(flags=("--shard-rows", "0")), "shard_rows=0"),
    ):
        with pytest.raises(SystemExit, match=message):
            run_tool(tmp_path / "z", runs[0], **words)
    with pytest.raises(SystemExit, match="holds no run"):
        run_tool(tmp_path / "z", tmp_path)
    assert not (tmp_path / "z").exists()


def test_evaluate_takes_several_workdirs_as_one_model(runs, tmp_path, capsys):
    """One stage, whichever way it is joined, has the metrics that the run itself had."""
    evaluate.main(["--workdir", str(runs[0])])
    alone = capsys.readouterr().out
    out = tmp_path / "unit"
    evaluate.main(["--workdir", str(runs[0]), "--concat", "unit", "--out", str(out)])
    assert capsys.readouterr().out == alone
    assert (out / "color.json").is_file()
    evaluate.main(["--workdir", *map(str, runs), "--json", str(tmp_path / "both.json")])
    assert "eval/color/acc1" in capsys.readouterr().out
    assert '"steps": [\n    6,\n    4\n  ]' in (tmp_path / "both.json").read_text()
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([str(runs[0])])
    assert "the following arguments are required: --workdir" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_killed_without_warning_leaves_the_same_bytes(tmp_path):
    emoji = dict(name="emoji", split="concepts")
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        ops = "decode|background(white)|resize(16)|value_range(-1,1)"
        workdir = make_run(tmp_path / "run", data__source=emoji, evaluation__image=ops)
    command = [sys.executable, "tools/embed.py", "--workdir", str(workdir), "--batch-size", "16"]
    command += ["--source", "emoji", "split=concepts", "--shard-rows", "128"]
    place = dict(cwd=ROOT, env=environment(PYTHONPATH=""))

    def start(out):
        return subprocess.Popen([*command, "--out", str(out)], **place)

    assert start(tmp_path / "once").wait() == 0
    killed = start(tmp_path / "twice")
    while not (tmp_path / "twice" / "rows-00001.parquet.json").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "twice" / "manifest.json").exists()
    assert start(tmp_path / "twice").wait() == 0
    assert files(tmp_path / "once") == files(tmp_path / "twice")
    assert open_embeddings(tmp_path / "once").manifest["plan"]["source"] == emoji


def test_run_with_a_kernel_for_other_devices_is_taken_up_without_it(runs, tmp_path):
    workdir = tmp_path / "gpu"
    shutil.copytree(runs[0], workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["model"] |= {"attention": "cudnn", "dtype": "bfloat16"}
    (workdir / "config.json").write_text(json.dumps(config))
    for z, wanted in zip(expected(workdir), expected(runs[0]), strict=True):
        np.testing.assert_allclose(z, wanted, atol=0.05)  # bfloat16
