"""The README.md of an exported model: where it comes from, its data, balancing, quality and bias."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_LIBRARIES = {"hugging_face": "transformers", "open_clip": "open_clip", "big_vision": "big_vision"}
_LOAD = {
    "hugging_face": """from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")""",
    "open_clip": """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")""",
    "big_vision": """from bias_clip.pretrained import load_pretrained

loaded = load_pretrained("FOLDER/model.npz")""",
}


class Measured(NamedTuple):
    """One number: what was measured, on which evaluator, its value with a unit, what to compare it with."""

    evaluator: str
    metric: str
    value: str
    compare: str


class Facts(NamedTuple):
    """What a card states.

    Attributes:
      name: of the model.
      origin: sentences: where the parameters come from.
      data: sentences: what it was trained on; empty where that is not known.
      balancing: sentences: how the data was balanced; empty where that is not known.
      quality, bias: measured here.
      notes: what else a user should know.
    """

    name: str
    origin: tuple[str, ...]
    data: tuple[str, ...] = ()
    balancing: tuple[str, ...] = ()
    quality: tuple[Measured, ...] = ()
    bias: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = ()


def model_card(
    facts: Facts,
    layout: str,
    notes: Sequence[str],
    *,
    images: str | None,
    texts: Mapping[str, Any] | None,
) -> str:
    """Returns the card as Markdown, with the front matter that the Hugging Face Hub reads.

    Args:
      facts: of the model.
      layout: in which it is written.
      notes: of the export.
      images: op-string of the preprocessing.
      texts: arguments of `make_text_fn`.
    """
    front = [
        "---",
        f"library_name: {_LIBRARIES[layout]}",
        "pipeline_tag: zero-shot-image-classification",
        "tags:",
        "- bias_clip",
        "---",
    ]
    load = ["```python", _LOAD[layout], "```"]
    said = [f"Images: `{images}`." if images else "", _texts(texts)]
    parts = {
        "Use": ["\n".join(load)],
        "Origin": facts.origin,
        "Data": facts.data or ("Not known: the files that this was made from do not say.",),
        "Balancing": facts.balancing
        or ("Not known: the files that this was made from do not say.",),
        "Images and texts": [line for line in said if line],
        "Quality": _table(facts.quality, "No quality was measured before this export."),
        "Bias": _table(
            facts.bias,
            "No bias was measured before this export. That does not mean that it has none.",
        ),
        "Notes": [f"* {note}" for note in (*facts.notes, *notes)],
    }
    body = [f"# {facts.name}", "An image-text model, exported by bias_clip."]
    for title, lines in parts.items():
        if lines:
            # Notes are a list; other parts are paragraphs.
            between = "\n" if title == "Notes" else "\n\n"
            body += [f"## {title}", between.join(lines)]
    return "\n".join(front) + "\n\n" + "\n\n".join(body) + "\n"


def _table(rows: Sequence[Measured], nothing: str) -> list[str]:
    if not rows:
        return [nothing]
    lines = ["| evaluation | metric | value | compare with |", "|---|---|---|---|"]
    return ["\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])]


def _texts(rules: Mapping[str, Any] | None) -> str:
    if rules is None:
        return ""
    # The tokenizer's path is of this machine, and the card is public.
    kept = ", ".join(f"{name}={value!r}" for name, value in rules.items() if name != "tokenizer")
    return f"Texts: {kept}."
