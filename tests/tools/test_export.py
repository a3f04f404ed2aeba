"""`bias-clip export` of a run: the same logits after loading, and a card that states data, quality and bias."""

import json

import jax
import pytest

from bias_clip.cli.export import LAYOUTS, PARTS, main
from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.exports import export_folder
from bias_clip.train.workdir.load_run import load_run
from tests.pretrained.test_load import same
from tests.tools.runs import make_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    text = dict(tokenizer="emoji", length=16, lower=False, form="siglip")
    path = make_run(tmp_path_factory.mktemp("export") / "mine", data__text=text)
    (path / "evals").mkdir()
    for name, details, metrics in [
        ("names", {"kind": "zeroshot"}, {"top1": 0.25}),
        ("roles", {"kind": "representation"}, {"gap": 0.5}),
    ]:
        record = {"step": 4, "metrics": metrics, "details": details}
        (path / f"evals/{name}.json").write_text(json.dumps(record))
    return path


def test_a_run_goes_out_and_comes_in_again(workdir, tmp_path, capsys):
    out = tmp_path / "out"
    main(["--from", str(workdir), "--layout", "big_vision", "--out", str(out)])
    run = load_run(workdir)
    loaded = load_pretrained(out / "model.npz", image={"num_heads": 2}, text={"num_heads": 2})
    same(loaded.params, jax.device_get(run.params))
    card = (out / "README.md").read_text()
    assert "# mine" in card
    assert "Step 4 of a run" in card
    assert "Not balanced: each example counts the same." in card
    assert "form='siglip'" in card
    assert str(out) in capsys.readouterr().out


def test_the_step_of_a_checkpoint_and_a_place_for_nothing_are_refused_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nothing"):
        main(
            [
                "--from",
                str(tmp_path / "nothing"),
                "--layout",
                "open_clip",
                "--out",
                str(tmp_path / "o"),
            ]
        )
    both = ["--from", str(tmp_path), str(tmp_path), "--layout", "hugging_face"]
    with pytest.raises(SystemExit, match=r"got 2 stages .* No layout holds several"):
        main([*both, "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit, match="only runs have steps"):
        main(
            [
                "--from",
                str(tmp_path),
                "--step",
                "3",
                "--layout",
                "open_clip",
                "--out",
                str(tmp_path / "o"),
            ]
        )


def test_the_words_of_the_command_are_those_of_the_package():
    assert LAYOUTS == export_folder.LAYOUTS
    assert PARTS == export_folder.PARTS
