"""Prompts for a sensitive attribute and for roles."""

import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bias_clip.data.emoji.captions import with_article
from bias_clip.data.sources import Source, column


class Attribute(NamedTuple):
    """A sensitive attribute: its column, its two groups, and the words for them.

    Attributes:
      column: column of the source.
      groups: names of the two groups.
      values: values of the column for each group.
      neutral: values of the column that show neither group.
      terms: words for each group; every template is filled with every term, and all are averaged.
      plain: templates with {term}.
      in_role: templates with {term} and the words for a role (see `make_bias`).
    """

    column: str
    groups: tuple[str, str]
    values: tuple[tuple, tuple]
    neutral: tuple
    terms: tuple[tuple[str, ...], tuple[str, ...]]
    plain: tuple[str, ...]
    in_role: tuple[str, ...]


ATTRIBUTES: dict[str, Attribute] = {
    "gender": Attribute(
        column="gender",
        groups=("woman", "man"),
        values=(("woman",), ("man",)),
        neutral=("person",),
        terms=(("woman",), ("man",)),
        plain=("{term}", "a {term}"),
        in_role=("{term} {concept}", "a {term} {concept}"),
    ),
    "tone": Attribute(
        column="tone",
        groups=("light", "dark"),
        values=((1, 2), (4, 5)),
        neutral=(0,),
        terms=(
            ("light skin tone", "medium-light skin tone"),
            ("dark skin tone", "medium-dark skin tone"),
        ),
        plain=("{term}", "a person with {term}"),
        in_role=("{role}: {term}", "{a_role} with {term}"),
    ),
}


def role_words(
    source: Source, roles: Sequence[str], names: str | None
) -> dict[str, dict[str, str]]:
    """The words that a template may use per role: {concept}, {role} and {a_role}, see `make_bias`."""
    called = dict(zip(roles, roles, strict=True))
    if names is not None:
        columns = (column(source, key) for key in ("concept", "gender", "tone", names))
        table = zip(*(values.tolist() for values in columns), strict=True)
        rows = sorted(table, key=lambda row: -len(row[3]))  # the shortest of several names stays
        # Sorted by falling length, later rows overwrite earlier ones.
        neutral = {c: name for c, gender, tone, name in rows if (gender, tone) == ("person", 0)}
        called |= {role: neutral[role] for role in roles if role in neutral}
    return {concept: words_for(concept, role) for concept, role in called.items()}


def words_for(concept: str, role: str) -> dict[str, str]:
    """The words of one role: `role` is the word for a person in it."""
    return {"concept": concept, "role": role, "a_role": with_article(role)}


def make_prompts(
    spec: Attribute,
    roles: Sequence[Mapping[str, str]],
    neutral_templates: Sequence[str],
    paired: Sequence[Mapping[str, str]],
) -> dict[str, list[list[str]]]:
    """For each purpose, a list of classes; each class is a list of prompts.

    Raises:
      ValueError: a template with an unknown field.
    """
    valid = set(words_for("", "any"))
    wrong = [t for t in neutral_templates if not _fields(t) <= valid]
    if wrong or not neutral_templates:
        raise ValueError(
            f"neutral_templates have {wrong}; expected some, of fields {sorted(valid)}."
        )

    def of_group(templates: Sequence[str], i: int, words: Mapping[str, str]) -> list[str]:
        return [t.format(term=term, **words) for t in templates for term in spec.terms[i]]

    def neutral(roles: Sequence[Mapping[str, str]]) -> list[list[str]]:
        return [[t.format(**words) for t in neutral_templates] for words in roles]

    return {
        "plain": [of_group(spec.plain, i, {}) for i in (0, 1)],
        "in_role": [of_group(spec.in_role, i, words) for words in roles for i in (0, 1)],
        "neutral": neutral(roles),
        # Pairs may name roles that the source does not have, so they have prompts of their own.
        "pairs": neutral(paired),
    }


def _fields(template: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
