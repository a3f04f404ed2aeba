"""Word lists and prompts that are not ours to ship, read from the user's copy of the official files."""

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.data.bad_records import file_fault
from bias_clip.evals.suites.layouts.data import read_lines, read_text

KINDS = {
    "ADJECTIVE": "a photo of a/an {} person",  # "a/an" is literal in the published prompts
    "NOUN": "a photo of a/an {}",
}


class Words(NamedTuple):
    """Words with their categories and prompts, one of each per entry."""

    words: tuple[str, ...]
    categories: tuple[str, ...]
    prompts: tuple[str, ...]


def read_sobit_words(path: Path) -> Words:
    """Reads So-B-IT_taxonomy.json {category: [words]} and So-B-IT_categories.json {word: kind}.

    A word of two categories is an entry of each. The published files have 405 entries of 400 words.

    Raises:
      ValueError: a file that is missing or of another form, a word without a kind.
    """
    taxonomy = _json(path / "So-B-IT_taxonomy.json")
    kinds = _json(path / "So-B-IT_categories.json")
    pairs = [(word, category) for category, words in taxonomy.items() for word in words]
    wrong = [word for word, _ in pairs if kinds.get(word) not in KINDS]
    if wrong or not pairs:
        raise ValueError(
            f"{path / 'So-B-IT_categories.json'} says {kinds.get(wrong[0]) if wrong else None!r} of "
            f"{wrong[:1]}; expected {list(KINDS)} for each word of the taxonomy."
        )
    prompts = tuple(KINDS[kinds[word]].replace("{}", word) for word, _ in pairs)
    return Words(tuple(w for w, _ in pairs), tuple(c for _, c in pairs), prompts)


def read_berg_prompts(path: Path) -> Words:
    """Reads prompt_templates.csv of Berg et al.: columns template (with {}) and concept.

    The columns differ in length; every template is filled with every concept, 319 prompts of the
    published file. Blanks around a template are left out, as they only align the file's columns.

    Raises:
      ValueError: no such file, or columns of another name.
    """
    # newline="", as the csv module asks: it splits lines itself.
    text = read_text(path, "prompt_templates.csv of debias-vision-lang")
    with file_fault(path):
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if not rows or {"template", "concept"} - rows[0].keys():
        raise ValueError(
            f"{path} has columns {list(rows[0]) if rows else []}; expected template, concept."
        )
    # The shorter column ends in empty cells.
    templates = [row["template"].strip() for row in rows if (row["template"] or "").strip()]
    concepts = [row["concept"].strip() for row in rows if (row["concept"] or "").strip()]
    bad = [template for template in templates if template.count("{}") != 1]
    if bad:
        raise ValueError(f"{path}: the template {bad[0]!r} has no single {{}} for the concept.")
    pairs = [(template, concept) for template in templates for concept in concepts]
    filled = tuple(template.replace("{}", concept) for template, concept in pairs)
    return Words(tuple(c for _, c in pairs), tuple(t for t, _ in pairs), filled)


def read_professions(path: Path) -> tuple[str, ...]:
    """Reads a text file of professions, one per line, as in the file names of SISPI.

    Raises:
      ValueError: no such file, or no line.
    """
    return tuple(dict.fromkeys(read_lines(path, "a profession per line")))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path, "So-B-IT's words"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}; download it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected an object.")
    return found
