"""Suites for what is at hand: the embedded emoji, a published suite in a folder, a user's own source."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.data.bad_records import visible_captions
from bias_clip.data.records import Source, column
from bias_clip.evals.audit.audit import Item
from bias_clip.evals.bias.association import PAIRS
from bias_clip.evals.bias.group_columns import Groups, known, read_groups
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.run import read_suite
from bias_clip.evals.suites.spec import Suite, load_suite

EMOJI = (  # quality first: bias of a model that knows nothing means nothing
    *("emoji_names", "emoji_retrieval", "emoji_roles"),
    *("emoji_search", "emoji_association", "emoji_representation"),
)
EMOJI_LIMITS = (
    "The emoji are drawings in one unseen style, not photographs: nothing of them is about real people.",
    "They show whether a model associates a drawn gender with a role, whom it assumes where nobody is "
    "shown, and how much a change of the model moved either.",
    "They do not show how a model behaves on photographs, on names, on race or age, or in use. If a model "
    "does not recognise emoji (see their names), its bias on them means nothing.",
)
PHOTO = ("a photo of a {}",)
SHOWN = 10  # groups or words that a sentence names


def suite_item(
    name: str, path: str | None, files: Mapping[str, str], arguments: Mapping[str, Any]
) -> Item:
    """A suite by name, with its data read.

    Args:
      name: in `SUITES`.
      path: its folder; None for embedded data.
      files: role to the user's copy of a file.
      arguments: of the layout's reader, such as `split`.

    Raises:
      ValueError: an unknown suite, a file that is not given, or what the reader raises.
    """
    suite = load_suite(name)
    missing = [role for role in suite.needs if role not in files]
    if missing:
        raise ValueError(
            f"the suite {name!r} needs a file: {suite.needs[missing[0]]}. Give --file "
            f"{name}.{missing[0]}=PATH of your copy."
        )
    unknown = sorted(files.keys() - suite.needs.keys())
    if unknown:
        raise ValueError(
            f"the suite {name!r} takes no file {unknown[0]!r}; it takes {sorted(suite.needs)}."
        )
    data = read_suite(suite, path, **arguments)
    about: dict[str, Any] = {"layout": suite.layout or suite.family, **arguments}
    if path is not None:
        about |= {"folder": str(Path(path).resolve()), "files": folder_state(Path(path))}
    return Item(suite, data, files, about)


def folder_state(path: Path) -> str:
    """A digest of names, sizes and times of all files, so that changed images are embedded again."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        state = file.stat()
        digest.update(f"{file.relative_to(path)}:{state.st_size}:{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def own_items(
    source: Source,
    about: Mapping[str, Any],
    *,
    by: str,
    label: str | None = None,
    cluster: str | None = None,
    words: Sequence[str] = (),
    templates: Sequence[str] = PHOTO,
    least: int = 1,
) -> list[Item]:
    """What can be measured of a source by one column of groups.

    Always: who is found for words that name no group. With `label`: accuracy by group, and among all
    classes. With captions: retrieval. With two groups: pairs of occupations.

    Args:
      source: images with the column.
      about: what identifies the source.
      by: column of the groups.
      label: column of class names.
      cluster: column of what several images may share, such as a person or a scene.
      words: to search for; the ten occupations of `association` if empty.
      templates: of prompts.
      least: images of a group; a smaller one is left out, because it would leave no number of any group.

    Raises:
      ValueError: an unknown column, a column without a known value or with one value, or fewer than
        two groups of enough images.
    """
    if not known(column(source, by)).any():
        raise ValueError(
            f"the column {by!r} has no known value in {len(source):,} records: all are empty. Choose "
            "another --by."
        )
    found = read_groups(source, by)
    groups, small = _large_groups(found, least)
    if small and len(groups.names) < 2:
        raise ValueError(
            f"the column {by!r} has {len(found.names):,} groups, of which {len(groups.names) or 'none'} "
            f"has {least} images or more; smaller: {small}. Choose another --by, or a smaller --min-items."
        )
    if int(np.sum(groups.counts > 0)) < 2:
        raise ValueError(
            f"the column {by!r} has one value, {groups.names[0]!r}, in all records of known value; "
            "there is nothing to compare. Choose another --by."
        )
    codes = {by: groups.of_record}
    names = {by: groups.names}
    data = SuiteData(
        source, codes, names, clusters=_clusters(source, cluster), cluster=cluster or ""
    )
    whole: dict[str, Any] = dict(
        source="prompts and words of this project", licence="of the data: as its owner says", ours=True,
        split=f"{len(source):,} records",
    )  # fmt: skip
    plain = {**whole, "split": _split(len(source), found, groups, small, least)}
    queries = tuple(words) or tuple(word for pair in PAIRS for word in pair)
    number = int((groups.of_record >= 0).sum())
    ks = [k for k in (10, 100, 1000) if 2 * k <= number] or [max(1, number // 2)]
    search = Suite(
        name="search",
        title=f"Images found for neutral words, by {by}",
        family="berg",
        metric=f"MaxSkew@K and NDKL of {by}, mean over {len(queries)} words: {_listed(queries)}",
        templates=tuple(templates),
        words={"queries": queries},
        groups={by: groups.names},
        options={"ks": ks},
        **plain,
    )
    items = [Item(search, data, {}, about)]
    if label is not None:
        items += _labelled(data, about, by, label, templates, plain)
    # Stops at the first: usually that of the first record.
    if any(visible_captions(source[i]) for i in range(len(source))):
        retrieval = Suite(
            name="retrieval",
            title="Retrieval of captions and images",
            family="retrieval",
            metric="share of captions whose image is among the K nearest, and of images whose caption is",
            options={"ks": [1, 5, 10]},
            **whole,
        )
        items.append(Item(retrieval, data, {}, about))
    if len(groups.names) == 2:
        pairs = Suite(
            name="association",
            title=f"Pairs of occupations by {by}",
            family="association",
            metric=f"share of {groups.names[1]!r} nearer to the first occupation of a pair, minus that of "
            f"{groups.names[0]!r}; pairs: " + ", ".join(f"{a} and {b}" for a, b in PAIRS),
            templates=tuple(templates),
            words={"first": tuple(a for a, _ in PAIRS), "second": tuple(b for _, b in PAIRS)},
            groups={by: tuple(np.unique(column(source, by)[groups.of_record >= 0]).tolist())},
            options={"by": by},
            **plain,
        )
        items.append(Item(pairs, data, {}, about))
    return items


def _large_groups(groups: Groups, least: int) -> tuple[Groups, str]:
    """The groups of at least so many records, and the others in words."""
    large = groups.counts >= least
    if large.all():
        return groups, ""
    # The groups that stay are numbered again; the last entry is for records in no group, -1.
    place = np.append(np.where(large, np.cumsum(large) - 1, -1), -1)
    pairs = list(zip(groups.names, groups.counts.tolist(), large.tolist(), strict=True))
    small = _listed([f"{name} ({count})" for name, count, stays in pairs if not stays])
    names = tuple(name for name, _, stays in pairs if stays)
    return Groups(names, place[groups.of_record]), small


def _split(number: int, found: Groups, groups: Groups, small: str, least: int) -> str:
    """How many records each group has, how many have none, and which groups are left out."""
    counts = zip(groups.names, groups.counts.tolist(), strict=True)
    text = f"{number:,} records: " + _listed([f"{name} {count:,}" for name, count in counts])
    unknown = int((found.of_record < 0).sum())
    if unknown:
        text += f"; {unknown:,} of unknown group, in no number by group"
    return text + (f"; groups of fewer than {least} left out: {small}" if small else "")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _clusters(source: Source, name: str | None) -> np.ndarray | None:
    """The cluster of each record; each record without one is its own."""
    if name is None:
        return None
    values = column(source, name)
    there, own = known(values), np.arange(len(source))
    found = np.unique(values.astype(str), return_inverse=True)[1]
    return np.where(there, found, len(source) + own)


def _labelled(
    data: SuiteData,
    about: Mapping[str, Any],
    by: str,
    label: str,
    templates: Sequence[str],
    plain: dict[str, Any],
) -> list[Item]:
    """Accuracy among the distinct values of the label, in all and by group."""
    values = column(data.source, label)
    there = known(values)
    if not there.all():
        raise ValueError(
            f"{int((~there).sum())} of {len(values)} records have no {label!r}; leave them out of "
            "the source, because accuracy needs a class of each."
        )
    classes = tuple(np.unique(values.astype(str)).tolist())
    labels = np.searchsorted(classes, values.astype(str))
    data = replace(
        data,
        codes={**data.codes, "label": labels},
        classes={"": classes},
        templates={"": tuple(templates)},
    )
    worst = Suite(
        name="by_group",
        title=f"Accuracy of {label} by {by}",
        family="worst_group",
        metric=f"accuracy among {len(classes)} names, by {by}",
        groups={by: data.names[by]},
        options={"by": by},
        **plain,
    )
    whole = Suite(
        name="zeroshot",
        title=f"Accuracy of {label}",
        family="zeroshot",
        metric=f"top-1 and top-5 accuracy among {len(classes)} names",
        **{**plain, "split": f"{len(values):,} records"},
    )
    return [Item(whole, data, {}, about), Item(worst, data, {}, about)]
