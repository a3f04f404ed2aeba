"""The families of suites by name: from a suite and its data to what it measures."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bias_clip.core.registry import look_up
from bias_clip.evals.suites.families.captions import neutral_family, retrieval_family
from bias_clip.evals.suites.families.classified import (
    fairness_family,
    worst_group_family,
    zeroshot_family,
)
from bias_clip.evals.suites.families.found import berg_family, sobit_family
from bias_clip.evals.suites.families.preferences import (
    association_family,
    association_test_family,
    representation_family,
)
from bias_clip.evals.suites.families.professions import sispi_family, visogender_family
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.measured import Evaluate
from bias_clip.evals.suites.spec import Suite

_FAMILIES: dict[str, Callable[..., Evaluate]] = {
    "association": association_family,
    "association_test": association_test_family,
    "berg": berg_family,
    "fairness": fairness_family,
    "neutral": neutral_family,
    "representation": representation_family,
    "retrieval": retrieval_family,
    "sispi": sispi_family,
    "sobit": sobit_family,
    "worst_group": worst_group_family,
    "zeroshot": zeroshot_family,
}


def measure(
    suite: Suite, data: SuiteData | Path | None, files: Mapping[str, str] | None = None
) -> Evaluate:
    """Returns `evaluate(encode)`: the suite's parts as measured of one model.

    Args:
      suite: from `load_suite`, or of your own.
      data: as the suite's layout reads it; the folder itself for VisoGender, None for words alone.
      files: role to the user's copy of a file that may not be shipped, see `Suite.needs`.

    Raises:
      ValueError: a file of `needs` that is not given, or data that the family cannot use.
    """
    # Missing files are told here, once for all families, and in the words of the suite.
    given = dict(files or {})
    missing = [role for role in suite.needs if role not in given]
    if missing:
        raise ValueError(
            f"the suite {suite.name!r} needs files[{missing[0]!r}]: {suite.needs[missing[0]]}; give "
            "the path of your copy."
        )
    # VisoGender is two tables in one folder, which a single `SuiteData` cannot hold.
    if suite.family == "visogender":
        if not isinstance(data, Path):
            raise ValueError(f"the suite {suite.name!r} takes its folder, got {type(data)}.")
        return visogender_family(suite, data)
    return look_up("family", suite.family, _FAMILIES)(suite, data, given)


def parts_of(suite: Suite) -> tuple[str, ...]:
    """The names of the parts that the suite's results have."""
    if suite.family == "visogender":
        return ("resolution", "retrieval")
    return tuple(suite.groups) if suite.family in ("sobit", "berg") else ("all",)
