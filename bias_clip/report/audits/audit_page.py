"""The page of an audit: every number with its interval, models beside each other, and the baselines."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bias_clip.core.formatting import format_number, format_unit, is_number, spaced
from bias_clip.evals.audit.provenance import DIGITS
from bias_clip.report.comparison import UNITS, arrow
from bias_clip.report.interval_plots import (
    IntervalChart,
    format_difference,
    format_interval,
    format_plain,
    format_value,
    interval_chart,
    mark,
)
from bias_clip.report.pages import render_page

LEVEL = 0.05  # below which a corrected p is called significant
AXES = {**UNITS, "nats": "nats", "number": "", "cosine": "cosine similarity"}


class Cell(NamedTuple):
    """A cell of a table: its text, smaller lines below it, whether it stands out, whether it is a reason."""

    text: str
    lines: tuple[str, ...] = ()
    strong: bool = False
    note: bool = False


def render_audit(audit: Mapping[str, Any], *, limits: Sequence[str] = ()) -> str:
    """Returns the page as HTML; the same audit gives the same bytes.

    Args:
      audit: what `audit.json` holds.
      limits: what these data can and cannot tell, a sentence each.
    """
    names = [model["name"] for model in audit["models"]]
    return render_page(
        "audit.html",
        names=names,
        models=[_model(model) for model in audit["models"]],
        notes=[(model["name"], note) for model in audit["models"] for note in model["notes"]],
        unknowing=unknowing_lines(audit),
        limits=list(limits),
        settings=audit["settings"],
        suites=[_suite(suite, names) for suite in audit["suites"]],
        baselines=[_baselines(found) for found in audit["baselines"]],
        found=significant_lines(audit),
    )


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Which model it is, as the cells of a row."""
    own = model["provenance"]
    return {
        "name": model["name"],
        "given": own["given"],
        "format": ", ".join(part for part in (own["format"], own["details"]) if part),
        "step": format_number(own["step"]),
        "parameters": format_number(own["parameters"]),
        "sha256": [(what, digest[:DIGITS]) for what, digest in own["sha256"].items()],
    }


def unknowing_lines(audit: Mapping[str, Any]) -> list[str]:
    """The suites in which no main number of knowledge is above chance, and the models of which that is so."""
    models_of: dict[str, list[str]] = {}
    for i, model in enumerate(audit["models"]):
        titles = "; ".join(s["title"] for s in audit["suites"] if _is_unknowing(s, i))
        models_of.setdefault(titles, []).append(model["name"])
    models_of.pop("", None)
    return [
        f"{', '.join(names)}: not found to be above chance in {titles}. What a model does not recognise, "
        "it cannot associate: read its bias there as that of noise."
        for titles, names in models_of.items()
    ]


def _is_unknowing(suite: Mapping[str, Any], i: int) -> bool:
    """Whether model i has main numbers with a chance level, and the interval of each reaches down to it."""
    numbers = [n for part in suite["parts"] for n in part["numbers"] if n["headline"]]
    pairs = [(n["values"][i]["low"], n["chance"]) for n in numbers if n["better"] == "higher"]
    known = [(low, chance) for low, chance in pairs if is_number(low) and is_number(chance)]
    return bool(known) and all(low <= chance for low, chance in known)


def significant_lines(audit: Mapping[str, Any]) -> list[str]:
    """For each model after the first: the suites with numbers that differ after correction, then the others."""
    names = [model["name"] for model in audit["models"]]
    lines = []
    for i, name in enumerate(names[1:]):
        same, number_same = [], 0
        for suite in audit["suites"]:
            numbers = [n for part in suite["parts"] for n in part["numbers"]]
            tested = [n for n in numbers if is_number(n["contrasts"][i]["corrected"])]
            differ = [n for n in tested if n["contrasts"][i]["corrected"] < LEVEL]
            if not differ:
                same.append(suite["title"])
                number_same += len(tested)
                continue
            which = "; ".join(_changed(n, i) for n in differ[:4])
            more = f"; and {len(differ) - 4} more" if len(differ) > 4 else ""
            lines.append(
                f"{suite['title']}: {name} differs from {names[0]} in {len(differ)} of "
                f"{len(tested)} numbers ({which}{more})."
            )
        if same:
            lines.append(
                f"No difference between {name} and {names[0]} was found in the {number_same} numbers of: "
                f"{'; '.join(same)}."
            )
    return lines


def _changed(number: Mapping[str, Any], i: int) -> str:
    text = format_difference(number["contrasts"][i]["value"], number["unit"])
    return f"{number['name']}: {text}"


def number_rows(
    numbers: Sequence[Mapping[str, Any]], models: Sequence[str], over_texts: str = ""
) -> list[list[Cell]]:
    """A row per number: models, differences to the first with p, the value to compare with, items."""
    rows = []
    for number in numbers:
        unit = number["unit"]
        cells = [Cell(_named(number), strong=number["headline"])]
        cells += [_value_cell(own, unit, over_texts) for own in number["values"]]
        cells += [_contrast_cell(own, unit) for own in number["contrasts"]]
        against = mark(number)
        cells.append(Cell("" if against is None else format_unit(against, unit)))
        cells.append(Cell(format_number(number["items"])))
        rows.append(cells)
    return rows


