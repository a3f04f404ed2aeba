"""Tables as people have them: every odd form is read to the character, or refused with its line."""

import bz2
import gzip
import json
import os
import pickle

import pytest

from bias_clip.data.image import encode_png
from bias_clip.data.records import column
from bias_clip.data.sources import make_source
from tests.data.tiny import Patches


@pytest.fixture(scope="module")
def patches():
    return [encode_png(Patches(6)[i]["image"]) for i in range(6)]


@pytest.fixture
def folder(tmp_path, patches):
    for number, data in enumerate(patches):
        (tmp_path / f"{number}.png").write_bytes(data)
    return tmp_path


def read(folder, text, name="t.csv", **arguments):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return make_source(name="table", path=str(folder / name), **arguments)


def captions(source):
    return [source[i]["captions"] for i in range(len(source))]


def test_a_path_alone_suffices(folder, patches):
    source = read(folder, "filepath\ttitle\tage\n0.png\ta dog\t7\n1.png\t\t\n", "t.tsv")
    assert source[0] == {
        "id": "t/0", "image": patches[0], "captions": ("a dog",), "age": 7, "table": "t",
    }  # fmt: skip
    assert source[1]["captions"] == ()
    assert source[1]["age"] is None
    assert column(source, "age").tolist() == [7, None]


WRITTEN = {
    "semicolon": b"image;caption\n0.png;a, b\n1.png;c\n",
    "bar": b"image|caption\n0.png|a, b\n1.png|c\n",
    "bom": b"\xef\xbb\xbfimage,caption\n0.png,\"a, b\"\n1.png,c\n",
    "utf-16": "image,caption\n0.png,\"a, b\"\n1.png,c\n".encode("utf-16"),
    "carriage returns": b"image,caption\r\n0.png,\"a, b\"\r\n\r\n1.png,c\r\n",
    "all quoted, blanks in the header": b'"image"," caption"\n"0.png","a, b"\n"1.png","c"',
    "gzip": gzip.compress(b'image,caption\n0.png,"a, b"\n1.png,c\n'),
    "bzip2": bz2.compress(b'image,caption\n0.png,"a, b"\n1.png,c\n'),
}  # fmt: skip


@pytest.mark.parametrize("form", WRITTEN)
def test_every_way_to_write_a_table_gives_the_same_records(folder, form):
    assert captions(read(folder, WRITTEN[form])) == [("a, b",), ("c",)]


def test_text_is_kept_to_the_character(folder):
    odd = ["N/A", "007", "nan", " lead and trail ", "a\u2028b", "1e3", "two\nlines", 'say ""x""']
    text = "".join(f'{i % 6}.png,"{value}"\n' for i, value in enumerate(odd))
    assert captions(read(folder, "image,caption\n" + text)) == [
        (v.replace('""', '"'),) for v in odd
    ]


def test_a_column_is_of_numbers_when_all_of_it_is(folder):
    source = read(
        folder,
        f"image,caption,a,b,c,d\n0.png,x,1,007,0.5,{2**53}\n1.png,x,-2,8,nan,{2**53 + 1}\n",
    )
    assert column(source, "a").tolist() == [1, -2]
    assert column(source, "b").tolist() == ["007", "8"]
    assert str(column(source, "c").tolist()) == "[0.5, nan]"
    assert column(source, "d").tolist() == [2**53, 2**53 + 1]


def test_quotes_can_be_characters_like_others(folder):
    text = 'image\tcaption\n0.png\t"open\n1.png\t19" wide\n'
    assert captions(read(folder, text, "t.tsv", quoting="none")) == [('"open',), ('19" wide',)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image,caption\n0.png,a\n1.png,"b\n2.png,c\n', r"t\.csv, line 3: unexpected end.*quoting"),
        ('image,caption\n0.png,"b" c\n', r"line 2: .* expected after"),
        ("image,caption\n0.png,a\n\n1.png,a,b\n", r"row 1 of .* \(line 4\) has 3 values"),
        ("image,caption\n0.png\n", r"row 0 of .* \(line 2\) has 1 values"),
        ("image,caption,caption\n0.png,a,b\n", r"columns \['caption'\] twice"),
        ("image,caption,row\n0.png,a,b\n", r"columns \['row'\], names that the reader"),
        (b"image,caption\n0.png,Cr\xe8me\n", "is not utf-8.*latin-1"),
        ("image,caption\n", "no rows"),
        ("words,caption\n0.png,a\n", r"which column is the image"),
        (b"\x1f\x8b" + b"x" * 20, "cannot be read"),
        ("id,image,caption\n1,0.png,a\n1,1.png,b\n", r"ids come twice, such as \['1'\]"),
    ],
)
def test_damage_is_refused_with_its_place(folder, text, message):
    with pytest.raises(ValueError, match=message):
        read(folder, text)


