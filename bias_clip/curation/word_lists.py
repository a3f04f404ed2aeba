"""Word lists, and a fast search for their terms in captions.

A list is a text file with one `name: term, term, ...` per line. Lines that start with a blank continue
the entry before; `#` starts a comment.

    nurse: nurse, registered nurse     # "nurses" and "registered nurses" are found as well
    man: man, gentleman, =he, =mr      # after "=", only this form: "mrs" is not a plural of "mr"
    ignore: pilot light                # found first, so that this "pilot" does not count

Terms match between word boundaries. Case, the choice of blanks or hyphens, and the markup and
invisible characters of a caption (`visible_text`) do not matter. A hyphen joins words: "man-made" does
not contain "man". Scripts without blanks between words have no word boundaries, so their captions must
be split into words by blanks first.
"""

import functools
import hashlib
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bias_clip.core.visible import visible_text

LISTS = Path(__file__).parent / "lists"
IGNORE = "ignore"  # the name of the terms that count for no name
IRREGULAR: Mapping[str, tuple[str, ...]] = {
    **{"person": ("people", "persons"), "child": ("children",), "lady": ("ladies",)},
    **{"foot": ("feet",), "tooth": ("teeth",), "goose": ("geese",), "mouse": ("mice",)},
    **{"wife": ("wives",), "housewife": ("housewives",), "midwife": ("midwives",)},
    **{"thief": ("thieves",), "knife": ("knives",), "scarf": ("scarves", "scarfs")},
    **{"shelf": ("shelves",), "loaf": ("loaves",), "leaf": ("leaves",), "calf": ("calves",)},
    **{"monarch": ("monarchs",), "matriarch": ("matriarchs",), "patriarch": ("patriarchs",)},
    **{"stomach": ("stomachs",), "tech": ("techs",), "quiz": ("quizzes",), "ox": ("oxen",)},
    **{word: (f"{word}s",) for word in ("human", "german", "roman", "shaman", "talisman")},
}
LINKS = (
    "of",
    "at",
    "in",
    "on",
    "to",
    "for",
    "with",
    "by",
)  # the plural is formed before these words: "heads of state"

Match = Callable[[str], frozenset[str]]


class WordList(NamedTuple):
    """A word list.

    Attributes:
      name: name of the file, without its ending.
      sha256: hash of the file.
      terms: terms by name, in the order of the file; as written, "=" included.
      ignore: terms that match first and count for no name.
    """

    name: str
    sha256: str
    terms: dict[str, tuple[str, ...]]
    ignore: tuple[str, ...] = ()


def read_word_list(name: str | Path) -> WordList:
    """Reads a list of this package by name, such as "gender", or a file of your own by path.

    Raises: ValueError, with file and line, for a line without a name, a name or term that occurs
      twice, a name without terms, and for a list that does not exist or is empty.

        read_word_list("occupations").terms["nurse"]
    """
    path = Path(name)
    if not path.suffix:
        path = LISTS / f"{name}.txt"
    if not path.is_file():
        known = sorted(p.stem for p in LISTS.glob("*.txt"))
        raise ValueError(
            f"there is no word list {str(name)!r}; give a .txt file or one of {known}."
        )
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}; save it as UTF-8.") from error
    terms = parse_word_list(text, str(path))
    return WordList(path.stem, hashlib.sha256(data).hexdigest(), terms, terms.pop(IGNORE, ()))


def parse_word_list(text: str, path: str) -> dict[str, tuple[str, ...]]:
    """Returns the terms by name, including `IGNORE` if present; `path` is for the errors."""
    terms: dict[str, tuple[str, ...]] = {}
    seen: dict[str, str] = {}  # a name or a term, and where it stands
    for place, name, line in _entries(text, path):
        if name in terms:
            raise ValueError(f"{place}: {name!r} comes twice, first at {seen['name ' + name]}.")
        seen["name " + name] = place
        terms[name] = _terms(place, name, line)
        for term in terms[name]:
            form = canonical(term.removeprefix("="))
            if form in seen:
                raise ValueError(
                    f"{place}: the term {term!r} of {name!r} comes twice, first at {seen[form]}; a "
                    "term can speak for one name only, once."
                )
            seen[form] = place
    if not terms.keys() - {IGNORE}:
        raise ValueError(f"{path} is empty; expected lines such as 'nurse: nurse, staff nurse'.")
    return terms


def make_matcher(terms: Mapping[str, Sequence[str]], ignore: Sequence[str] = ()) -> Match:
    """Returns `match(caption) -> names` of the terms that the caption contains.

    All terms and their plurals form one regular expression, a trie. If several terms begin at a word,
    the longest one matches and uses up its words: "police officer" is not also an "officer". So a name
    that gets more terms keeps all its captions, but other names may lose some to it.

        make_matcher({"nurse": ["nurse"]})("Two nurses at work")     # {"nurse"}
    """
    owners = _owners({**terms, IGNORE: ignore})
    trie = _trie(owners)
    # A search that allows for combining marks takes three times as long, and ASCII has none.
    plain, marked = (
        re.compile(rf"(?<![{some}-]){trie}(?![{some}-])") for some in (r"\w", _letters())
    )

    def match(caption: str) -> frozenset[str]:
        text = _prepare(caption)
        # The lookarounds of `marked` count combining marks as letters: an accent must not end a word.
        found = (plain if text.isascii() else marked).findall(text)
        if not found:
            return frozenset()
        return frozenset(owners[_canonical_blanks(text)] for text in found) - {IGNORE}

    return match