def _named(number: Mapping[str, Any]) -> str:
    """The name, the unit where its values have none, and an arrow in the better direction."""
    unit = f", {number['unit']}" if number["unit"] in ("nats", "cosine") else ""
    return number["name"] + unit + arrow(number["better"])


def _value_cell(own: Mapping[str, Any], unit: str, over_texts: str) -> Cell:
    lines = []
    texts = format_interval(own["texts_low"], own["texts_high"], unit)
    both = format_interval(own["both_low"], own["both_high"], unit)
    if texts:
        lines.append(f"{over_texts}: {_unbroken(texts)}")
    if both:
        lines.append(f"both: {_unbroken(both)}")
    official = format_plain(own["official"], unit) if is_number(own["official"]) else ""
    # Rounded to the same digits it would say nothing, and read as a misprint.
    if official and not (is_number(own["value"]) and official == format_plain(own["value"], unit)):
        lines.append(f"official code: {official}")
    if is_number(own["value"]) and own["note"]:
        lines.append(own["note"])
    return Cell(format_value(own, unit), tuple(lines), note=not is_number(own["value"]))


def _unbroken(interval: str) -> str:
    """The interval with a space that no line ends at."""
    return interval.replace(" ", "\u00a0")


def _contrast_cell(own: Mapping[str, Any], unit: str) -> Cell:
    if not is_number(own["value"]):
        return Cell(own["note"], note=True)
    signed = "signed points" if unit in ("share", "points") else unit
    text = format_difference(own["value"], unit)
    text = f"{text} {format_interval(own['low'], own['high'], signed)}"
    if not is_number(own["p"]):
        return Cell(text, (own["note"],) if own["note"] else ())
    corrected = own["corrected"]
    strong = is_number(corrected) and corrected < LEVEL
    # The bootstrap goes without saying, so that the table of three models fits a window.
    test = " exact" if own["test"] == "exact" else ""
    return Cell(text, (f"p {_p(own['p'])}{test}; Holm {_p(corrected)}",), strong)


def _p(value: float | None) -> str:
    if not is_number(value):
        return "none"
    if value < 0.001:
        return "< 0.001"
    # Rounded, a significant 0.0497 would read as one that is not.
    return f"< {LEVEL}" if LEVEL - 0.0005 <= value < LEVEL else f"{value:.3f}"


def _suite(suite: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    head = ["", *names, *(f"{name} − {names[0]}" for name in names[1:]), "chance or even", "items"]
    parts = [
        {
            "name": "" if part["name"] == "all" else spaced(part["name"]),
            "head": head,
            "rows": number_rows(part["numbers"], names, part["over_texts"]),
            "sizes": [(name, format_number(size)) for name, size in part["sizes"]],
            "charts": _charts(part["numbers"], names),
        }
        for part in suite["parts"]
    ]
    said = {key: suite[key][:1].upper() + suite[key][1:] for key in ("metric", "split")}
    return {**suite, **said, "parts": parts}


def _charts(numbers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[IntervalChart]:
    """A chart per unit of the headline numbers."""
    headlines = [number for number in numbers if number["headline"]]
    found = []
    for unit in dict.fromkeys(number["unit"] for number in headlines):
        own = [number for number in headlines if number["unit"] == unit]
        found.append(interval_chart("", own, names, unit=unit, caption=AXES.get(unit, "")))
    return [chart for chart in found if chart]


def _baselines(found: Mapping[str, Any]) -> dict[str, Any]:
    tables = []
    for suite in found["suites"]:
        rows = []
        for number in suite["numbers"]:
            unit = number["unit"]
            first = number["values"][0]
            # The reason for no interval is that of all columns, so it stands beside the name.
            why = (first["note"],) if is_number(first["value"]) and first["note"] else ()
            cells = [Cell(_named(number), why), _baseline_cell(first, unit)]
            for own, contrast in zip(number["values"][1:], number["contrasts"], strict=True):
                strong = is_number(contrast["corrected"]) and contrast["corrected"] < LEVEL
                lines = (f"Holm {_p(contrast['corrected'])}",) if is_number(contrast["p"]) else ()
                cells.append(_baseline_cell(own, unit, lines, strong))
            rows.append(cells)
        part = "" if suite["part"] == "all" else f" ({spaced(suite['part'])})"
        tables.append({"title": suite["title"] + part, "rows": rows})
    return {**found, "head": ["", *found["names"]], "tables": tables}


def _baseline_cell(
    own: Mapping[str, Any], unit: str, lines: tuple[str, ...] = (), strong: bool = False
) -> Cell:
    """The value, and its interval below it: six columns fit a window so."""
    if not is_number(own["value"]):
        return Cell(own["note"], note=True)
    span = format_interval(own["low"], own["high"], unit) or "no interval"
    return Cell(format_plain(own["value"], unit), (span, *lines), strong)
