"""Annotating a whole source, its statistics, and the tool end to end."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.cli import annotate as tool
from bias_clip.curation import annotate_source, sharded_table
from bias_clip.curation.annotators import by_captions, by_zero_shot
from bias_clip.curation.captions import Lists, Names
from bias_clip.curation.word_lists import WordList
from bias_clip.data.emoji import emoji_source
from bias_clip.data.tables import join, read_table
from bias_clip.report import annotations
from tests.data.tiny import Patches

PETS = WordList("pets", "1" * 64, {"cat": ("cat",), "dog": ("dog",)})


def test_counts_add_up_over_parts_and_agree_with_counting_by_hand():
    rng = np.random.default_rng(0)
    names = Names(("s", "t"), ("y",), ("p",))
    columns = {n: rng.integers(-1, 2, 200).astype(np.int8) for n in ("s", "t", "y", "p")}
    parts = [{n: v[part] for n, v in columns.items()} for part in (slice(0, 50), slice(50, 200))]
    whole = annotations.count(columns, names)
    added = annotations.add(*(annotations.count(part, names) for part in parts))
    for a, b in zip(whole, added, strict=True):
        np.testing.assert_array_equal(a, b)
    found = annotations.statistics(whole, names)
    s, y = columns["s"], columns["y"]
    pair = next(p for p in found["pairs"] if (p["attribute"], p["name"]) == ("s", "y"))
    assert pair["n_10"] == ((s == 1) & (y == 0)).sum()
    gap = y[(s == 1) & (y >= 0)].mean() - y[(s == 0) & (y >= 0)].mean()
    assert pair["gap"] == pytest.approx(gap)
    single = next(r for r in found["single"] if r["name"] == "p")
    p = columns["p"]
    assert single["prevalence"] == pytest.approx(p[p >= 0].mean())
    assert single["unknown_rate"] == pytest.approx((p < 0).mean())
    json.dumps(found, allow_nan=False)
    with pytest.raises(ValueError, match=r"\['s'\] have values other"):
        annotations.count({**columns, "s": s + 5}, names)


def test_statistics_of_an_attribute_nobody_has_are_none_and_can_be_shown():
    names = Names(("s",), ("y",), ())
    columns = {"s": np.full(3, -1, np.int8), "y": np.asarray([1, 0, 1], np.int8)}
    found = annotations.statistics(annotations.count(columns, names), names)
    assert found["single"][0]["prevalence"] is None
    assert found["pairs"][0]["gap"] is None
    assert "labels: 1 of 1 occur" in annotations.to_text(found)


def test_shards_and_restarts_do_not_change_the_table(tmp_path, monkeypatch):
    source = Patches(25)
    lists = Lists(labels=(PETS,))
    arguments = dict(annotators=[by_captions(lists)], about={"name": "patches"})
    once = annotate_source.annotate_source(source, tmp_path / "once", **arguments)
    reads = []
    real = sharded_table._write_shard

    def dies_at_third(*args):
        reads.append(args)
        if len(reads) == 3:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(sharded_table, "_write_shard", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        annotate_source.annotate_source(source, tmp_path / "parts", **arguments, shard_rows=7)
    with pytest.raises(ValueError, match="no table"):
        read_table(tmp_path / "parts", kind="annotations")
    again = annotate_source.annotate_source(source, tmp_path / "parts", **arguments, shard_rows=7)
    assert len(reads) == 5  # four shards: the two that were finished are not made again
    one, two = (read_table(tmp_path / n, kind="annotations").columns for n in ("once", "parts"))
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])
    assert {k: v for k, v in once.items() if k != "file_sha256"} == {
        k: v for k, v in again.items() if k != "file_sha256"
    }
    assert not (tmp_path / "parts.shards").exists()


def test_shards_of_another_plan_are_not_mixed_in(tmp_path, monkeypatch):
    lists = Lists(labels=(PETS,))
    changed = Lists(labels=(lists.labels[0]._replace(sha256="2" * 64),))
    about = {"about": {"name": "patches"}, "shard_rows": 7}

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(sharded_table, "write_shards", stop)
        with pytest.raises(KeyboardInterrupt):
            annotate_source.annotate_source(
                Patches(9), tmp_path / "t", [by_captions(lists)], **about
            )
    with pytest.raises(ValueError, match=r"annotators.0.*'2222.* now\). Delete it"):
        annotate_source.annotate_source(Patches(9), tmp_path / "t", [by_captions(changed)], **about)


class Faulty(Patches):
    """Patches of which the third cannot be read."""

    def __getitem__(self, index):
        if index == 2:
            raise ValueError("cut off")
        return super().__getitem__(index)


def test_broken_records_are_refused_or_counted_and_named(tmp_path):
    lists = Lists(labels=(PETS,))
    arguments = dict(annotators=[by_captions(lists)], about={}, shard_rows=4)
    with pytest.raises(ValueError, match=r"1 records cannot be read, 0 are allowed.*2: cut off"):
        annotate_source.annotate_source(Faulty(9), tmp_path / "t", **arguments)
    found = annotate_source.annotate_source(Faulty(9), tmp_path / "t", **arguments, max_broken=1)
    assert (found["rows"], found["broken"]) == (8, {"2": "cut off"})


EMOJI = ["--source", "emoji", "split=concepts"]


def run_tool(folder, *words):
    tool.main([*EMOJI, "--out", str(folder / "a.parquet"), *words])


def test_the_tool_end_to_end_agrees_with_the_truth(tmp_path, capsys):
    run_tool(tmp_path, "--report", str(tmp_path / "report"), "--shard-rows", "500")
    text = capsys.readouterr().out
    table = read_table(tmp_path / "a.parquet", kind="annotations")
    source = emoji_source(split="concepts")
    assert table.columns["id"].tolist() == source.columns["id"].tolist()
    assert table.manifest["source"] == {"name": "emoji", "split": "concepts"}
    man, gender = join(table, source.columns["id"])["man"], source.columns["gender"]
    for value, name in ((1, "man"), (0, "woman")):  # 99% both on all of the set
        assert ((man == value) & (gender == name)).sum() > 0.9 * (gender == name).sum()
        assert ((man == value) & (gender == name)).sum() > 0.9 * (man == value).sum()
    assert "prevalence" in text
    found = json.loads((tmp_path / "report" / "statistics.json").read_text())
    assert found["rows"] == len(source)
    row = next(r for r in found["single"] if r["name"] == "man")
    assert row["unknown"] == (man == -1).sum()
    page = (tmp_path / "report" / "annotations.html").read_text(encoding="utf-8")
    assert page.count("<svg") == page.count("</svg>") == 2  # answers, frequent labels
    assert not re.search(r'(src|href)="(?!#)', page)  # needs no other file
    before = (tmp_path / "a.parquet").stat().st_mtime_ns
    run_tool(tmp_path)  # finished: left as it is
    assert (tmp_path / "a.parquet").stat().st_mtime_ns == before
    with pytest.raises(
        SystemExit, match=r"another plan \(proxies: .*there, .*Delete it to annotate again"
    ):
        run_tool(tmp_path, "--proxies")


def test_the_tool_takes_columns_categories_and_scores(tmp_path):
    source = emoji_source(split="concepts")
    ids = source.columns["id"]
    scores = tmp_path / "s.parquet"
    night = np.linspace(0, 1, len(ids))
    pq.write_table(pa.table({"image": ids.tolist(), "night": night}), scores)
    roles = np.unique(source.columns["concept"][source.columns["role"] == 1])[:2].tolist()
    run_tool(
        *(tmp_path, "--attributes", "--labels", "--proxies"),
        *("--column", "man=gender", "yes=man", "no=woman", "unknown=*"),
        *("--categories", "concept", f"values={','.join(roles)}"),
        *(
            "--scores",
            str(scores),
            "dark=night",
            "threshold=0.5",
            "band=0.1",
            "key=image",
            "as=proxy",
        ),
    )
    table = read_table(tmp_path / "a.parquet", kind="annotations")
    assert [table.manifest[k] for k in Names._fields] == [["man"], roles, ["dark"]]
    np.testing.assert_array_equal(table.columns["man"] == 1, source.columns["gender"] == "man")
    np.testing.assert_array_equal(
        table.columns[roles[0]] == 1, source.columns["concept"] == roles[0]
    )
    assert set(table.columns["dark"].tolist()) == {1, 0, -1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "none.txt"], "no word list 'none.txt'"),
        (["--column", "man=gender", "yes=man"], "--column.*'no'"),
        (
            ["--column", "man=gender", "yes=men", "no=woman", "unknown=*"],
            r"no record has gender \['men'\]",
        ),
        (
            ["--column", "man=gender", "yes=man", "no=woman", "x=y"],
            r"--column has 'x'; expected one of \['as', 'no'",
        ),
        (["--column", "man"], "expected key=value"),
        (["--column", "man=sex", "yes=man", "no=woman"], "no attribute 'sex'"),
        (["--column", "nurse=gender", "yes=man", "no=woman", "unknown=*"], r"twice: \['nurse'\]"),
        (["--categories", "concept", "values=cok"], r"no record has concept \['cok'\]"),
        (["--scores", "none.parquet", "threshold=1"], "expected NAME=COLUMN"),
        (["--zero-shot", "none", "prompts=gender"], "holds no run"),
        (["--attributes", "--labels", "--proxies"], "nothing to annotate"),
        (["--source", "emoji", "split=cellar"], "cellar"),
    ],
)
def test_the_tool_says_what_is_wrong_before_it_writes(tmp_path, words, message):
    with pytest.raises(SystemExit, match=message):
        run_tool(tmp_path, *words)
    assert not list(tmp_path.iterdir())


def test_zero_shot_sees_each_shard_of_images_once(tmp_path):
    """A stand-in model that knows a patch by its first pixel: bright ones are day."""
    source, seen = Patches(10), []
    prompts = WordList("light", "0" * 64, {"day": ("a day",), "night": ("a night",)})

    def embed_images(rows):
        images = [rows[i]["image"] for i in range(len(rows))]
        seen.append(len(images))
        bright = np.asarray([p[0, 0, 0] > 127 for p in images])
        return np.stack([bright, ~bright], axis=1).astype(np.float32)

    made = by_zero_shot(
        source,
        prompts,
        embed_images=embed_images,
        embed_texts=lambda texts: np.eye(2)[[texts.index(t) for t in texts]],
        about={"run": "x"},
    )
    annotate_source.annotate_source(source, tmp_path / "t", [made], about={}, shard_rows=4)
    table = read_table(tmp_path / "t", kind="annotations")
    assert seen == [4, 4, 2]
    bright = [source[i]["image"][0, 0, 0] > 127 for i in range(10)]
    np.testing.assert_array_equal(table.columns["day"] == 1, bright)
    np.testing.assert_array_equal(table.columns["night"] == 0, bright)
