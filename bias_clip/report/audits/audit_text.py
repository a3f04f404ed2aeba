"""An audit as CSV, as a LaTeX table, and as lines of a terminal."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from bias_clip.evals.audit.provenance import provenance_line
from bias_clip.report.interval_plots import format_value, mark

COLUMNS = (
    *("model", "baseline", "suite", "part", "key", "name", "unit", "items", "chance_or_even"),
    *("value", "low", "high", "texts_low", "texts_high", "both_low", "both_high", "official"),
    *("difference", "difference_low", "difference_high", "p", "p_holm", "test", "note"),
    *("given", "format", "details", "step", "parameters", "sha256"),
)
_VALUE = ("value", "low", "high", "texts_low", "texts_high", "both_low", "both_high", "official")
_SPECIAL = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "_": r"\_",
        "#": r"\#",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "−": "$-$",
        "\u202f": r"\,",
        "→": r"$\rightarrow$",
        "×": r"$\times$",
        "“": "``",
        "”": "''",
    }
)


def audit_csv(audit: Mapping[str, Any]) -> str:
    """A row per model (or baseline) and number; empty cells where something does not exist."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for row in _rows(audit):
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return file.getvalue()


def audit_latex(audit: Mapping[str, Any]) -> str:
    """A tabular of the headline numbers with intervals, a column per model; needs no package."""
    names = [model["name"] for model in audit["models"]]
    # Comments, so that the table stays as narrow as its numbers and its file says whose they are.
    lines = [f"% {provenance_line(model)}" for model in audit["models"]]
    lines += [f"\\begin{{tabular}}{{l{'l' * len(names)}}}", "\\hline"]
    lines += [" & ".join(["", *map(latex, names)]) + r" \\", "\\hline"]
    for suite in audit["suites"]:
        lines.append(
            f"\\multicolumn{{{len(names) + 1}}}{{l}}{{\\textbf{{{latex(suite['title'])}}}}} \\\\"
        )
        for part in suite["parts"]:
            of = "" if part["name"] == "all" else f"{part['name']}: "
            for number in part["numbers"]:
                if number["headline"]:
                    cells = [latex(format_value(own, number["unit"])) for own in number["values"]]
                    lines.append(" & ".join([latex(of + number["name"]), *cells]) + r" \\")
    return "\n".join([*lines, "\\hline", "\\end{tabular}"]) + "\n"


def latex(text: str) -> str:
    """The text with everything escaped that has a meaning in LaTeX."""
    return text.translate(_SPECIAL)


def audit_lines(audit: Mapping[str, Any]) -> list[str]:
    """What a reader should know of the models, and the headline numbers of each suite, for a terminal."""
    names = [model["name"] for model in audit["models"]]
    lines = [provenance_line(model) for model in audit["models"]]
    lines += [f"{model['name']}: {note}" for model in audit["models"] for note in model["notes"]]
    for suite in audit["suites"]:
        lines.append(suite["title"])
        for part in suite["parts"]:
            for number in part["numbers"]:
                if not number["headline"]:
                    continue
                cells = [format_value(own, number["unit"]) for own in number["values"]]
                own = "  ".join(
                    f"{name} {cell}" if len(names) > 1 else cell
                    for name, cell in zip(names, cells, strict=True)
                )
                of = "" if part["name"] == "all" else f"{part['name']}: "
                lines.append(f"  {of}{number['name']}: {own}")
    return lines


def _rows(audit: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    which = {model["name"]: _which(model) for model in audit["models"]}
    for suite in audit["suites"]:
        for part in suite["parts"]:
            for number in part["numbers"]:
                for i, own in enumerate(which.values()):
                    place = {"suite": suite["name"], "part": part["name"]}
                    yield {**own, **place, **_row(number, i)}
    for found in audit["baselines"]:
        for suite in found["suites"]:
            for number in suite["numbers"]:
                for i, name in enumerate(found["names"]):
                    own = {"suite": suite["suite"], "part": suite["part"], **_row(number, i)}
                    yield {**which[found["model"]], "baseline": name, **own}


def _which(model: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that say which model a row is of."""
    own = model["provenance"]
    sums = " ".join(f"{what}={digest}" for what, digest in own["sha256"].items())
    return {"model": model["name"], **own, "sha256": sums}


def _row(number: Mapping[str, Any], i: int) -> dict[str, Any]:
    value = number["values"][i]
    row = {key: number[key] for key in ("key", "name", "unit", "items")}
    row |= {key: value[key] for key in _VALUE}
    row |= {"chance_or_even": mark(number), "note": value["note"]}
    if i:
        contrast = number["contrasts"][i - 1]
        row |= {"difference": contrast["value"], "difference_low": contrast["low"]}
        row |= {"difference_high": contrast["high"], "p": contrast["p"]}
        row |= {"p_holm": contrast["corrected"], "test": contrast["test"]}
        row["note"] = value["note"] or contrast["note"]
    return row
