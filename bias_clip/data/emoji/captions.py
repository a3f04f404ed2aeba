"""Captions for the embedded emoji: several descriptions of each one.

The first caption is the Unicode CLDR short name. The others say the same in natural words, add
keywords, or leave something out. Some name a person's role without gender or skin tone, as captions
of photographs do. In this way a bias of the *images* becomes a bias of the words.
Captions depend only on the entry, without randomness. The reader draws one caption per visit.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bias_clip.data.text import canonicalize

NUM_KEYWORDS = 4  # of a dozen or so; gives 13 captions per emoji on average, 5 to 21
# The article follows the sound, not the letter: an hourglass, an SOS button, but a unicorn, a euro.
VOWEL_SOUNDS = ("a", "e", "i", "o", "u", "hour", "sos")
CONSONANT_SOUNDS = ("eu", "ewe", "uni", "use", "one")
SINGULAR_S = ("ss", "us", "is", "gas", "rhinoceros")
# Nouns without an article: masses, games, names, and words that are not things.
BARE_STARTS = ("no ", "non-", "keycap", "men ", "women ", "people ", "moai", "palms", "rolling")
BARE_ENDS = ("o’clock", "-thirty", "claus")
BARE_HEADS = frozenset(
    """bacon badminton baseball basketball bowling bread breast-feeding broccoli butter football fruit
    garlic hockey ice lacrosse luggage money oden popcorn racing rice sake salt soap spaghetti sushi tea
    tennis thread volleyball water wood yarn fire fog dna zzz e-mail information infinity copyright
    aries taurus gemini cancer leo virgo libra scorpio sagittarius capricorn aquarius pisces ophiuchus
    camping cooking construction dizzy done foggy locked unlocked prohibited radioactive registered
    star-struck wireless plus minus divide multiply""".split()
)
# A caption without gender must not name it again by a keyword.
GENDERED = frozenset(
    """man men male boy guy woman women female girl lady person people adult child mother father mom dad
    mum wife husband groom bride king queen prince princess actor actress waiter waitress policeman
    policewoman fireman mr mrs ms sir madam gentleman grandma grandpa grandmother grandfather
    businessman businesswoman congressman congresswoman bro sis brother sister he she him her""".split()
)


class Parts(NamedTuple):
    """A parsed CLDR name: "man: dark skin tone, red hair" is ("man with red hair", ("dark",))."""

    noun: str
    tones: tuple[str, ...]


def captions(
    entry: Mapping[str, str], *, neutral: str, names: Mapping[str, Mapping[str, str]]
) -> tuple[str, ...]:
    """Returns the distinct captions of an entry; the CLDR name in the first language comes first.

    Args:
      entry: a row of the table, with name, gender and tags.
      neutral: the name of its concept without gender, from `neutral_names`.
      names: per requested language, in order, the row with its name and tags; "en" is `entry`.
    """
    lines: list[str] = []
    for language, row in names.items():
        lines += _english(entry, neutral) if language == "en" else _translated(row)
    # Forms of short names often coincide; a caption that stands twice would be drawn twice as often.
    return tuple(dict.fromkeys(lines))


def neutral_names(entries: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Maps each concept to its name without gender: "mechanic", "person climbing"."""
    names = {entry["concept"]: entry["concept"] for entry in entries}
    nouns: dict[str, list[str]] = {}
    for entry in entries:
        if entry["gender"] in ("none", "person") and entry["tone"] == "0":
            nouns.setdefault(entry["concept"], []).append(parts(entry["name"]).noun)
    names |= {concept: min(found, key=len) for concept, found in nouns.items()}
    people = {e["concept"] for e in entries if e["subgroup"].startswith("person")}
    for concept in (
        people - nouns.keys()
    ):  # such as "dancing", which exists only as a man and as a woman
        names[concept] = f"person {concept}"
    return names


def parts(name: str) -> Parts:
    """Splits a CLDR name into a noun phrase and skin tones."""
    base, _, rest = name.partition(": ")
    # "man: dark skin tone, red hair": what ends in "skin tone" is a tone, all else describes the noun.
    details = [d for d in rest.split(", ") if d and not d.endswith("skin tone")]
    tones = [d.removesuffix(" skin tone") for d in rest.split(", ") if d.endswith("skin tone")]
    return Parts(_noun(base, details), tuple(dict.fromkeys(tones)))


