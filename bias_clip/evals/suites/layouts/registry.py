"""The published layouts by name, as suites name them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bias_clip.core.registry import call_by_name
from bias_clip.evals.suites.layouts import tars
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.layouts.emoji import read_emoji
from bias_clip.evals.suites.layouts.file_names import read_sispi, read_utkface
from bias_clip.evals.suites.layouts.tables import (
    read_captions,
    read_celeba,
    read_fairface,
    read_visogender,
    read_waterbirds,
)

LAYOUTS: dict[str, Callable[..., SuiteData]] = {
    "captions": read_captions,
    "celeba": read_celeba,
    "emoji": read_emoji,
    "fairface_csv": read_fairface,
    "sispi": read_sispi,
    "utkface": read_utkface,
    "visogender": read_visogender,
    "waterbirds": read_waterbirds,
    "wds": tars.read_tars,
    "wds_dollar_street": functools.partial(tars.read_tars, columns=tars.DOLLAR_STREET),
    "wds_fairness": functools.partial(tars.read_tars, columns=tars.FAIRNESS),
    "wds_geode": functools.partial(tars.read_tars, columns=tars.GEODE),
}


def read_layout(name: str, path: str | Path, **arguments: Any) -> SuiteData:
    """Returns the data set in `path`, read by the layout of that name in `LAYOUTS`.

    Args:
      name: such as "fairface_csv".
      path: folder as published, or a caption file.
      **arguments: of the layout's function, such as `split`.

    Raises:
      ValueError: an unknown layout or argument, a file that is missing or of another form: says
        which file, and what was expected.
    """
    return call_by_name("layout", LAYOUTS, name, arguments, Path(path))
