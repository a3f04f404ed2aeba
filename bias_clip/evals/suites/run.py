"""From a suite's name and a folder to its numbers of one encoder: read, embed, score."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bias_clip.data.sources.folder import folder_source
from bias_clip.evals.encode import Encode
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.families import measure
from bias_clip.evals.suites.layouts import SuiteData, read_layout
from bias_clip.evals.suites.layouts.data import need
from bias_clip.evals.suites.measured import Measured
from bias_clip.evals.suites.spec import Suite, load_suite


def make_suite(
    name: str,
    path: str | Path | None = None,
    *,
    files: Mapping[str, str] | None = None,
    official: bool = False,
    **layout: Any,
) -> Callable[[Encode], dict[str, EvalResult]]:
    """Returns `evaluate(encode)`: the suite's results by part, such as "race" and "gender".

    A suite of one part calls it "all". Everything is read and checked here, before a model runs.

    Args:
      name: in `SUITES`.
      path: the data set, in the layout that the suite names; not needed for embedded data.
      files: role to the user's copy of a file that may not be shipped, see `Suite.needs`.
      official: the official code's value wherever it differs from the sensible one.
      **layout: arguments of the layout's reader, such as `split`.

    Raises:
      ValueError: an unknown suite, a file of `needs` that is not given, or what the reader raises.
    """
    suite = load_suite(name)
    # Where a file is missing `measure` says so, before minutes of reading.
    data = read_suite(suite, path, **layout) if not _lacks(suite, files) else None
    found = measure(suite, data, files)

    def chosen(part: Measured) -> EvalResult:
        return part.official if official and part.official is not None else part.result

    return lambda encode: {name: chosen(part) for name, part in found(encode).items()}


def read_suite(suite: Suite, path: str | Path | None, **layout: Any) -> SuiteData | Path | None:
    """Returns the suite's data as `measure` takes it.

    Raises:
      ValueError: no path for a suite whose data are not embedded, or what its reader raises.
    """
    if suite.family == "association_test":
        return None
    if suite.layout == "emoji":
        return read_layout("emoji", "", **suite.arguments, **layout)
    if path is None:
        raise ValueError(f"the suite {suite.name!r} needs its data set; give the folder.")
    if suite.family == "visogender":
        return Path(path)
    if not suite.layout:
        need(Path(path), "a folder of images")
        return SuiteData(folder_source(path=str(path)))
    return read_layout(suite.layout, path, **suite.arguments, **layout)


def _lacks(suite: Suite, files: Mapping[str, str] | None) -> bool:
    """Whether a file is not given: that is said before the data set is read."""
    return any(role not in (files or {}) for role in suite.needs)
