"""Every tool that takes a run takes a published checkpoint: the same model, measured the same."""

import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from bias_clip.cli import annotate, cluster, compare, embed, evaluate
from bias_clip.data.tables.embeddings import open_embeddings
from bias_clip.train.workdir.load_model import load_model, load_models
from tests.tools.runs import make_published
from tests.train.tiny import use_squares

HEADS = ["--set", "image.num_heads=2", "text.num_heads=2"]  # also in the file, as it happens
OPS = "decode|drop_alpha|resize(16,method=bilinear)|value_range(-1.0,1.0)"


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    use_squares(monkeypatch)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run, and the same model as a big_vision file with its vocabulary."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        run, published = make_published(folder)
    config = folder / "evaluators.py"
    config.write_text(
        "from bias_clip.train.options.schema import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.evals = dict(color=dict(type='zeroshot', label='name',\n"
        "        source=dict(name='squares', shift=5)))\n"
        "    return config\n"
    )
    return run, published, config


def test_a_checkpoint_is_measured_as_the_run_it_was(both, tmp_path, capsys):
    run, published, config = both
    out = tmp_path / "results"
    words = ["--workdir", str(published), *HEADS, "--config", str(config), "--out", str(out)]
    evaluate.main([*words, "--json", str(tmp_path / "b.json")])
    shown = capsys.readouterr().out
    assert "given: image.num_heads=2" in shown
    evaluate.main(["--workdir", str(run), "--json", str(tmp_path / "a.json")])
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert a["eval/color/acc1"] == pytest.approx(b["eval/color/acc1"])
    compare.main([f"run={run}", f"published={out}", "--metrics", "acc1"])
    assert "| run | published |" in capsys.readouterr().out
    assert not list(published.parent.glob("evals"))


def test_a_checkpoint_alone_cannot_be_compared_or_evaluated(both):
    _, published, _ = both
    with pytest.raises(
        SystemExit, match=r"evaluate --workdir .*model\.npz --config FILE --out DIR"
    ):
        compare.main([f"a={published}"])
    with pytest.raises(SystemExit, match="states no evaluators; expected --config"):
        evaluate.main(["--workdir", str(published), *HEADS])


def test_embeddings_of_both_are_equal_and_can_be_clustered(both, tmp_path, capsys):
    run, published, _ = both
    rest = ["--source", "squares", "--batch-size", "16"]
    embed.main(["--workdir", str(run), *rest, "--out", str(tmp_path / "a")])
    embed.main(["--workdir", str(published), *HEADS, *rest, "--out", str(tmp_path / "b")])
    a, b = (open_embeddings(tmp_path / name) for name in "ab")
    np.testing.assert_allclose(a.image, b.image, atol=1e-6)
    np.testing.assert_allclose(a.text, b.text, atol=1e-6)
    assert b.manifest["notes"]["checkpoints"] == [str(published)]
    table = tmp_path / "cells.parquet"
    cluster.main(["--embeddings", str(tmp_path / "b"), "--k", "3", "--out", str(table)])
    assert len(pq.read_table(table)) == 40
    # Another preprocessing is another model: its embeddings do not continue the first ones.
    other = ["--set", "image.num_heads=2", "text.num_heads=2", f"images={OPS}|value_range(0,1)"]
    with pytest.raises(SystemExit, match="error"):
        embed.main(["--workdir", str(published), *other, *rest, "--out", str(tmp_path / "b")])


def test_annotation_asks_a_checkpoint(both, tmp_path):
    _, published, _ = both
    (tmp_path / "prompts.txt").write_text("red: a red square\nblue: a blue square\n")
    words = [str(published), f"prompts={tmp_path / 'prompts.txt'}", "image.num_heads=2"]
    out = tmp_path / "table.parquet"
    given = ["--source", "squares", "--out", str(out), "--attributes", "--labels", "--proxies"]
    annotate.main([*given, "--zero-shot", *words, "text.num_heads=2"])
    assert {"red", "blue"} <= set(pq.read_table(out).column_names)


def test_an_override_is_named_and_changes_the_input(both):
    run, _, _ = both
    plain, lower = load_models([run]), load_models([run], changes={"texts.lower": True})
    assert plain[0].notes == ()
    assert lower[0].notes == ("override: texts.lower is True, in place of False",)
    (other,) = load_models([run], changes={"images": "decode|resize(16)|value_range(0,1)"})
    assert "in place of 'decode|drop_alpha" in other.notes[0]
    assert other.config.evaluation.image == "decode|resize(16)|value_range(0,1)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(path="/nowhere/at/all"), "holds no run and no published checkpoint"),
        (dict(path="RUN", changes={"image.num_heads": 2}), "expected one of tokenizer, images"),
        (dict(path="RUN", changes={"texts.bogus": 2}), "bogus"),
        (dict(path="FILE", step=3), "only runs have steps"),
    ],
)
def test_what_cannot_be_loaded_is_refused(both, arguments, message):
    run, published, _ = both
    arguments = dict(arguments)
    path = {"RUN": run, "FILE": published}.get(arguments.pop("path"), "/nowhere/at/all")
    with pytest.raises(ValueError, match=message):
        load_model(path, **arguments)


def test_a_tower_alone_needs_no_tokenizer_for_images(both):
    _, published, _ = both
    run = load_model(f"{published}:img", changes={"image.num_heads": 2})
    assert run.config.data.text is None
    assert set(run.params) == {"img"}
    assert jax.tree.leaves(run.params)