def test_another_encoding_and_a_missing_header_are_said(folder):
    latin = read(folder, b"image,caption\n0.png,Cr\xe8me\n", encoding="latin-1")
    assert captions(latin) == [("Crème",)]
    bare = read(folder, "a dog\t0.png\n", "cc3m.tsv", header=("caption", "image"))
    assert captions(bare) == [("a dog",)]


ROWS = [{"image": f"{i}.png", "caption": f"c{i}", "age": i} for i in range(2)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(dict(enumerate(ROWS))),
        json.dumps({"version": 1, "data": ROWS}),
        json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
        "\ufeff" + json.dumps(ROWS),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
    ],
    ids="list names wrapped columns bom concatenated".split(),
)
def test_every_shape_of_json_gives_the_same_records(folder, text):
    source = read(folder, text, "t.json")
    assert captions(source) == [("c0",), ("c1",)]
    assert column(source, "age").tolist() == [0, 1]


def test_lines_of_json_end_with_a_line_feed_only(folder):
    text = '\ufeff{"image": "0.png", "caption": "a\u2028b\x85c"}\r\n\r\n{"image": "1.png"}\n'
    assert captions(read(folder, text, "t.jsonl")) == [("a\u2028b\x85c",), ()]


def test_a_damaged_line_of_json_is_refused_or_counted(folder, caplog):
    text = json.dumps(ROWS[0]) + "\n{no\n" + json.dumps(ROWS[1]) + '\n{"image": "2'
    with pytest.raises(ValueError, match=r"2 of 4 lines .* line 2"):
        read(folder, text, "t.jsonl")
    assert len(read(folder, text, "t.jsonl", bad_rows="skip")) == 2
    assert "2 of 4 lines" in caplog.text


@pytest.mark.parametrize("text", ["null", "3", '"a"', "[1]", "{}", "", "[" * 100_000, '{"a": 1}'])
def test_json_of_another_shape_is_one_line_of_error(folder, text):
    with pytest.raises(ValueError, match=r"t\.json"):
        read(folder, text, "t.json")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ("a",)),
        (["a", None, "b", ""], ("a", "b")),
        (None, ()),
        (float("nan"), ()),
        ({"en": "a", "it": "b"}, ("a", "b")),
        ([{"raw": "a", "tokens": ["x"]}], ("a",)),
        ([{"from": "human", "value": "what?"}, {"from": "gpt", "value": "a"}], ("a",)),
    ],
)
def test_captions_are_text_lists_or_missing(folder, value, expected):
    rows = [{"image": "0.png", "caption": value}, {"image": "1.png", "caption": "z"}]
    assert captions(read(folder, json.dumps(rows), "t.json")) == [expected, ("z",)]


@pytest.mark.parametrize("value", [12, True, [1, 2], 0.5])
def test_a_caption_that_is_a_number_is_a_bad_record(folder, value):
    source = read(folder, json.dumps([{"image": "0.png", "caption": value}]), "t.json")
    with pytest.raises(ValueError, match=r"t/0.*got the caption"):
        source[0]


def test_a_column_twice_in_an_object_is_refused(folder):
    with pytest.raises(ValueError, match="'caption' twice"):
        read(folder, '{"image": "0.png", "caption": "a", "caption": "b"}\n', "t.jsonl")


def test_missing_and_outside_images_are_bad_records(folder):
    inner = folder / "data"
    inner.mkdir()
    (inner / "in.png").symlink_to(folder / "0.png")
    (inner / "zero").symlink_to("/dev/zero")
    os.mkfifo(inner / "fifo")
    names = [
        "../0.png",
        str(folder / "0.png"),
        "in.png",
        "zero",
        "fifo",
        "/dev/zero",
        "none",
        ".",
        "",
    ]
    text = "image,caption\n" + "".join(f"{name},x\n" for name in names)
    source = read(inner, text)
    for row in range(len(names)):
        with pytest.raises(ValueError, match=f"t/{row}"):
            source[row]
    wider = read(inner, text, roots=[str(folder)])
    assert [len(wider[i]["image"]) > 0 for i in range(3)] == [True] * 3
    for row in range(3, len(names)):
        with pytest.raises(ValueError, match=f"t/{row}"):
            wider[row]


COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 6} for i in (2, 0, 1)],
    "annotations": [
        {"id": 9, "image_id": i, "caption": c}
        for i, c in ((1, "b"), (0, "x "), (1, "a\n"), (0, "y"), (1, None))
    ],
}


def test_coco_gives_a_record_per_image_with_all_its_captions(folder, patches):
    (folder / "annotations").mkdir()
    source = read(folder / "annotations", json.dumps(COCO), "captions_val2017.json")
    assert column(source, "id").tolist() == ["2", "0", "1"]
    assert captions(source) == [(), ("x ", "y"), ("b", "a\n")]
    assert source[2]["image"] == patches[1]


