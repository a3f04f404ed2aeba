"""Renders a template with values to a page: one file that loads nothing, with all values escaped."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from bias_clip.core.formatting import (
    format_number,
    format_percent,
    format_points,
    format_unit,
    spaced,
)
from bias_clip.report import bar_plots, plots


class Table(NamedTuple):
    """Cells of a table as text, for the macro `number_table`."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def render_page(template: str, **values: Any) -> str:
    """Returns a page as HTML.

    All pages extend `base.html`, which has the style, the script and a content security policy that
    forbids everything else. The same values give the same bytes.

    Args:
      template: name of a file in the folder `templates`.
      values: values that the template shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        # Names and captions come from data and may hold HTML.
        autoescape=True,
        # A misspelt name in a template is an error and not an empty place on the page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "percent": format_percent,
        "points": format_points,
        "unit": format_unit,
        "spaced": spaced,
        "source_hash": _source_hash,
    }
    environment.globals |= {"box": plots, "bars": bar_plots}
    return environment.get_template(template).render(**values)


def _source_hash(script: str) -> str:
    """The hash by which a content security policy allows an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
