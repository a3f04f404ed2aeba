"""The command: from a folder of a suite and tables of embeddings to a page and its numbers."""

import hashlib
import json

import numpy as np
import pytest

from bias_clip.cli.audit import main, make_parser, read_models
from bias_clip.data.records import column
from bias_clip.evals.suites.layouts import read_layout
from tests.evals.suites.folders import fairface, images
from tests.evals.suites.test_run import _vectors
from tests.tools.runs import make_published, make_run


def sispi(path):
    genders, races = ("male", "female"), ("asian", "black", "latin", "white")
    images(path, [f"{p}_{i}_{g}_{e}.jpg" for i, p in enumerate(("cook", "guard"))
                  for g in genders for e in races])  # fmt: skip
    return path


def embedded(folder, layout, path, texts, *, seed=""):
    data = read_layout(layout, path)
    ids = [data.source[i]["id"] for i in range(len(data.source))]
    arrays = {"ids": ids, "image": _vectors([f"{i}{seed}" for i in ids])}
    arrays |= {"texts": texts, "text": _vectors([f"{t}{seed}" for t in texts])}
    file = folder / f"z{seed}.npz"
    np.savez(file, **{key: np.array(value) for key, value in arrays.items()})
    return file


def test_texts_are_listed_then_two_tables_are_audited(tmp_path, capsys):
    data, listed = sispi(tmp_path / "sispi"), tmp_path / "texts.json"
    main(["--suite", f"sispi={data}", "--list-texts", str(listed)])
    texts = json.loads(listed.read_text())
    assert texts == ["a photo of a cook", "a photo of a guard"]
    files = [embedded(tmp_path, "sispi", data, texts, seed=seed) for seed in ("", "x")]
    out = tmp_path / "out"
    main(["a", "b", "--embeddings", f"a={files[0]}", f"b={files[1]}", "--suite", f"sispi={data}",
          "--out", str(out), "--resamples", "50"])  # fmt: skip
    record = json.loads((out / "audit.json").read_text())
    assert [model["name"] for model in record["models"]] == ["a", "b"]
    for model, file in zip(record["models"], files, strict=True):
        own = model["provenance"]
        assert (own["format"], own["given"]) == ("embeddings", str(file))
        assert own["sha256"] == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
        assert own["parameters"] is own["step"] is None
    assert "NDKL, gender" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        "index.html",
        "audit.json",
        "audit.csv",
        "audit.tex",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "sispi"], "needs its data set; give the folder"),
        (["--suite", "sispi={none}"], "there is no .*none"),
        (["--suite", "sobit={faces}"], "--file sobit.words=PATH"),
        (["--suite", "sispy={faces}"], "sispy"),
        (["--by", "gender"], "of --source, which is not given"),
        (["--source", "emoji", "split=style"], "--source needs --by"),
        (["--source", "emoji", "split=style", "--by", "hair"], "no attribute 'hair'"),
        (["--suite", "sispi={faces}"], "is not named profession_number_gender_ethnicity|no image"),
    ],
)
def test_what_is_missing_or_of_another_form_is_said_in_one_line(words, message, tmp_path, capsys):
    faces = fairface(tmp_path / "faces") / "val"
    told = [word.format(none=tmp_path / "none", faces=faces) for word in words]
    with pytest.raises(SystemExit, match=message):
        main(["m", *told, "--embeddings", "m=nowhere.npz"])


def test_an_audit_without_a_model_or_with_tables_of_no_model_is_refused(tmp_path):
    data = sispi(tmp_path / "sispi")
    with pytest.raises(SystemExit, match="got no model"):
        main(["--suite", f"sispi={data}"])
    file = embedded(tmp_path, "sispi", data, ["a"])
    with pytest.raises(SystemExit, match=r"--embeddings of \['other'\]"):
        main(["m", "--suite", f"sispi={data}", "--embeddings", f"m={file}", f"other={file}"])


def provenances(words):
    return [model.provenance for model in read_models(make_parser().parse_args(words))]


def test_a_run_and_its_export_are_named_as_typed_and_have_one_digest(tmp_path, monkeypatch):
    make_published(tmp_path)
    monkeypatch.chdir(tmp_path)
    run, published = provenances(["a=run", "published/model.npz"])
    assert (run.given, run.format, run.step) == ("run", "run", 4)
    assert (published.given, published.format) == ("published/model.npz", "published checkpoint")
    assert published.details == "siglip in the layout of big_vision"
    assert published.step is None
    assert run.sha256 == published.sha256
    assert run.parameters == published.parameters > 1_000
    assert str(tmp_path) not in repr((run, published))


def test_checkpoints_of_one_run_have_different_digests(tmp_path):
    first = make_run(tmp_path / "x" / "run", steps=(4,))
    second = make_run(tmp_path / "y" / "run", steps=(4, 8))
    old, new = provenances([f"old={first}", f"new={second}"])
    assert (old.step, new.step) == (4, 8)
    assert old.parameters == new.parameters
    assert old.sha256["parameters"] != new.sha256["parameters"]


def test_what_the_emoji_cannot_tell_is_said_where_they_are_asked_for(tmp_path):
    from bias_clip.evals.audit import list_texts, run_audit, table_model
    from bias_clip.evals.audit.own_data import EMOJI_LIMITS, suite_item
    from bias_clip.report.audits.audit_folder import write_audit

    emoji = suite_item("emoji_representation", None, {}, {})
    people = suite_item("sispi", str(sispi(tmp_path / "sispi")), {}, {})
    # All emoji are embedded, of which the suite takes some.
    sources = (emoji.data.source.source, people.data.source)
    ids = [str(name) for source in sources for name in column(source, "id")]
    texts = list_texts([emoji, people], baselines=False)
    arrays = {"ids": ids, "image": _vectors(ids), "texts": texts, "text": _vectors(texts)}
    np.savez(tmp_path / "z.npz", **{key: np.array(value) for key, value in arrays.items()})
    model = table_model("m", [tmp_path / "z.npz"])
    for items, said in (([people], False), ([people, emoji], True)):
        write_audit(run_audit([model], items, num=50, baselines=False), tmp_path / "out")
        assert (EMOJI_LIMITS[0] in (tmp_path / "out" / "index.html").read_text()) == said
