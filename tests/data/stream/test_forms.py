"""The same pairs in any form give the same batches, bit for bit, on any number of hosts, after any stop."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.data.image import encode_png, make_image_fn
from bias_clip.data.sources import make_source
from bias_clip.data.sources.array_record import write_array_record
from bias_clip.data.text import make_text_fn
from tests.data.sources.tars import pack
from tests.data.streams import assert_same, batches_and_state
from tests.data.tiny import Patches

COUNT, BATCH, STEPS = 20, 8, 6
FORMS = (
    "parquet", "arrow", "table tsv", "table jsonl", "table json", "folder", "array_record",
    "image_files", "mixture", "webdataset", "mixture of tars",
)  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same pairs, with the same numbers as records, in each form."""
    root = tmp_path_factory.mktemp("forms")
    pairs = [Patches(COUNT)[i] for i in range(COUNT)]
    images = [encode_png(pair["image"]) for pair in pairs]
    texts = [pair["captions"][0] for pair in pairs]
    (root / "images").mkdir()
    names = [f"{i:04d}.png" for i in range(COUNT)]
    for name, image, text in zip(names, images, texts, strict=True):
        (root / "images" / name).write_bytes(image)
        (root / "images" / name).with_suffix(".txt").write_text(text)
    rows = [{"image": n, "caption": t} for n, t in zip(names, texts, strict=True)]
    lines = [f"{row['image']}\t{row['caption']}\n" for row in rows]
    (root / "t.tsv").write_text("image\tcaption\n" + "".join(lines))
    (root / "t.csv").write_text("image,caption\n" + "".join(lines).replace("\t", ","))
    (root / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "t.json").write_text(json.dumps(rows))
    struct = pa.array([{"bytes": image, "path": None} for image in images])
    table = pa.table({"image": struct, "text": texts})
    pq.write_table(table.slice(0, 7), root / "0.parquet", row_group_size=3)
    pq.write_table(table.slice(7), root / "1.parquet", row_group_size=5)
    with pa.ipc.new_stream(str(root / "t.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=6)
    files = {"root": str(root / "images"), "name": "table"}
    made = {
        "parquet": {"name": "parquet", "path": [str(root / "0.parquet"), str(root / "1.parquet")]},
        "arrow": {"name": "parquet", "path": str(root / "t.arrow")},
        "table tsv": {**files, "path": str(root / "t.tsv")},
        "table jsonl": {**files, "path": str(root / "t.jsonl")},
        "table json": {**files, "path": str(root / "t.json")},
        "folder": {"name": "folder", "path": str(root / "images")},
        "array_record": {"name": "array_record", "path": str(root / "t.array_record")},
        "image_files": {"name": "image_files", "directory": str(root), "tables": "t.csv"},
    }
    made["image_files"]["image"] = "images/{image}"
    members = [
        (f"{n[:-4]}.{k}", v)
        for n, i, t in zip(names, images, texts, strict=True)
        for k, v in (("png", i), ("txt", t))
    ]
    (root / "0.tar").write_bytes(pack(members[:14]))
    (root / "1.tar").write_bytes(pack(members[14:]))
    made["webdataset"] = {"name": "webdataset", "path": str(root / "{0..1}.tar")}
    tars = {"only": made["webdataset"]}
    made["mixture of tars"] = {"name": "mixture", "sources": tars, "rates": {"only": 1}}
    write_array_record(make_source(**made["parquet"]), root / "t.array_record")
    made["mixture"] = {"name": "mixture", "sources": {"only": made["folder"]}, "rates": {"only": 1}}
    return {form: make_source(**arguments) for form, arguments in made.items()}


def batches(source, count, **arguments):
    fns = dict(
        image_fn=make_image_fn("decode|random_crop(4)|flip_lr|value_range(-1,1)"),
        text_fn=make_text_fn(tokenizer="emoji", length=8),
    )
    return batches_and_state(source, fns, count, **{"batch_size": BATCH, "seed": 5, **arguments})


@pytest.fixture(scope="module")
def expected(sources):
    found, _ = batches(sources["array_record"], STEPS)
    assert len({int(i) for batch in found for i in batch["index"]}) == COUNT
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches(sources, expected, form):
    assert_same(batches(sources[form], STEPS, num_threads=2)[0], expected)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_resumes_in_the_middle(sources, expected, form):
    _, state = batches(sources[form], 2)
    state = json.loads(json.dumps(state))
    assert_same(batches(sources[form], STEPS - 2, start=state)[0], expected[2:])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_two_hosts_the_halves_of_one(sources, expected, form):
    hosts = [
        batches(sources[form], STEPS, process_index=h, process_count=2, num_threads=1)[0]
        for h in range(2)
    ]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*hosts, strict=True)
    ]
    assert_same(joined, expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "arrow", "table tsv", "table jsonl", "folder"])
def test_processes_give_the_same_batches_as_threads(sources, expected, form):
    assert_same(batches(sources[form], STEPS, num_workers=1, num_threads=1)[0], expected)
