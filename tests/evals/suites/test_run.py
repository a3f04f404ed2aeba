"""Every suite goes from a folder in its published layout to numbers of an encoder."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bias_clip.data.records import Source
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import family_of
from bias_clip.evals.ranking import unit
from bias_clip.evals.suites import SUITES, load_suite, make_suite
from bias_clip.evals.suites.descriptions import SUITE_DESCRIPTIONS
from tests.evals.suites.folders import PNG, fairface, images, karpathy, npy, tars, visogender


def _vectors(keys: Sequence[str]) -> np.ndarray:
    return unit(
        np.stack([np.random.default_rng(zlib.crc32(k.encode())).normal(size=8) for k in keys])
    )


def _images(source: Source) -> np.ndarray:
    return _vectors([source[i]["id"] for i in range(len(source))])


ENCODE = Encode(_images, _vectors, 20.0, 0.0)


def _objectives(suite: str) -> dict[str, str]:
    spec = load_suite(suite)
    classes = [f"{key}:{name}" for key, names in spec.classes.items() for name in names]
    templates = [f"{key}:{text}".replace("{}", "{c}") for key, text in spec.prompts.items()]
    names = ("classnames.txt", "zeroshot_classification_templates.txt")
    return {n: "\n".join(lines) for n, lines in zip(names, (classes, templates), strict=True)}


CLASSES = {
    "classnames.txt": "".join(f"thing {i}\n" for i in range(7)),
    "zeroshot_classification_templates.txt": "a {c}.\nthe {c}\n",
}


def _folder(name: str, path: Path) -> Path:
    """A data set for the suite."""
    layout = load_suite(name).layout
    if layout == "wds_fairness":
        rows = [[i % 9, i % 2, i % 5, int(i % 5 != 1)] for i in range(10)]
        samples = [{"png": PNG, "npy": npy(row)} for row in rows]
        return tars(path, samples, texts=_objectives(name))
    if layout.startswith("wds"):
        width = 2 if layout == "wds_geode" else 3
        samples = [
            {"png": PNG, "cls": str(i % 7).encode(), "npy": npy([i % 3] * width)} for i in range(14)
        ]
        return tars(path, samples, texts=CLASSES)
    if layout == "captions":
        return karpathy(path)
    if layout == "visogender":
        return visogender(path)
    if layout == "sispi":
        genders, races = ("male", "female"), ("asian", "black", "latin", "white")
        images(path, [f"{p}_{i}_{g}_{e}.jpg" for i, p in enumerate(("cook", "guard"))
                      for g in genders for e in races])  # fmt: skip
        return path
    if layout == "celeba":
        images(path / "img_align_celeba", [f"{i}.jpg" for i in range(8)])
        rows = [f"{i}.jpg,{2 * (i % 2) - 1},{1 - 2 * (i // 4)}" for i in range(8)]
        (path / "list_attr_celeba.csv").write_text("\n".join(["image_id,Blond_Hair,Male", *rows]))
        parts = [f"{i}.jpg,2" for i in range(8)]
        (path / "list_eval_partition.csv").write_text("\n".join(["image_id,partition", *parts]))
        return path
    if layout == "waterbirds":
        images(path, [f"a/{i}.jpg" for i in range(8)])
        rows = [f"{i},a/{i}.jpg,{i % 2},2,{i // 4},x" for i in range(8)]
        header = "img_id,img_filename,y,split,place,place_filename"
        (path / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
        return path
    return fairface(path, number=28)


def _files(path: Path) -> dict[str, str]:
    """The user's copies of files that may not be shipped."""
    path.mkdir()
    (path / "So-B-IT_taxonomy.json").write_text(json.dumps({"a": ["vo", "ka"], "b": ["vo"]}))
    (path / "So-B-IT_categories.json").write_text(json.dumps({"vo": "ADJECTIVE", "ka": "NOUN"}))
    (path / "p.csv").write_text("template,concept\nA {} one,vo\n,ka\n")
    for role in "xyab":
        (path / role).write_text(f"{role} one\n{role} two\n")
    return {"words": str(path), "prompts": str(path / "p.csv")} | {r: str(path / r) for r in "xyab"}


@pytest.mark.parametrize("name", SUITES)
def test_suite_from_folder_to_numbers(name, tmp_path: Path) -> None:
    evaluate = make_suite(name, _folder(name, tmp_path / "data"), files=_files(tmp_path / "files"))
    results = evaluate(ENCODE)
    assert results
    for result in results.values():
        numbers = np.array(list(result.metrics.values()))
        assert np.isfinite(numbers).any()
        json.dumps(result.details)
        if result.details["kind"] in SUITE_DESCRIPTIONS:
            described = SUITE_DESCRIPTIONS[result.details["kind"]].metrics
            assert all(family_of(key, described) for key in result.metrics)
            assert result.details["not_enough"].keys() == {
                key for key, value in result.metrics.items() if np.isnan(value)
            }


def test_parts_of_suites(tmp_path: Path) -> None:
    files = _files(tmp_path / "files")
    sobit = make_suite("sobit", fairface(tmp_path / "f"), files=files)(ENCODE)
    assert sobit.keys() == {"race", "gender"}
    assert sobit["race"].metrics["words"] == 3
    people = make_suite("visogender", visogender(tmp_path / "v"))(ENCODE)
    assert people["resolution"].metrics["men_of_one_person"] == 4
    assert people["retrieval"].metrics["occupations"] == 2


def test_several_labels_are_scored_as_such(tmp_path: Path) -> None:
    samples = [{"png": PNG, "npy": npy(np.eye(7, dtype=int)[i])} for i in range(7)]
    folder = tars(tmp_path, samples, texts={**CLASSES, "dataset_type.txt": "multilabel"})
    assert "map" in make_suite("wds_zeroshot", folder)(ENCODE)["all"].metrics


def test_files_that_are_not_given_and_wrong_data_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"files\['words'\]: folder with So-B-IT_taxonomy"):
        make_suite("sobit", tmp_path)
    samples = [{"png": PNG, "txt": b"a circle"}] * 2
    folder = tars(tmp_path / "r", samples, texts={"dataset_type.txt": "retrieval"})
    with pytest.raises(ValueError, match="needs a data set of classes"):
        make_suite("wds_zeroshot", folder)


def test_retrieval_of_visogender_asks_for_their(tmp_path: Path) -> None:
    asked: list[str] = []

    def texts(strings: Sequence[str]) -> np.ndarray:
        asked.extend(strings if len(strings) == 1 else ())
        return _vectors(strings)

    make_suite("visogender", visogender(tmp_path))(Encode(_images, texts, 20.0, 0.0))
    assert asked == ["The teacher and their student", "The guard and their student"]
