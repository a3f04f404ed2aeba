"""Cards are what their columns and captions say, the same ones every time."""

import numpy as np
import pytest

from bias_clip.data.emoji.cards import COLOURS, emoji_cards_source
from bias_clip.data.sources import make_source


@pytest.fixture(scope="module")
def cards():
    return emoji_cards_source(split="train", cards=300, names=16, colours=8)


def test_fewer_cards_are_the_first_of_more(cards):
    fewer = make_source(name="emoji_cards", split="train", cards=20, names=16, colours=8)
    assert len(fewer) == 20
    for i in range(20):
        one, other = fewer[i], cards[i]
        np.testing.assert_array_equal(one.pop("image"), other.pop("image"))
        assert one == other


def test_a_card_has_the_colours_and_the_drawing_it_says(cards):
    for i in range(0, 300, 7):
        record = cards[i]
        assert record["top"] != record["bottom"]
        assert all(record[f] in record["captions"][0] for f in ("name", "top", "bottom"))
        plain = np.empty((64, 64, 3), np.uint8)
        plain[:32], plain[32:] = COLOURS[record["top"]], COLOURS[record["bottom"]]
        drawn = (record["image"] != plain).any(-1)
        assert 60 < drawn.sum() < 36 * 36  # something, and not more than the drawing's square
        assert cards.drawings[int(cards.which[i])]["name"] == record["name"]


def test_factors_are_independent_and_splits_are_other_cards(cards):
    assert len(set(cards.columns["name"])) == 16
    assert set(cards.columns["top"]) == set(cards.columns["bottom"]) == set(list(COLOURS)[:8])
    test = emoji_cards_source(split="test", cards=300, names=16, colours=8)
    assert set(test.columns["name"]) == set(cards.columns["name"])
    assert (test.columns["top"] != cards.columns["top"]).any()
    pairs = [tuple(cards.columns[f][i] for f in ("top", "bottom")) for i in range(300)]
    assert len(set(pairs)) > 50  # of 56


def test_the_unseen_style_is_in_no_other_split(cards):
    styles = {
        split: {
            source.drawings.columns["style"][i]
            for source in [emoji_cards_source(split=split, cards=200, names=16, colours=8)]
            for i in source.which
        }
        for split in ("train", "test", "style")
    }
    assert styles["style"] == {"twemoji"}
    assert styles["train"] == styles["test"] == {"noto", "noto-v1", "fluent-flat", "fluent-3d"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(split="valid"), "got 'valid'"),
        (dict(cards=0), "0 cards"),
        (dict(colours=17), "2 to 16"),
        (dict(names=1), "got 1 names"),
    ],
)
def test_wrong_arguments_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        emoji_cards_source(**{"split": "train", "cards": 5, **wrong})
