"""The page, the CSV and the LaTeX of an audit say the same, and what they say is escaped."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from bias_clip.evals.audit import run_audit, to_json
from bias_clip.report.audits.audit_page import (
    number_rows,
    render_audit,
    significant_lines,
    unknowing_lines,
)
from bias_clip.report.audits.audit_text import audit_csv, audit_latex, audit_lines, latex
from bias_clip.report.interval_plots import format_difference, format_value, interval_chart
from tests.evals.audit.people import model
from tests.evals.audit.test_audit import SETTINGS, items


@pytest.fixture(scope="module")
def record():
    models = [model("fair <b>"), model("biased", bias=1.0)]
    models[0].notes.append("3 embeddings were normalised")
    found = run_audit(models, items(), attribute="group", **SETTINGS)
    return json.loads(json.dumps(to_json(found)))


class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.cells, self.open, self.tags = [], False, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = self.open or tag == "td"
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        self.open = self.open and tag != "td"

    def handle_data(self, data):
        if self.open:
            self.cells[-1] += data


def test_the_page_has_every_number_of_the_record(record):
    cells = " | ".join(Cells(render_audit(record)).cells)
    for suite in record["suites"]:
        for part in suite["parts"]:
            for number in part["numbers"]:
                for own in number["values"]:
                    assert format_value(own, number["unit"]) in cells


def test_the_page_has_every_number_of_the_baselines(record):
    page = Cells(render_audit(record)).cells
    for found in record["baselines"]:
        for suite in found["suites"]:
            for number in suite["numbers"]:
                for own in number["values"]:
                    whole = format_value(own, number["unit"]).replace(" [", "[")
                    assert any(cell.startswith(whole) for cell in page), whole


def test_the_reason_for_no_interval_stands_beside_the_name_of_a_baselines_number(record):
    record = json.loads(json.dumps(record))
    number = record["baselines"][0]["suites"][0]["numbers"][0]
    for value in number["values"]:
        value |= {"low": None, "high": None, "note": "not enough items: 166 images"}
    (name, *cells) = [
        c for c in Cells(render_audit(record)).cells if "166 images" in c or "no int" in c
    ]
    assert name.startswith(number["name"])
    assert name.endswith("not enough items: 166 images")
    assert len(cells) == len(number["values"])


def test_the_official_value_is_shown_where_it_reads_otherwise():
    own = {"value": 0.0412, "low": 0.02, "high": 0.06, "note": ""}
    own |= dict.fromkeys(("texts_low", "texts_high", "both_low", "both_high"))
    number = {"name": "x", "unit": "share", "better": "higher", "headline": True, "items": 9}
    number |= {"contrasts": [], "chance": None, "even": None}
    for official, lines in ((0.04121, ()), (0.05, ("official code: 5.0\u202f%",)), (None, ())):
        ((_, cell, _, _),) = number_rows(
            [{**number, "values": [{**own, "official": official}]}], ["a"]
        )
        assert cell.lines == lines


def test_a_model_that_knows_nothing_is_said_to_and_no_other(record):
    assert unknowing_lines(record) == []
    record = json.loads(json.dumps(record))
    (suite,) = [s for s in record["suites"] if s["name"] == "zeroshot"]
    numbers = [n for n in suite["parts"][0]["numbers"] if n["headline"] and n["chance"] is not None]
    for number in numbers:
        number["values"][1]["low"] = number["chance"]
    (line,) = unknowing_lines(record)
    assert line.startswith(
        f"biased: not found to be above chance in {suite['title']}. What a model"
    )
    assert line in render_audit(record)
    for number in numbers:
        number["values"][0]["low"] = number["chance"]
    (line,) = unknowing_lines(record)
    assert line.startswith("fair <b>, biased: not found")
    for value in numbers[0]["values"]:
        value["low"] += 1e-6
    assert unknowing_lines(record) == []


def test_the_page_loads_nothing_and_escapes_names(record):
    page = render_audit(record, limits=["Only <i>this</i>."])
    assert "fair <b>" not in page
    assert "<i>this" not in page
    assert "fair &lt;b&gt;" in page
    assert "3 embeddings were normalised" in page
    assert not [a for _, a in Cells(page).tags if "src" in a or a.get("href", "#")[0] != "#"]
    assert page == render_audit(record, limits=["Only <i>this</i>."])


def test_every_output_says_which_models_it_is_of(record):
    rows = list(csv.DictReader(io.StringIO(audit_csv(record))))
    head = render_audit(record).partition("<main>")[0]
    comments = [line for line in audit_latex(record).splitlines() if line.startswith("%")]
    assert len(comments) == len(record["models"])
    for i, one in enumerate(record["models"]):
        own = one["provenance"]
        digest = own["sha256"]["parameters"]
        cells = Cells(head).cells[6 * i : 6 * (i + 1)]
        form = "run, averaged parameters"
        expected = [own["given"], form, "94", "12,345", f"{digest[:16]} of parameters"]
        assert cells == [one["name"], *expected]
        given = [row for row in rows if row["model"] == one["name"]]
        assert any(row["baseline"] for row in given)
        for key, value in {**own, "sha256": f"parameters={digest}"}.items():
            assert {row[key] for row in given} == {str(value)}
        said = f"{own['given']}, {form}, step 94, 12,345 parameters, SHA-256 of parameters "
        assert comments[i] == f"% {one['name']}: {said}{digest[:16]}"
        assert comments[i][2:] in audit_lines(record)


def test_a_path_with_a_line_break_stays_in_its_comment(record):
    record = json.loads(json.dumps(record))
    record["models"][0]["provenance"]["given"] = "runs/a\n\\input{b}"
    text = audit_latex(record)
    assert [line[0] for line in text.splitlines()[:3]] == ["%", "%", "\\"]
    assert "runs/a \\input{b}" in text.splitlines()[0]


def test_differences_that_are_significant_are_said_in_words(record):
    lines = significant_lines(record)
    for suite in record["suites"]:
        own = [line for line in lines[:-1] if line.startswith(suite["title"] + ":")]
        assert len(own) + (suite["title"] in lines[-1].partition("numbers of: ")[2]) == 1
    assert lines[-1].startswith("No difference between biased and fair <b> was found in the ")
    (search,) = [line for line in lines if line.startswith("Images found")]
    assert re.search(r"biased differs from fair <b> in [1-9]\d* of \d+ numbers", search)


def test_the_csv_has_a_row_per_model_and_number(record):
    rows = list(csv.DictReader(io.StringIO(audit_csv(record))))
    numbers = [n for s in record["suites"] for p in s["parts"] for n in p["numbers"]]
    own = [row for row in rows if not row["baseline"]]
    assert len(own) == 2 * len(numbers)
    for row, (number, i) in zip(own, [(n, i) for n in numbers for i in (0, 1)], strict=True):
        value = number["values"][i]["value"]
        assert row["value"] == ("" if value is None else str(value))
        assert bool(row["p"]) == (i == 1 and number["contrasts"][0]["p"] is not None)
    assert {row["baseline"] for row in rows} >= {"as it is", "projection, both"}


def test_the_latex_is_balanced_and_escaped(record):
    text = audit_latex(record)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert latex("50 % of a_b & c\u202f%") == r"50 \% of a\_b \& c\,\%"
    body = [
        line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line
    ]
    assert {line.count(" & ") for line in body} == {2}


def test_the_terminal_shows_headlines(record):
    lines = audit_lines(record)
    assert lines[2:4] == [
        "fair <b>: 3 embeddings were normalised",
        record["suites"][0]["title"],
    ]
    assert any("max skew" in line and "biased" in line for line in lines)


def test_a_chart_puts_values_inside_their_whiskers_and_the_box():
    value = {"value": 0.4, "low": 0.3, "high": 0.5, "note": ""}
    none = dict.fromkeys(("value", "low", "high"), None) | {"note": "not enough items"}
    number = {"name": "x", "values": [value, none], "chance": 0.25, "even": None}
    chart = interval_chart("", [number], ["a", "b"], unit="share")
    (block,) = chart.blocks
    (whisker,) = block.whiskers
    assert whisker.span[0] < whisker.x < whisker.span[1]
    assert block.mark < whisker.span[0]
    assert (
        interval_chart("", [{**number, "values": [none, none]}], ["a", "b"], unit="share") is None
    )
    assert format_value(none, "share") == "not enough items"
    assert format_value(value, "share") == "40.0\u202f% [30.0, 50.0]"


def test_plain_numbers_have_three_decimals_and_differences_a_sign():
    skew = {"value": 0.27604, "low": 0.20999, "high": 0.3434, "note": ""}
    assert format_value(skew, "nats") == "0.276 [0.210, 0.343]"
    assert format_value({**skew, "low": -0.0012}, "nats") == "0.276 [−0.001, 0.343]"
    assert format_difference(0.05496, "nats") == "+0.055"
    assert format_difference(-0.05496, "number") == "−0.055"
    assert format_difference(0.05496, "share") == "+5.5\u202fpp"


@pytest.mark.parametrize(
    ("corrected", "shown", "strong"),
    [
        (0.0004, "< 0.001", True),
        (0.0412, "0.041", True),
        (0.0498, "< 0.05", True),
        (0.05, "0.050", False),
    ],
)
def test_a_p_that_is_significant_does_not_read_as_one_that_is_not(corrected, shown, strong):
    value = {"value": 0.4, "low": 0.3, "high": 0.5, "note": "", "official": None}
    value |= dict.fromkeys(("texts_low", "texts_high", "both_low", "both_high"))
    contrast = {"value": 0.1, "low": 0.0, "high": 0.2, "p": 0.01, "corrected": corrected}
    for test, said in (("exact", "p 0.010 exact"), ("bootstrap", "p 0.010")):
        number = {"name": "x", "unit": "share", "better": "higher", "headline": True, "items": 60}
        number |= {"values": [value, value], "contrasts": [{**contrast, "test": test, "note": ""}]}
        ((*_, cell, _, _),) = number_rows([{**number, "chance": None, "even": None}], ["a", "b"])
        assert cell.lines == (f"{said}; Holm {shown}",)
        assert cell.strong == strong


def test_the_page_says_units_and_what_the_mark_is(record):
    page = render_audit(record)
    assert "max skew, first 10, target even, nats\u00a0↓" in page
    assert "chance or even</li>" in page
    assert "95\u202f% over images" in page.replace("&#8239;", "\u202f")


def test_reasons_may_break_into_lines_and_values_may_not(record):
    before = render_audit(record).count('<td class="note">')
    none = dict.fromkeys(("value", "low", "high", "official", "p", "corrected"))
    none |= dict.fromkeys(("texts_low", "texts_high", "both_low", "both_high"))
    none |= {"note": "not enough items: 1 where 5 are needed", "test": ""}
    number = record["suites"][0]["parts"][0]["numbers"][0]
    lacking = {**number, "values": [number["values"][0], none], "contrasts": [none]}
    ((_, there, missing, contrast, _, _),) = number_rows([lacking], ["a", "b"])
    assert not there.note
    assert missing.note
    assert contrast.note
    record = json.loads(json.dumps(record))
    record["suites"][0]["parts"][0]["numbers"][0] = lacking
    assert render_audit(record).count('<td class="note">') == before + 2


def test_what_is_said_of_differences_is_said_where_there_are_some(record):
    one = {**record, "baselines": [], "models": record["models"][:1]}
    one["suites"] = [
        {**suite, "parts": [
            {**part, "numbers": [{**n, "values": n["values"][:1], "contrasts": []} for n in part["numbers"]]}
            for part in suite["parts"]
        ]}
        for suite in record["suites"]
    ]  # fmt: skip
    assert "A difference is" in render_audit(record)
    assert "A difference is" not in render_audit(one)
