"""Captions of any characters: tokens, annotations and blanks, or that record's fault; and the same each time."""

import random
import unicodedata

import numpy as np
import pytest

from bias_clip.core.visible import is_blank, visible_text
from bias_clip.curation.captions import Lists, annotate_captions
from bias_clip.curation.word_lists import read_word_list
from bias_clip.data.bad_records import visible_captions
from bias_clip.data.text import FORMS, make_text_fn
from tests.fuzzing import SEED, Outcomes, count_of

LENGTH = 16
PIECES = (
    *(
        "a woman",
        "man",
        "police\u00adwoman",
        "wo\u200bman",
        "wo<b>man</b>",
        "wo&shy;man",
        "<3",
        "&",
    ),
    *("<!--", "-->", "<script>", "</", "<" * 50, "&amp;" * 20, "&#x110000;", "&#xd800;", "&#0;"),
    *(
        "\ud800",
        "\udfff",
        "\udcff",
        "\ud83d\ude00",
        "\0",
        "\x85",
        "\u2028",
        "\ufeff",
        "\u202e",
        "\U000e0001",
    ),
    *(
        "\u0301" * 60,
        "e\u0301",
        "İ",
        "ß",
        "ΑΣ",
        "\u3000",
        "\u2800",
        "🏳️\u200d🌈",
        "犬",
        "ﷺ",
        "{}",
        "{0}",
        "%s",
    ),
    *(
        "\t",
        "\r\n",
        " " * 40,
        "x" * 3000,
        "女" * 500,
        "cafÃ©",
        "▁",
        "<unk>",
        "</s>",
        "<|endoftext|>",
    ),
)


def caption(rng):
    """A text of pieces that readers dislike and of random characters, surrogates among them."""
    parts = []
    for _ in range(rng.randrange(0, 8)):
        kind = rng.random()
        if kind < 0.6:
            parts.append(rng.choice(PIECES))
        elif kind < 0.8:
            parts.append("".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(1, 20))))
        else:
            parts.append("".join(chr(rng.randrange(0x250)) for _ in range(rng.randrange(1, 20))))
    return rng.choice(("", " ")).join(parts)


def check_tokens(text_fn, text):
    ids = text_fn(text)
    assert (ids.shape, ids.dtype) == ((LENGTH,), np.int32)
    assert ids.min() >= 0
    np.testing.assert_array_equal(text_fn(text), ids)
    return ids


def check_visible(text):
    shown = visible_text(text)
    assert len(shown) <= 10 * len(text) + 10
    # A text that shows a letter or a digit is not blank; a blank one shows none.
    letters = any(unicodedata.category(c)[0] in "LN" and c != "\u2800" for c in shown)
    assert not (letters and is_blank(text))
    assert visible_captions({"captions": (text,)}) == (() if is_blank(text) else (text,))


def check_annotations(lists, text):
    alone = annotate_captions([[text]], lists)
    beside = annotate_captions([["a woman"], [text], ["nothing"]], lists)
    for name, values in alone.items():
        assert values[0] in (-1, 0, 1)
        assert beside[name][1] == values[0]  # whatever stands beside it
    if is_blank(text):
        assert {int(values[0]) for values in alone.values()} == {-1}


@pytest.mark.slow
def test_captions_of_any_characters_are_tokens_or_faults(capsys):
    rng, outcomes = random.Random(SEED), Outcomes("captions")
    tokenizers = {
        f"{tokenizer} {form}": make_text_fn(
            tokenizer=tokenizer, length=LENGTH, form=form, pad=0, lower=form == "plain"
        )
        for tokenizer in ("emoji", "clip")
        for form in FORMS
    }
    lists = Lists(
        attributes=(read_word_list("gender"),),
        labels=(read_word_list("occupations"),),
        proxies=(read_word_list("proxies"),),
    )
    for _ in range(count_of(150)):
        text = caption(rng)
        outcomes.note("blank", (), lambda: check_visible(text))  # noqa: B023 - called at once
        outcomes.note("annotated", (), lambda: check_annotations(lists, text))  # noqa: B023
        for name in rng.sample(sorted(tokenizers), 4):
            text_fn = tokenizers[name]
            outcomes.note(name.split()[0], ("caption",), lambda: check_tokens(text_fn, text))  # noqa: B023
    outcomes.check(capsys)
    assert outcomes.counts["annotated refused"] == outcomes.counts["blank refused"] == 0
