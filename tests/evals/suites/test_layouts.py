"""The readers of published layouts give back the labels, and name the file that is missing or wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from bias_clip.data.sources import make_source
from bias_clip.evals.suites.layouts import LAYOUTS, read_layout
from bias_clip.evals.suites.layouts.tables import group_product
from bias_clip.evals.suites.layouts.word_files import (
    read_berg_prompts,
    read_professions,
    read_sobit_words,
)
from tests.evals.suites.folders import (
    PNG,
    RACES,
    fairface,
    images,
    karpathy,
    npy,
    tars,
    visogender,
)

CLASSES = {
    "classnames.txt": "round\nsquare\nring\n",
    "zeroshot_classification_templates.txt": "a {c}.\nthe {c}\n",
}
OBJECTIVES = {
    "classnames.txt": "age:0-2\nage:3-9\ngender:man\ngender:woman\nrace:black\ntoxic:latino/hispanic man\n",
    "zeroshot_classification_templates.txt": "age:a photo of a person {c} years old\ngender:a {c}\n",
}


def test_tars_of_classes(tmp_path: Path) -> None:
    labels = [2, 0, 1, 2, 0]
    samples = [{"png": PNG, "cls": str(label).encode()} for label in labels]
    data = read_layout("wds", tars(tmp_path / "a", samples, texts=CLASSES))
    assert data.codes["label"].tolist() == labels
    assert data.classes == {"": ("round", "square", "ring")}
    assert data.templates == {"": ("a {}.", "the {}")}
    assert data.source[4]["image"] == PNG


def test_tars_of_several_labels_and_of_metadata(tmp_path: Path) -> None:
    labels = [[1, 0, 1], [0, 0, 0], [0, 1, 1]]
    samples = [{"png": PNG, "npy": npy(row)} for row in labels]
    texts = {**CLASSES, "dataset_type.txt": "multilabel\n"}
    data = read_layout("wds", tars(tmp_path / "a", samples, texts=texts))
    np.testing.assert_array_equal(data.labels, labels)
    rows = [[3, 1, 0, 1], [8, 0, 1, 0], [0, 1, 6, 1]]
    samples = [{"png": PNG, "npy": npy(row)} for row in rows]
    data = read_layout("wds_fairness", tars(tmp_path / "b", samples, texts=OBJECTIVES))
    columns = ("age", "gender", "race", "race_binary")
    np.testing.assert_array_equal(np.stack([data.codes[c] for c in columns], axis=1), rows)
    assert data.classes["toxic"] == ("latino/hispanic man",)
    assert data.templates["age"] == ("a photo of a person {} years old",)


def test_tars_of_captions_have_one_per_line(tmp_path: Path) -> None:
    samples = [
        {"png": PNG, "txt": b"A circle.\nA red one.\n"},
        {"png": PNG, "txt": "A\u2028square.".encode()},
    ]
    data = read_layout("wds", tars(tmp_path, samples, texts={"dataset_type.txt": "retrieval"}))
    assert data.source[0]["captions"] == ("A circle.", "A red one.")
    assert data.source[1]["captions"] == ("A\u2028square.",)  # only line feeds end a line
    assert len(data.source) == 2


def test_tars_that_lack_something_are_refused(tmp_path: Path) -> None:
    samples = [{"png": PNG, "cls": b"5"}, {"png": PNG, "cls": b"0"}]
    folder = tars(tmp_path / "a", samples, texts=CLASSES)
    with pytest.raises(ValueError, match="labels go from 0 to 5; expected 0 to 2"):
        read_layout("wds", folder)
    with pytest.raises(ValueError, match="npy"):
        read_layout(
            "wds_geode", tars(tmp_path / "b", [{"png": PNG, "cls": b"0"}] * 2, texts=CLASSES)
        )
    (folder / "classnames.txt").unlink()
    with pytest.raises(ValueError, match=r"no .*classnames.txt: expected class names"):
        read_layout("wds", folder)
    (folder / "test" / "1.tar").unlink()
    with pytest.raises(ValueError, match=r"lacks 1\.tar"):
        read_layout("wds", folder)
    (folder / "test" / "nshards.txt").unlink()
    with pytest.raises(ValueError, match="number of shards"):
        read_layout("wds", folder)


def test_fairface(tmp_path: Path) -> None:
    data = read_layout("fairface_csv", fairface(tmp_path))
    assert data.names["race"] == RACES
    assert data.codes["race"].tolist() == [0, 1, 2, 3, 4, 5, 6] * 2
    assert data.codes["gender"].tolist() == [0, 1] * 7
    assert data.source[3]["image"] == PNG
    table = tmp_path / "fairface_label_val.csv"
    table.write_text(table.read_text().replace("20-29", "09-Mar"))
    with pytest.raises(ValueError, match=r"age is '09-Mar' in row 0"):
        read_layout("fairface_csv", tmp_path)
    with pytest.raises(ValueError, match=r"no .*fairface_label_train\.csv"):
        read_layout("fairface_csv", tmp_path, split="train")


def test_utkface_counts_odd_names(tmp_path: Path) -> None:
    images(tmp_path, ["1_0_2_20170109.jpg", "90_1_4_20170110.jpg.chip.jpg", "61_1_20170109.jpg"])
    data = read_layout("utkface", tmp_path)
    assert {key: codes.tolist() for key, codes in data.codes.items()} == {
        "age": [1, 90],
        "gender": [0, 1],
        "race": [2, 4],
    }
    assert data.names["race"][2] == "asian"
    assert [name for name, _ in data.skipped] == ["61_1_20170109.jpg"]


def test_sispi(tmp_path: Path) -> None:
    images(tmp_path, ["cook_1_female_black.jpg", "cook_2_male_asian.jpg", "guard_1_male_white.jpg"])
    data = read_layout("sispi", tmp_path)
    assert data.names["profession"] == ("cook", "guard")
    assert data.codes["profession"].tolist() == [0, 0, 1]
    assert data.codes["gender"].tolist() == [0, 1, 1]
    assert data.codes["ethnicity"].tolist() == [1, 0, 3]


def test_visogender_leaves_out_rows_without_an_address_or_image(tmp_path: Path) -> None:
    visogender(tmp_path)
    (tmp_path / "images" / "OP_3.jpg").unlink()
    one, two = (read_layout("visogender", tmp_path, people=people) for people in (1, 2))
    assert one.codes["Occupation_perceived_gender"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert one.skipped == (("OO_7", "has no address"),)
    assert [name for name, _ in two.skipped] == ["OP_3", "OP_7"]
    assert two.codes["Participant_perceived_gender"].tolist() == [1, 0, 1, 1, 0, 1]
    assert two.names["Occupation"] == ("teacher", "guard")
    assert two.cluster == "address"
    assert len(two.clusters) == len(two.source)


def test_captions_of_a_split_and_of_its_cut(tmp_path: Path) -> None:
    folder = karpathy(tmp_path / "f")
    data = read_layout("captions", folder)
    assert [len(data.source[i]["captions"]) for i in range(len(data.source))] == [5, 6, 5]
    cut = folder / "flickr30k_test_karpathy.txt"
    cut.write_text(
        "image,caption\n0.jpg,A circle, red.\n0.jpg,An\u2028other\n2.jpg,A square.jpg, he said\n"
    )
    data = read_layout("captions", cut)
    assert len(data.source) == 2
    assert data.source[0]["captions"] == ("A circle, red.", "An\u2028other")
    assert data.source[1]["captions"] == ("A square.jpg, he said",)
    assert data.source[1]["image"] == PNG


@pytest.mark.parametrize("form", ["txt", "csv"])
def test_celeba(tmp_path: Path, form) -> None:
    names = ["Bald", "Blond_Hair", "Male"]
    rows = [("000001.jpg", -1, 1, -1, 2), ("000002.jpg", -1, 1, 1, 0), ("000003.jpg", 1, -1, 1, 2)]
    images(tmp_path / "img_align_celeba", [row[0] for row in rows])
    if form == "txt":
        lines = ["3", " ".join(names) + " ", *(f"{r[0]} {r[1]:2} {r[2]:2} {r[3]:2}" for r in rows)]
        parts = [f"{row[0]} {row[4]}" for row in rows]
    else:
        lines = [",".join(["image_id", *names]), *(f"{r[0]},{r[1]},{r[2]},{r[3]}" for r in rows)]
        parts = ["image_id,partition", *(f"{row[0]},{row[4]}" for row in rows)]
    (tmp_path / f"list_attr_celeba.{form}").write_text("\n".join(lines) + "\n")
    (tmp_path / f"list_eval_partition.{form}").write_text("\n".join(parts) + "\n")
    data = read_layout("celeba", tmp_path)
    assert data.codes["Blond_Hair"].tolist() == [1, 0]
    assert data.codes["Male"].tolist() == [0, 1]
    codes, groups = group_product(data, "Blond_Hair", "Male")
    assert [groups[c] for c in codes] == ["blond, female", "not blond, male"]
    assert data.source[1]["image"] == PNG
    assert data.clusters is None
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 7\n000002.jpg 7\n000003.jpg 7\n")
    data = read_layout("celeba", tmp_path)
    assert (data.clusters.tolist(), data.cluster) == ([0, 0], "person")
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 7\n")
    with pytest.raises(ValueError, match=r"has no person of 000003\.jpg"):
        read_layout("celeba", tmp_path)
    (tmp_path / "identity_CelebA.txt").unlink()
    (tmp_path / "img_align_celeba").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="folder of CelebA's images"):
        read_layout("celeba", tmp_path)
    data = read_layout("celeba", tmp_path, images=str(tmp_path / "elsewhere"))
    assert data.source[1]["image"] == PNG


def test_waterbirds(tmp_path: Path) -> None:
    images(tmp_path, ["a/1.jpg", "a/2.jpg", "b/3.jpg"])
    (tmp_path / "metadata.csv").write_text(
        "img_id,img_filename,y,split,place,place_filename\n"
        "1,a/1.jpg,0,2,1,/o/1.jpg\n2,a/2.jpg,1,0,0,/b/2.jpg\n3,b/3.jpg,1,2,0,/b/3.jpg\n"
    )
    data = read_layout("waterbirds", tmp_path)
    assert data.codes["bird"].tolist() == [0, 1]
    assert data.codes["background"].tolist() == [1, 0]
    assert data.source[1]["image"] == PNG


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "emoji"])  # which has none
def test_a_folder_that_is_not_there_is_named(name, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        read_layout(name, tmp_path / "nowhere")


def test_sobit_words_in_two_categories(tmp_path: Path) -> None:
    (tmp_path / "So-B-IT_taxonomy.json").write_text(json.dumps({"a": ["vo", "ka"], "b": ["vo"]}))
    kinds = tmp_path / "So-B-IT_categories.json"
    kinds.write_text(json.dumps({"vo": "ADJECTIVE", "ka": "NOUN"}))
    found = read_sobit_words(tmp_path)
    assert found.words == ("vo", "ka", "vo")
    assert found.categories == ("a", "a", "b")
    assert found.prompts[:2] == ("a photo of a/an vo person", "a photo of a/an ka")
    kinds.write_text(json.dumps({"vo": "VERB"}))
    with pytest.raises(ValueError, match="VERB"):
        read_sobit_words(tmp_path)
    with pytest.raises(ValueError, match="taxonomy"):
        read_sobit_words(tmp_path / "nowhere")


def test_prompts_of_unequal_columns(tmp_path: Path) -> None:
    file = tmp_path / "prompt_templates.csv"
    file.write_text("template,concept\n  An {} one,vo\n {},ka\n   ,lu\n")
    found = read_berg_prompts(file)
    assert found.prompts == ("An vo one", "An ka one", "An lu one", "vo", "ka", "lu")
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="template, concept"):
        read_berg_prompts(file)


def test_professions_once_each(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("cook\n\nguard\ncook\n")
    assert read_professions(tmp_path / "p.txt") == ("cook", "guard")


@pytest.mark.parametrize("read", [read_berg_prompts, read_professions])
def test_words_that_are_not_utf_8_are_an_error_that_names_the_file(read, tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(b"caf\xe9,nurse\n")
    with pytest.raises(ValueError, match=str(path)):
        read(path)


def test_every_model_sees_the_emoji_on_white() -> None:
    source = read_layout("emoji", Path("not used"), part="roles").source
    plain = make_source(name="emoji", split="style")
    pixels = {record["id"]: record["image"] for record in (plain[i] for i in range(len(plain)))}
    for i in range(3):
        image, original = source[i]["image"], pixels[source[i]["id"]]
        assert image.shape == (*original.shape[:2], 3)
        assert (image[original[..., 3] == 0] == 255).all()
        opaque = original[..., 3] == 255
        np.testing.assert_array_equal(image[opaque], original[opaque][:, :3])
