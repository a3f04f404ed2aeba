"""Emoji on cards of two colours: images and captions with an easy and a hard feature.

A card has one colour above another and a small emoji at a random place. The caption names all three.
With 16 colours there are 240 colour pairs, so the colours alone identify most of the right captions
in a batch. A model that has learned the colours gains little from the emoji: the feature is
suppressed. `evals.factors` measures how much of it the embeddings still contain.

Reference: Hermann and Lampinen: What Shapes Feature Representations? Exploring Datasets,
Architectures, and Training, 2020. Their Trifeature images have shape, texture and colour; here the
shapes are the embedded emoji, and each card has captions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from bias_clip.data.emoji.source import SIZE, EmojiSource, emoji_source

CARD_SPLITS = ("train", "test", "style")
COLOURS = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "red": (230, 25, 40),
    "green": (40, 150, 60),
    "blue": (30, 80, 220),
    "yellow": (255, 225, 30),
    "orange": (245, 130, 35),
    "purple": (135, 30, 170),
    "pink": (250, 160, 200),
    "brown": (125, 75, 25),
    "sky": (110, 205, 245),
    "mint": (160, 240, 190),
    "olive": (120, 125, 20),
    "navy": (10, 15, 100),
    "peach": (255, 210, 170),
}
GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
STYLES = ("noto", "noto-v1", "fluent-flat", "fluent-3d", "twemoji")  # black lines vanish on black
TEMPLATES = (
    "{name} on {top} over {bottom}",
    "{top} over {bottom}, {name}",
    "a card of {top} and {bottom} with {name}",
)
SIDE = (0.4, 0.55)  # of the emoji, as a share of the card


@dataclass(frozen=True)
class CardSource:
    """Random access to cards; made by `emoji_cards_source`.

    Attributes:
      columns: "id", and the factors "name", "top" and "bottom", as arrays.
      drawings: the emoji on the cards.
      which: for each card, its record in `drawings`.
      places: for each card the size of its emoji, and its place as shares of the remaining room.
    """

    columns: Mapping[str, np.ndarray]
    drawings: EmojiSource
    which: np.ndarray
    places: Float[np.ndarray, "n 3"]

    def __len__(self) -> int:
        """Returns the number of cards."""
        return len(self.which)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns one record."""
        record = {k: v[index].item() for k, v in self.columns.items()}
        record["captions"] = tuple(template.format(**record) for template in TEMPLATES)
        drawing = self.drawings[int(self.which[index])]["image"]
        record["image"] = _draw(record["top"], record["bottom"], drawing, self.places[index])
        return record


def emoji_cards_source(
    *, split: str, cards: int = 20_480, names: int = 64, colours: int = 16, seed: int = 0
) -> CardSource:
    """Makes random cards that depend only on the arguments; fewer cards are the first of more.

    Args:
      split: "train" and "test" use both Noto and two Fluent styles; "style" uses the twemoji style
        of the same names.
      cards: number of cards.
      names: number of emoji, from animals, food, places, activities and objects that exist in all
        these styles.
      colours: number of colours, of the 16 `COLOURS`; the two on a card differ.
      seed: seed of the choice of names and, together with the split, of the cards.

    Returns: records with id, image (uint8 RGB of 64 x 64), captions, and name, top, bottom.
    Raises: ValueError for an unknown split, or fewer than 2 names, 2 colours or 1 card.

        source = emoji_cards_source(split="train")
    """
    if split not in CARD_SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {CARD_SPLITS}.")
    if cards < 1 or not 2 <= colours <= len(COLOURS):
        raise ValueError(
            f"got {cards} cards of {colours} colours; expected at least 1, and 2 to {len(COLOURS)}."
        )
    drawings = emoji_source(split="all", groups=GROUPS, styles=STYLES)
    chosen = _choose_names(drawings, names, seed)
    style = drawings.columns["style"]
    fits = (style == "twemoji") if split == "style" else (style != "twemoji")
    # For each name the rows of its images, one per style that the split may use.
    of_name = [np.flatnonzero(fits & (drawings.columns["name"] == name)) for name in chosen]
    # One row of draws per card, so that fewer cards are the first of more.
    # Columns: name, style, top, bottom, size, y, x. The split is part of the seed, so that test cards are
    # new.
    draw = np.random.default_rng([seed, CARD_SPLITS.index(split)]).random((cards, 7))
    name = (draw[:, 0] * names).astype(int)
    which = [of_name[i][int(u * len(of_name[i]))] for i, u in zip(name, draw[:, 1], strict=True)]
    top = (draw[:, 2] * colours).astype(int)
    # Steps 1 to colours - 1 around the circle of colours: uniform, and never the top's own.
    bottom = (top + 1 + (draw[:, 3] * (colours - 1)).astype(int)) % colours
    words = np.asarray(list(COLOURS))
    columns = {
        "id": np.asarray([f"{split}/{i}" for i in range(cards)]),
        "name": np.asarray(chosen)[name],
        "top": words[top],
        "bottom": words[bottom],
    }
    return CardSource(columns, drawings, np.asarray(which), draw[:, 4:])


def _choose_names(drawings: EmojiSource, names: int, seed: int) -> list[str]:
    styles: dict[str, set[str]] = {}
    for name, style in zip(drawings.columns["name"], drawings.columns["style"], strict=True):
        styles.setdefault(str(name), set()).add(str(style))
    most = max(map(len, styles.values()))
    # Sorted, because sets have no order: the choice depends on the seed alone.
    everywhere = sorted(name for name, found in styles.items() if len(found) == most)
    if not 2 <= names <= len(everywhere):
        raise ValueError(f"got {names} names; expected 2 to {len(everywhere)}.")
    order = np.random.default_rng(seed).permutation(len(everywhere))[:names]
    return [everywhere[i] for i in order]


def _draw(
    top: str, bottom: str, drawing: UInt8[np.ndarray, "64 64 4"], place: Float[np.ndarray, " 3"]
) -> UInt8[np.ndarray, "64 64 3"]:
    side = round(SIZE * (SIDE[0] + place[0] * (SIDE[1] - SIDE[0])))
    y, x = (round((SIZE - side) * share) for share in place[1:])
    # BOX averages whole pixels, without the rings of sharper filters.
    small = np.asarray(Image.fromarray(drawing, "RGBA").resize((side, side), Image.Resampling.BOX))
    card = np.empty((SIZE, SIZE, 3), np.uint8)
    card[: SIZE // 2], card[SIZE // 2 :] = COLOURS[top], COLOURS[bottom]
    under, alpha = card[y : y + side, x : x + side], small[..., 3:] / 255.0
    card[y : y + side, x : x + side] = np.rint(small[..., :3] * alpha + under * (1.0 - alpha))
    return card
