"""What a reader sees of a caption."""

import time
import unicodedata

import pytest

from bias_clip.core.visible import is_blank, visible_text
from bias_clip.curation.captions import Lists, annotate_captions
from bias_clip.curation.word_lists import make_matcher, read_word_list

WOMAN = [
    "a wo\u00adman reading",
    "a police\u00adwo\u00adman",
    "a wo\u200bman",
    "a wo\u200dman",
    "a \u202bwoman\u202c",
    "\ufeffwoman",
    "wo<b>man</b>",
    "<b>wo</b>man",
    "wo<wbr/>man",
    "<span class='x y'>wo</span>man",
    "wo&shy;man",
    "wo&amp;shy;man",
    "wo&#173;man",
    "wo&#x200B;man",
    "&#119;oman",
    "WO<B>MAN</B>",
    "wo\x00man",
    "wo\ufe0fman",
    "<p>a</p><div>woman</div>",
]


@pytest.mark.parametrize("caption", WOMAN)
def test_a_word_that_is_cut_by_what_nobody_sees_is_one_word(caption):
    found = annotate_captions([[caption]], Lists(attributes=(read_word_list("gender"),)))
    assert found["man"].tolist() == [0]


@pytest.mark.parametrize(
    "caption", ["a man<br>reading", "man<br/>woman", "<li>man</li>x", "man&nbsp;x"]
)
def test_what_shows_as_a_blank_or_a_line_ends_a_word(caption):
    assert "man" in make_matcher({"man": ["man"]})(caption)


def test_terms_of_lists_are_read_in_the_same_form():
    assert make_matcher({"nurse": ["nur\u00adse"]})("a nurse") == {"nurse"}


@pytest.mark.parametrize(
    "text",
    [
        "I <3 you",
        "a < b > c",
        "<dog>",
        "AT&T",
        "R&D; x",
        "日本",
        "e\u0301",
        "👍🏾",
        "#$%",
        "\ud83d",
    ],
)
def test_what_is_neither_markup_nor_invisible_stays(text):
    assert visible_text(text) == text
    assert not is_blank(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n",
        "\u200b\u200b",
        "\u00ad",
        "\ufeff ",
        "\u3164",
        "\u2800",
        "\u00a0",
        "<br>",
        "<b></b>",
    ]
    + ["<!-- x -->", "&nbsp;", "&amp;nbsp;", "&#8203;", "\x00", "\u2028", "\U000e0041", "\u034f"],
)
def test_captions_in_which_nobody_sees_anything_are_blank(text):
    assert is_blank(text)


def test_every_format_character_that_shows_nothing_vanishes():
    shown = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2}
    shown |= {0x110BD, 0x110CD} | set(range(0x13430, 0x13440))  # marks that are drawn
    formats = {c for c in range(0x110000) if unicodedata.category(chr(c)) == "Cf"}
    assert {c for c in formats if visible_text(chr(c))} == shown & formats


def test_a_long_caption_of_open_brackets_takes_no_time():
    start = time.process_time()
    for text in ("<" * 100_000, "<b " * 50_000, "<!--" * 50_000, "&" * 100_000):
        is_blank(text)
    assert time.process_time() - start < 2