def test_annotations_of_unknown_images_are_counted(folder, caplog):
    cut = {**COCO, "images": COCO["images"][:2]}
    assert captions(read(folder, json.dumps(cut), "t.json")) == [(), ("x ", "y")]
    assert "3 of 5 annotations" in caplog.text


def test_karpathys_file_needs_its_split(folder):
    images = [
        {"filename": f"{i}.png", "split": s, "sentences": [{"raw": f"{s} {i}"}, {"raw": "z"}]}
        for i, s in enumerate(("train", "restval", "test"))
    ]
    text = json.dumps({"images": images, "dataset": "coco"})
    with pytest.raises(ValueError, match=r"splits \['restval', 'test', 'train'\]"):
        read(folder, text, "t.json")
    source = read(folder, text, "t.json", split=["train", "restval"])
    assert captions(source) == [("train 0", "z"), ("restval 1", "z")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.csv", 'image_name| comment_number| comment\n0.png| 0| a "b, c\n0.png| 1   d\n1.png| 0| e\n'),
        ("results.token", '0.png#0\ta "b, c\n0.png#1\td\n1.png#0\te\n'),
    ],
)  # fmt: skip
def test_flickrs_files_are_joined_by_image(folder, name, text):
    source = read(folder, text, name)
    assert captions(source) == [('a "b, c', "d"), ("e",)]


def test_templates_make_captions_too(folder):
    text = "image,label\n0.png,dog\n1.png,\n"
    source = read(folder, text, captions=("a photo of a {label}",))
    assert captions(source) == [("a photo of a dog",), ()]


def test_a_source_goes_to_other_processes(folder):
    for text, name in (("image,caption\n0.png,a\n", "t.csv"), (json.dumps(ROWS), "t.json")):
        source = read(folder, text, name)
        assert pickle.loads(pickle.dumps(source))[0] == source[0]


GROUPED = "image,n,caption\n0.png,7,a\n1.png,8,b\n0.png,9,c\n0.png,1,\n"


def test_rows_of_one_image_become_its_captions_when_asked(folder, patches):
    assert len(read(folder, GROUPED)) == 4
    source = read(folder, GROUPED, group_by="image")
    assert captions(source) == [("a", "c"), ("b",)]
    assert source[0]["image"] == patches[0]
    assert [record["id"] for record in source] == column(source, "id").tolist() == ["t/0", "t/1"]
    assert [record["n"] for record in source] == column(source, "n").tolist() == [7, 8]
    assert source.read_many([1, 0]) == [source[1], source[0]]


def test_captions_of_a_template_are_those_of_each_row_of_a_group(folder):
    source = read(folder, GROUPED, group_by="image", captions=("{n} {caption}",))
    assert captions(source) == [("7 a", "9 c"), ("8 b",)]


def test_rows_without_a_value_stay_alone_in_groups(folder):
    source = read(folder, "image,caption\n,a\n0.png,b\n,c\n0.png,d\n", group_by="image")
    assert len(source) == 3
    with pytest.raises(ValueError, match="no image"):
        source[0]
    assert source[1]["captions"] == ("b", "d")


def test_lists_of_images_group_as_they_are_written(folder):
    rows = [{"image": ["0.png", "1.png"], "caption": c} for c in "ab"]
    source = read(folder, json.dumps(rows), "t.json", group_by="image")
    assert captions(source) == [("a", "b")]


def test_an_unknown_column_to_group_by_is_refused(folder):
    with pytest.raises(ValueError, match="no column 'x' to group by"):
        read(folder, GROUPED, group_by="x")


def test_tables_of_one_name_have_ids_with_folders(folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "t.csv.gz").write_bytes(gzip.compress(b"image,caption\n0.png,x\n"))
    source = make_source(name="table", path=str(folder / "*" / "t.csv.gz"), root=str(folder))
    assert [record["id"] for record in source] == ["a/t/0", "b/t/0"]
    assert column(source, "table").tolist() == ["a/t", "b/t"]


def test_tables_of_one_name_and_folder_have_ids_with_endings(folder):
    (folder / "t.tsv").write_bytes(b"image\tcaption\n0.png\ty\n")
    source = read(folder, "image,caption\n0.png,x\n", "t.csv")
    both = make_source(name="table", path=[str(folder / "t.csv"), str(folder / "t.tsv")])
    assert source[0]["id"] == "t/0"
    assert [record["id"] for record in both] == ["t.csv/0", "t.tsv/0"]


def test_a_table_given_twice_is_refused(folder):
    read(folder, "image,caption\n0.png,x\n")
    with pytest.raises(ValueError, match=r"tables come twice: .*t\.csv"):
        make_source(name="table", path=[str(folder / "t.csv")] * 2)
