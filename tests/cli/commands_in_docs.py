"""The commands of README.md, docs and configs/README.md: what stands in their shell blocks."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "configs" / "README.md"]
_BLOCK = re.compile(r"^ *```(?:sh|bash|shell)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


class Command(NamedTuple):
    """One command: the page it stands on, its variables, and its words."""

    page: str
    variables: tuple[str, ...]
    words: tuple[str, ...]


def find_commands():
    """Returns all commands, in reading order; `a && b` is two."""
    return [
        Command(str(page.relative_to(ROOT)), *_split_variables(words))
        for page in PAGES
        for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in block.replace("\\\n", " ").splitlines()
        for words in _split_line(line)
    ]


def _split_line(line):
    """The words of each command of a line; comments are left out, as a shell does."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    command = []
    for word in lexer:
        if set(word) <= set("&|;"):
            yield tuple(command)
            command = []
        else:
            command.append(word)
    if command:
        yield tuple(command)


def _split_variables(words):
    first = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
    return words[:first], words[first:]
