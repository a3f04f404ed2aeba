"""Loose images and tables: the published layouts can be read, and what is wrong is named."""

import json

import numpy as np
import pytest

from bias_clip.data.image import encode_png
from bias_clip.data.sources import column, make_source


def write_image(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.full((2, 2, 3), shade, np.uint8)))


def read(folder, **arguments):
    return make_source(name="image_files", directory=str(folder), **arguments)


def test_a_table_of_csv_makes_a_record_a_row(tmp_path):
    write_image(tmp_path / "a" / "x.png", 10)
    write_image(tmp_path / "y.png", 20)
    (tmp_path / "table.csv").write_text(
        'image, caption, shape\na/x.png, "a cat, red", round\ny.png, dog, flat\n'
    )
    source = read(tmp_path)
    assert len(source) == 2
    assert source[0]["captions"] == ("a cat, red",)
    assert column(source, "id").tolist() == ["table/0", "table/1"]
    assert column(source, "shape").tolist() == ["round", "flat"]
    assert source[1]["image"] == (tmp_path / "y.png").read_bytes()


def test_paths_and_ids_can_be_made_of_columns_and_captions_chosen(tmp_path):
    for number, kind in ((1, "up"), (2, "down")):
        write_image(tmp_path / kind / f"{number}.jpg", number)
    (tmp_path / "q.csv").write_text("id,type,statement\n1,up,it rises\n2,down,it falls\n")
    source = read(
        tmp_path,
        tables="q.csv",
        image="{type}/{id}.jpg",
        captions=("statement",),
        identity="mmvp/{id}",
    )
    assert [source[i]["captions"] for i in range(2)] == [("it rises",), ("it falls",)]
    assert column(source, "id").tolist() == ["mmvp/1", "mmvp/2"]
    assert column(source, "type").tolist() == ["up", "down"]
    assert source[1]["image"] == (tmp_path / "down" / "2.jpg").read_bytes()


@pytest.mark.parametrize("form", ["list", "names", "lines"])
def test_several_tables_of_json_are_told_apart_by_their_names(tmp_path, form):
    for kind, count in (("swap_obj", 2), ("add_obj", 1)):
        rows = [
            {"filename": f"{i}.png", "caption": f"true {i}", "negative_caption": f"false {i}"}
            for i in range(count)
        ]
        text = {
            "list": json.dumps(rows),
            "names": json.dumps(dict(enumerate(rows))),
            "lines": "\n".join(map(json.dumps, rows)) + "\n",
        }[form]
        (tmp_path / f"{kind}.{'jsonl' if form == 'lines' else 'json'}").write_text(text)
    write_image(tmp_path / "val" / "0.png", 0)
    source = read(
        tmp_path,
        tables="*.json*",
        image="val/{filename}",
        captions=("caption", "negative_caption"),
    )
    assert column(source, "table").tolist() == ["add_obj", "swap_obj", "swap_obj"]
    assert source[0]["captions"] == ("true 0", "false 0")
    with pytest.raises(ValueError, match=r"of record 'swap_obj/1'.*1\.png"):
        source[2]


def test_what_is_wrong_with_a_table_is_named(tmp_path):
    write = (tmp_path / "table.csv").write_text
    with pytest.raises(ValueError, match=r"no table .*table\.csv"):
        read(tmp_path)
    for text, arguments, message in (
        ("image,caption\n", {}, "have no rows"),
        ("image\nx.png\n", {}, r"table.csv has no column 'caption'; it has \['image'"),
        ("image,caption\nx.png\n", {}, "row 0 of .* expected a value of each column"),
        ("image,caption\nx.png,a,b\n", {}, "row 0 of .* expected a value of each column"),
        ("image,caption\nx.png,a\n", {"image": "{file}"}, "no column 'file'"),
        ("image,caption\nx,a\nx,b\n", {"identity": "{image}"}, r"ids come twice, such as \['x'\]"),
        (
            "image,caption\nx,a\n",
            {"captions": "caption"},
            r"captions is .caption. \(str\); expected Sequence",
        ),
    ):
        write(text)
        with pytest.raises(ValueError, match=message):
            read(tmp_path, **arguments)
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ValueError, match=r"t\.json cannot be read"):
        read(tmp_path, tables=["t.json"])
