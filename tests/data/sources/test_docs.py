"""The lines of docs/data.md work when they are pasted, in their order."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_lines_of_the_page_run(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), {"__name__": "page"})
    assert len(blocks) >= 8
    printed = capsys.readouterr().out
    assert printed.count("120") >= 3
    assert "480 web/" in printed
