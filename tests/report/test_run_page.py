"""The report page: complete, self-contained, safe, deterministic, and honest where parts are missing."""

import base64
import hashlib
import json
import math
import re
import shutil
from html.parser import HTMLParser

import pytest

from bias_clip.cli.report import main
from bias_clip.report import run_page
from bias_clip.report.run_page import config_lines, write_report
from bias_clip.report.run_read import read_metrics, read_run
from tests.train.workdirs import OCCUPATIONS, make_workdir

HOSTILE = "</style></script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
VOID = {"meta", "link", "img", "br", "col", "input", "hr", "base", "source"}


class Page(HTMLParser):
    """What a browser would make of the page; refuses tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.text, self._open = [], set(), "", []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids.add(dict(attributes).get("id"))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):  # <path/>
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data if self._open[-1:] not in (["style"], ["script"]) else ""

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("runs") / "emoji_small")


@pytest.fixture
def fresh(workdir, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(workdir, tmp_path / "run")


@pytest.fixture(scope="module")
def text(workdir):
    return write_report(workdir).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def read(workdir):
    return Page(write_report(workdir).read_text(encoding="utf-8"))


def edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_page_has_every_part(page):
    parts = {"quality", "images", "search", "bias", "training", "numbers", "run"}
    assert parts <= page.ids
    for words in (
        "emoji_small",
        "--config=configs/emoji.py",
        "23 November 2025, 01:02 UTC",
        "599,040",  # examples
        "10 min 07 s",
        "3.41\u202fM",  # parameters
        "17.0\u202f%",  # top-1 of the unseen style
        "chance 0.025\u202f%",
        "among 3,944 names",
        "12 of these 48 are right",
        "Learning rate",
        "gap = man minus woman",
        "gap = dark minus light",
        "text to image R@5 by chance",
        "nearer to “dark”, no role named",
        "decode|background(white)|resize(48)|value_range(-1,1)",
        "presented",
        "Fitzpatrick",
        "sixth value",
    ):
        assert words in page.text, words
    assert all(name.replace("_", " ") in page.text for name in OCCUPATIONS)
    assert "missing" not in page.text


def test_every_image_is_inside_and_has_a_text(page):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 48 + 6 + 8 * 6
    assert all(base64.b64decode(p["src"].split(",")[1])[1:4] == b"PNG" for p in images)
    assert all(p["alt"] and p["width"] == "64" for p in images)


def test_page_loads_nothing(text, page):
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    assert all(source.startswith("data:image/png;base64,") for source in page.attributes("src"))
    assert all(target[1:] in page.ids for target in page.attributes("href"))
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}


def test_policy_allows_the_pages_own_script_and_no_other(text, page):
    policy = page.attributes("content")[0]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy


def test_same_files_give_the_same_bytes(workdir, text, tmp_path):
    other = shutil.copytree(workdir, tmp_path / "elsewhere" / workdir.name)
    assert write_report(other).read_text(encoding="utf-8") == text
    assert not list(other.glob("*.partial"))


def test_hostile_words_stay_words(fresh):
    def spoil_zeroshot(record):
        record["details"]["examples"][0] |= {"truth": HOSTILE, "png": HOSTILE}
        record["details"]["examples"][0]["top"][0]["text"] = HOSTILE
        record["metrics"][HOSTILE] = 1.0

    def spoil_bias(record):
        record["details"]["concepts"][0]["name"] = HOSTILE
        record["details"] |= {"groups": [HOSTILE, HOSTILE], "attribute": HOSTILE}

    edit(fresh / "evals" / "style_zeroshot.json", spoil_zeroshot)
    edit(fresh / "evals" / "bias_gender.json", spoil_bias)
    retrieval = fresh / "evals" / "style_retrieval.json"
    edit(retrieval, lambda r: r["details"]["queries"][0].update(text=HOSTILE))
    edit(fresh / "config.json", lambda r: r.update({HOSTILE: HOSTILE}))
    edit(fresh / "run.json", lambda r: r.update(dict.fromkeys(("command", "started"), HOSTILE)))
    edit(fresh / "run.json", lambda r: r["versions"].update({HOSTILE: HOSTILE}))
    with (fresh / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 2340, f"train/{HOSTILE}": 1.0, "lr": 2e-4}) + "\n")
    page = read(fresh)
    assert page.text.count(HOSTILE) >= 12
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    assert "x" not in page.attributes("src")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("config.json", "config.json is missing"),
        ("run.json", "run.json is missing"),
        ("metrics.jsonl", "metrics.jsonl is missing"),
        ("evals", "No evaluation has been written yet"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(fresh, part, words):
    path = fresh / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = read(fresh)
    assert words in page.text
    assert ("images" in page.ids) == (part != "evals")
    assert ("training" in page.ids) == (part != "metrics.jsonl")
    assert "Fitzpatrick" in page.text


def test_run_that_has_only_begun_has_a_page(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    assert "there are no curves" in read(tmp_path).text


def test_run_that_was_stopped_says_where_and_drops_the_torn_line(fresh):
    path = fresh / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:60]) + lines[60][:25])
    text = read(fresh).text
    assert "this is step 1,200 of 2,340" in text
    assert "was cut off" in text


@pytest.mark.parametrize("line", ["{not json", "[1, 2]", '{"loss": 1}', '{"step": true}', ""])
def test_malformed_metrics_line_is_named(fresh, line):
    path = fresh / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:], ""]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl:3: got .*expected"):
        write_report(fresh)


def test_malformed_files_are_named_and_the_old_page_stays(fresh):
    old = write_report(fresh).read_bytes()
    for spoilt in ("config.json", "evals/bias_tone.json"):
        kept = (fresh / spoilt).read_text()
        (fresh / spoilt).write_text(kept[:-20])
        with pytest.raises(ValueError, match=spoilt):
            write_report(fresh)
        (fresh / spoilt).write_text(kept)
    (fresh / "evals" / "bias_tone.json").write_text('{"metrics": {}}')
    with pytest.raises(ValueError, match=r'bias_tone\.json: got "details" = None'):
        write_report(fresh)
    assert (fresh / "report.html").read_bytes() == old


def test_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not the workdir of a run"):
        write_report(tmp_path)


def test_later_values_of_a_step_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4, "a": 1}\n{"step": 2, "a": 5}\n{"step": 4, "a": 2, "b": 3}\n')
    assert read_metrics(path) == ([{"step": 2, "a": 5}, {"step": 4, "a": 2, "b": 3}], [])


def test_evaluators_come_by_importance_then_in_the_order_of_the_config(workdir):
    names = list(read_run(workdir).evals)
    assert names == [
        *("style_zeroshot", "concepts_zeroshot"),  # the config names the first alone
        *("style_retrieval", "bias_gender", "bias_tone", "style_contrastive"),
    ]


def test_page_stays_small_when_images_are_many(fresh, monkeypatch):
    whole = write_report(fresh).stat().st_size
    monkeypatch.setattr(run_page, "IMAGE_BYTES", 20_000)
    page = read(fresh)
    shown = sum(len(source) for source in page.attributes("src"))
    assert whole < 2_000_000
    assert shown < 30_000  # each evaluator shows at least one
    assert "left out to keep the page small" in page.text


def test_many_roles_are_folded_and_none_is_lost(fresh):
    row = {"preference": 0.5, "low": None, "high": None, "count": 9}
    rows = [row | {"name": f"job {i}.", "gap": i / 100 - 0.25} for i in range(50)]
    edit(fresh / "evals" / "bias_gender.json", lambda r: r["details"].update(concepts=rows))
    text = read(fresh).text
    assert "20 roles between" in text
    assert re.findall(r"\bjob \d+\.", text) == [f"job {i}." for i in range(50)]


def test_bias_without_any_number_is_still_drawn(fresh):
    row = {"name": "guard", "preference": None, "low": None, "high": None, "gap": None, "count": 0}
    change = {"concepts": [row], "representation": None}
    edit(fresh / "evals" / "bias_gender.json", lambda r: r["details"].update(change))
    edit(
        fresh / "evals" / "bias_gender.json",
        lambda r: r.update(metrics={"preference": math.nan}),
    )
    assert "Nearer to “man”—even 50.0" in read(fresh).text


def test_hover_values_belong_to_the_curves_that_are_drawn(page):
    curves = [json.loads(value) for value in page.attributes("data-hover")]
    values = [len(line) for lines in curves for line in lines]
    assert len(curves) >= 12 + 3
    assert min(values) >= 4
    assert max(values) <= 120


def test_config_lines_keep_depth_and_values():
    config = {"seed": 0, "data": {"source": {"name": "tfds"}, "none": {}}}
    assert list(config_lines(config)) == [
        (0, "seed", "0", "value"),
        (0, "data", "", "section"),
        (1, "source", "", "section"),
        (2, "name", '"tfds"', "text"),
        (1, "none", "{}", "value"),
    ]


def test_tool_prints_the_path_or_the_error(workdir, tmp_path, capsys):
    main(["--workdir", str(workdir)])
    assert capsys.readouterr().out.strip() == str(workdir / "report.html")
    with pytest.raises(SystemExit, match=r"error: .* is not the workdir"):
        main(["--workdir", str(tmp_path)])


@pytest.mark.parametrize(("name", "noted"), [("emoji", True), ("parquet", False)])
def test_notes_on_emoji_are_for_runs_on_emoji(workdir, name, noted):
    run = read_run(workdir)._replace(config={"data": {"source": {"name": name}}})
    assert ("Fitzpatrick" in run_page.render(run)) == noted
