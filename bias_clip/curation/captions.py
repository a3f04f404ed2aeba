"""Annotates attributes, labels and proxies of examples from captions or a model's embeddings.

Every annotation is an int8 column of `YES`, `NO` and `UNKNOWN`. The module `given` makes such columns
from those of a data set or an annotator, and `merge_annotations` merges several. Attributes (whom an
image shows) are unknown if nothing mentions them; labels and proxies (what it shows) are then no.

Nothing here is a fact about a person: captions and annotators say what somebody, or a model, saw.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int8

from bias_clip.core.visible import is_blank
from bias_clip.curation.word_lists import WordList, make_matcher
from bias_clip.data.tables import KEY

YES, NO, UNKNOWN = 1, 0, -1
BOTH = ("unknown", "both")

Annotations = dict[str, Int8[np.ndarray, " n"]]
Captions = Sequence[Sequence[str]]


class Lists(NamedTuple):
    """The word lists of an annotation, by the kind of column that their names become."""

    attributes: tuple[WordList, ...] = ()
    labels: tuple[WordList, ...] = ()
    proxies: tuple[WordList, ...] = ()


class Names(NamedTuple):
    """Names of columns, by kind."""

    attributes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()


class Merge(NamedTuple):
    """A rule of `merge_annotations`: its description, and functions of [p, n] answers for yes and no."""

    meaning: str
    yes: Callable[[np.ndarray], np.ndarray]
    no: Callable[[np.ndarray], np.ndarray]


def annotate_captions(captions: Captions, lists: Lists, *, both: str = "unknown") -> Annotations:
    """Annotates each example from the words of all its captions.

    The names of a list of attributes exclude each other, as in gender.txt. A name is yes if one of
    its terms occurs, no if only terms of other names occur, and unknown if no term occurs. If a list
    has two names, only the first becomes a column, because the second is its opposite. Labels and
    proxies are yes if a term occurs, else no. For an example without text everything is unknown.

    Args:
      captions: the captions of each example.
      lists: from `read_word_list`.
      both: what to do when terms of several names occur. "unknown" makes all these names unknown.
        "both" makes them all yes; every name then becomes a column, and columns may overlap.

    Returns: attributes, labels and proxies by name, in the order of `column_names`.
    Raises: ValueError for an unknown `both`, and as `column_names`.

        annotate_captions([["a policewoman"]], Lists(labels=(read_word_list("occupations"),)))
    """
    return make_caption_annotator(lists, both=both)(captions)


def make_caption_annotator(
    lists: Lists, *, both: str = "unknown"
) -> Callable[[Captions], Annotations]:
    """Returns `annotate(captions)`, which works as `annotate_captions` but compiles the lists once."""
    column_names(lists, both=both)  # raises for lists that cannot be combined
    every = [*lists.attributes, *lists.labels, *lists.proxies]
    matchers = [make_matcher(some.terms, some.ignore) for some in every]

    def annotate(captions: Captions) -> Annotations:
        # No text is no evidence: such an example must not count as "no" for every label.
        silent = np.asarray([all(map(is_blank, texts)) for texts in captions], bool)
        found: Annotations = {}
        for i, (some, match) in enumerate(zip(every, matchers, strict=True)):
            hits, attribute = _hits(captions, match, list(some.terms)), i < len(lists.attributes)
            # Only attributes exclude each other: a caption may name several occupations.
            values = _exclusive(hits, both) if attribute else hits.astype(np.int8)
            values[silent] = UNKNOWN
            shown = _shown(some, both) if attribute else list(some.terms)
            # A copy, because a view would keep the whole [n, k] array alive for each column.
            found |= {name: values[:, j].copy() for j, name in enumerate(shown)}
        return found

    return annotate


def column_names(lists: Lists, *, both: str = "unknown") -> Names:
    """Returns the names of the columns that `annotate_captions` makes of each kind of list.

    Raises: ValueError for an unknown `both`, a name in two lists, or a list of attributes with fewer
      than two names, which could never be no.
    """
    if both not in BOTH:
        raise ValueError(f"both: got {both!r}, expected one of {list(BOTH)}.")
    lone = [some.name for some in lists.attributes if len(some.terms) < 2]
    if lone:
        raise ValueError(
            f"the lists {lone} of attributes have one name, so nothing ever says no; add the words for "
            "its opposite, or use them as labels."
        )
    attributes = [name for some in lists.attributes for name in _shown(some, both)]
    labels, proxies = ([n for some in kind for n in some.terms] for kind in lists[1:])
    check_names([*attributes, *labels, *proxies])
    return Names(tuple(attributes), tuple(labels), tuple(proxies))


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for a column name that occurs twice, or that is the id column's."""
    twice = sorted({name for name in names if names.count(name) > 1 or name == KEY})
    if twice:
        raise ValueError(
            f"columns come twice: {twice}; one name is one column ({KEY!r} is taken), so rename it in "
            "one of the lists."
        )