def with_article(noun: str) -> str:
    """A noun phrase with its article; plurals and mass nouns get none."""
    low = noun.lower()
    if low.startswith("flag of"):
        return f"the {noun}"
    head = re.split(" with | without | of | in | on | and | behind | between |: ", low)[0].split()[
        -1
    ]
    person = low.startswith(("person ", "man ", "woman "))
    plural = head.endswith("s") and not head.endswith(SINGULAR_S)
    bare = plural or head in BARE_HEADS or low.startswith(BARE_STARTS) or low.endswith(BARE_ENDS)
    if bare and not person:
        return noun
    vowel = low.startswith(VOWEL_SOUNDS) and not low.startswith(CONSONANT_SOUNDS)
    return f"{'an' if vowel else 'a'} {noun}"


def _noun(base: str, details: Sequence[str]) -> str:
    if not details:
        return base
    if base in ("flag", "keycap"):
        return f"flag of {details[0]}" if base == "flag" else f"keycap {details[0]}"
    if base in ("family", "kiss", "couple with heart"):
        people = [with_article(detail) for detail in details]
        group = f"{', '.join(people[:-1])} and {people[-1]}"
        return {"family": f"family of {group}", "kiss": f"kiss between {group}"}.get(
            base, f"couple with heart, {group}"
        )
    detail = " and ".join(details)
    if detail in ("bald", "beard"):
        return f"{'bald' if detail == 'bald' else 'bearded'} {base}"
    return f"{base} with {detail}" if detail.endswith("hair") else f"{base} {detail}"


def _english(entry: Mapping[str, str], neutral: str) -> list[str]:
    name, (noun, tones) = entry["name"], parts(entry["name"])
    keywords = _keywords(entry["tags"], name)
    toned = f"{with_article(noun)}{_with_tones(tones)}"
    lines = [name, canonicalize(name), toned, f"an emoji of {toned}"]
    lines += [f"a drawing of {toned}", f"a picture of {toned}"]
    if entry["gender"] in ("man", "woman", "mixed"):
        lines += _less(
            entry["gender"], noun, neutral, tones, [k for k in keywords if not _gendered(k)]
        )
    if name.startswith("flag: "):
        country = name.removeprefix("flag: ")
        lines += [country, f"{country} flag"]
    if tones:
        lines += [with_article(noun), f"a drawing of {with_article(noun)}"]
        lines += [f"{tones[0]}-skinned {noun}"] if len(tones) == 1 else []
    else:
        lines.append(f"{noun} emoji")
    lines += [f"{name}, {keyword}" for keyword in keywords[:2]]
    lines += [f"{noun}, {keyword}" for keyword in keywords[2:]]
    return lines + [", ".join(keywords[i : i + 2]) for i in range(0, len(keywords) - 1, 2)]


def _less(
    gender: str, noun: str, neutral: str, tones: Sequence[str], keywords: Sequence[str]
) -> list[str]:
    """Captions without the gender and, for roles, captions with other words for the gender."""
    anyone = with_article(neutral)
    lines = [anyone, f"{anyone}{_with_tones(tones)}", f"a picture of {anyone}"]
    lines += [f"{neutral}, {keyword}" for keyword in keywords[:1]]
    # Only for "man mechanic": "male mechanic" is English, while "male father" is not.
    if gender != "mixed" and noun == f"{gender} {neutral}":
        adjective = {"man": "male", "woman": "female"}[gender]
        lines += [f"{adjective} {neutral}", f"a {adjective} {neutral}{_with_tones(tones)}"]
    return lines


def _translated(row: Mapping[str, str]) -> list[str]:
    keywords = _keywords(row["tags"], row["name"])
    pair = [", ".join(keywords[:2])] if len(keywords) > 1 else []
    return [row["name"], *(f"{row['name']}, {keyword}" for keyword in keywords), *pair]


def _keywords(tags: str, name: str) -> list[str]:
    """At most NUM_KEYWORDS keywords that are not in the name, spread evenly over the list."""
    found = [tag for tag in tags.split("|") if tag and tag.lower() not in name.lower()]
    step = max(len(found) / NUM_KEYWORDS, 1)
    return [found[int(i * step)] for i in range(min(NUM_KEYWORDS, len(found)))]


def _with_tones(tones: Sequence[str]) -> str:
    if not tones:
        return ""
    return f" with {' and '.join(tones)} skin tone{'s' if len(tones) > 1 else ''}"


def _gendered(keyword: str) -> bool:
    return not GENDERED.isdisjoint(keyword.lower().split())


def corpus(
    entries: Sequence[Mapping[str, str]], names: Mapping[str, Sequence[Mapping[str, str]]]
) -> Iterator[str]:
    """Yields the training text of the tokenizer: English captions and names in other languages."""
    neutral = neutral_names(entries)
    for i, entry in enumerate(entries):
        yield from map(
            str.lower, captions(entry, neutral=neutral[entry["concept"]], names={"en": entry})
        )
        yield from (table[i]["name"].lower() for table in names.values() if entry["tone"] == "0")