def plural_forms(term: str) -> tuple[str, ...]:
    """Returns possible plurals of a canonical term, by rule; those that do not exist are harmless.

    plural_forms("policewoman"), plural_forms("head of state")
    """
    words = term.split(" ")
    head = next((i for i, word in enumerate(words) if i and word in LINKS), len(words)) - 1
    forms = [[*words[:head], plural, *words[head + 1 :]] for plural in _plurals(words[head])]
    # Both words change: "woman doctor", "women doctors".
    if head and words[0] in ("man", "woman"):  # "women doctors"
        forms += [[*_plurals(words[0]), *form[1:]] for form in forms]
    return tuple(" ".join(form) for form in forms)


def canonical(text: str) -> str:
    """Returns text in lower case, with composed letters and single blanks instead of hyphens."""
    return _canonical_blanks(_fold(text).strip())


def _entries(text: str, path: str) -> list[tuple[str, str, str]]:
    """Yields (file:line, name, terms) of each entry, with its continuation lines joined."""
    entries: list[tuple[str, str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        # Only "#" at the start or after a blank: "c#" is a term.
        content = re.sub(r"(^|\s)#.*", "", line).rstrip()
        place = f"{path}:{number}"
        if not content:
            continue
        if content[0].isspace():
            if not entries:
                raise ValueError(f"{place}: continues nothing; start with 'name: term, term'.")
            first, name, terms = entries.pop()
            entries.append((first, name, f"{terms.rstrip(', ')},{content}"))
            continue
        name, colon, terms = content.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"{place}: got {content!r}, expected 'name: term, term'.")
        entries.append((place, name.strip(), terms))
    return entries


def _terms(place: str, name: str, line: str) -> tuple[str, ...]:
    terms = tuple(term.strip() for term in line.strip().strip(",").split(","))
    if not any(terms):
        raise ValueError(f"{place}: {name!r} has no terms; add some, or remove the line.")
    if not all(canonical(term.removeprefix("=")) for term in terms):
        raise ValueError(f"{place}: {name!r} has an empty term; remove a comma.")
    return terms


def _owners(terms: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Maps each form to its name; a listed form is never treated as the plural of another term."""
    given = [(name, term) for name, some in terms.items() for term in some]
    owners: dict[str, str] = {}
    for name, term in given:
        # All listed forms first; only then plurals by rule, which never replace a listed one.
        if owners.setdefault(form := canonical(term.removeprefix("=")), name) != name:
            raise ValueError(
                f"the term {form!r} speaks for {owners[form]!r} and {name!r}; keep one."
            )
    for name, term in given:
        if not term.startswith("="):
            for form in plural_forms(canonical(term)):
                owners.setdefault(form, name)
    return owners


def _plurals(word: str) -> tuple[str, ...]:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("man"):
        return (f"{word[:-2]}en",)
    # "lady", "ladies", but "boy", "boys".
    if re.search(r"[^aeiou]y$", word):
        return (f"{word[:-1]}ies",)
    if re.search(r"(s|x|z|ch|sh)$", word):
        return (f"{word}es",)
    return (f"{word}s", f"{word}es") if word.endswith("o") else (f"{word}s",)


def _trie(forms: Iterable[str]) -> str:
    """A regular expression of all forms that tries the longest form first."""
    root: dict[str, dict] = {}
    for form in forms:
        node = root
        for letter in form:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _branches(root)


def _branches(node: Mapping[str, dict]) -> str:
    # The empty end comes last: the regular expression tries longer forms first.
    parts = [_literal(letter) + _branches(node[letter]) for letter in sorted(node) if letter]
    if "" in node:
        parts.append("")
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _literal(letter: str) -> str:
    # A blank of a term also matches several blanks, a line break or a hyphen.
    return r"(?:\s+|-)" if letter == " " else re.escape(letter)


@functools.cache
def _letters() -> str:
    """The characters of words: letters, digits, "_", and combining marks."""
    marks = [
        c for c in map(chr, range(0x300, sys.maxunicode + 1)) if unicodedata.category(c)[0] == "M"
    ]
    # Runs of neighbours as ranges: the class of about two thousand marks becomes short.
    spans: list[list[int]] = []
    for code in map(ord, marks):
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return r"\w" + "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)


def _fold(text: str) -> str:
    text = visible_text(text)  # before lowering the case: names of HTML entities have capitals
    if text.isascii():
        return text.lower()
    # NFKC: full-width letters and ligatures of scraped text are those of the lists.
    text = unicodedata.normalize("NFKC", text.casefold())
    return text.replace("’", "'").replace("‐", "-")


def _canonical_blanks(text: str) -> str:
    return re.sub(r"[\s-]+", " ", text)


def _prepare(caption: str) -> str:
    """Folds a caption; a file name such as "young_woman-in-hat.jpg" becomes words."""
    text = _fold(caption)
    # A single hyphen without blanks is more often a word, such as "man-made".
    if " " not in text and text.count("-") + text.count("_") > 1:
        text = text.replace("-", " ").replace("_", " ")
    return text