def annotate_zero_shot(
    zimg: Float[np.ndarray, "n d"],
    zprompts: Float[np.ndarray, "p d"],
    names: Sequence[str],
    *,
    margin: float = 0.0,
) -> Annotations:
    """Annotates images by the prompt they are closest to, as a CLIP model sees it.

    The closest prompt of each name represents it. The name that wins by more than `margin` is yes and
    the others are no. All are unknown if no name wins, or if prompts named "" win: use that name for
    prompts that describe no person ("a photo of a landscape").

    Args:
      zimg, zprompts: unit-norm embeddings.
      names: name of each prompt; names may repeat.
      margin: smallest difference of cosines.

    Raises: ValueError for fewer than two names, or another number of them than of prompts.
    """
    groups = list(dict.fromkeys(names))
    if len(names) != len(zprompts) or len(groups) < 2 or margin < 0:
        raise ValueError(
            f"got {len(zprompts)} prompts, names {groups} for {len(names)} and {margin=}; expected a name "
            "for each prompt, two names or more, and a margin of at least 0."
        )
    cosines = np.asarray(zimg, np.float32) @ np.asarray(zprompts, np.float32).T
    # [n, groups]: the closest prompt of each name.
    best = np.stack([cosines[:, np.equal(names, group)].max(axis=1) for group in groups], axis=1)
    # The last two of the ascending order, the largest first.
    first, second = np.sort(best, axis=1)[:, :-3:-1].T
    winner = np.asarray(groups)[best.argmax(axis=1)]
    sure = (first - second > margin) & (winner != "")
    return {g: np.where(sure, winner == g, UNKNOWN).astype(np.int8) for g in groups if g}


def merge_annotations(*parts: Mapping[str, np.ndarray], rule: str) -> Annotations:
    """Merges the columns of several annotators; a column of only one annotator does not change.

    Args:
      parts: columns by name, all of equal length; the first part has priority if the rule has one.
      rule: a key of `MERGE_RULES`, which describes each rule.

    Raises: ValueError for an unknown rule or columns of different lengths.

        merge_annotations(by_column, by_captions, rule="first")
    """
    if rule not in MERGE_RULES:
        meanings = {name: merge.meaning for name, merge in MERGE_RULES.items()}
        raise ValueError(f"unknown rule {rule!r}, expected one of {meanings}.")
    names = list(dict.fromkeys(name for part in parts for name in part))
    merged = {}
    for name in names:
        answers = [np.asarray(part[name]) for part in parts if name in part]
        if len({len(answer) for answer in answers}) > 1:
            raise ValueError(
                f"{name!r} has {[len(a) for a in answers]} rows; annotate the same examples."
            )
        stack = np.stack(answers)
        yes, no = MERGE_RULES[rule].yes(stack), MERGE_RULES[rule].no(stack)
        # Rules give yes and no separately; what neither covers is unknown.
        merged[name] = np.select([yes, no], [YES, NO], UNKNOWN).astype(np.int8)
    return merged


def _first(answers: np.ndarray) -> np.ndarray:
    # argmax of booleans is the first True; if all are unknown it is 0, whose answer is unknown too.
    place = (answers != UNKNOWN).argmax(axis=0)
    return np.take_along_axis(answers, place[None], axis=0)[0]


def _has(answers: np.ndarray, value: int) -> np.ndarray:
    return (answers == value).any(axis=0)


def _all(answers: np.ndarray, value: int) -> np.ndarray:
    return (answers == value).all(axis=0)


MERGE_RULES: Mapping[str, Merge] = {
    "first": Merge(
        "what the first says that knows", lambda a: _first(a) == YES, lambda a: _first(a) == NO
    ),
    "agree": Merge(
        "known where all know and say the same", lambda a: _all(a, YES), lambda a: _all(a, NO)
    ),
    "consistent": Merge(
        "known where one knows and no other says the opposite",
        lambda a: _has(a, YES) & ~_has(a, NO),
        lambda a: _has(a, NO) & ~_has(a, YES),
    ),
    "any": Merge(
        "yes if one says yes, no if all do", lambda a: _has(a, YES), lambda a: _all(a, NO)
    ),
    "all": Merge("no if one says no, yes if all do", lambda a: _all(a, YES), lambda a: _has(a, NO)),
}


def _shown(attributes: WordList, both: str) -> list[str]:
    """The names that become columns: all except the opposite of the first."""
    names = list(attributes.terms)
    return names[:1] if both == "unknown" and len(names) == 2 else names


def _hits(captions: Captions, match: Callable, names: Sequence[str]) -> Bool[np.ndarray, "n k"]:
    place = {name: j for j, name in enumerate(names)}
    hits = np.zeros((len(captions), len(names)), bool)
    for i, texts in enumerate(captions):
        for text in texts:
            for name in match(text):
                hits[i, place[name]] = True
    return hits


def _exclusive(hits: Bool[np.ndarray, "n k"], both: str) -> Int8[np.ndarray, "n k"]:
    said = np.count_nonzero(hits, axis=1)
    # With "both" several names may be yes; only silence is unknown.
    unsure = said != 1 if both == "unknown" else said == 0
    return np.where(unsure[:, None], UNKNOWN, hits).astype(np.int8)
