"""Read the public packages that the embedded emoji data set is made of: names, attributes, drawings."""

import io
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 64  # pixels a side

PACKAGES = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "@iconify-json/twemoji": "1.2.5",
    "emojibase-data": "17.0.0",
}
ICON_SETS = {  # style -> folder; fluent-3d comes as image files and is read apart
    "noto": "@iconify-json/noto",
    "noto-v1": "@iconify-json/noto-v1",
    "fluent-flat": "@iconify-json/fluent-emoji-flat",
    "fluent-hc": "@iconify-json/fluent-emoji-high-contrast",
    "twemoji": "@iconify-json/twemoji",
}

PEOPLE_SUBGROUPS = frozenset(
    "person person-gesture person-role person-fantasy person-activity person-sport person-resting family".split()
)
MALE = frozenset("man men boy prince merman santa".split())
FEMALE = frozenset("woman women girl princess mermaid mrs. breast-feeding".split())
CREATURES = frozenset({"hairy creature", "troll"})  # listed under people, drawn as neither
CONCEPTS = {  # names whose concept does not follow by dropping a leading "man", "woman" or "person"
    "boy": "child",
    "girl": "child",
    "man": "person",
    "woman": "person",
    "old man": "older person",
    "old woman": "older person",
    "deaf man": "deaf person",
    "deaf woman": "deaf person",
    "pregnant man": "pregnant person",
    "pregnant woman": "pregnant person",
    "prince": "royalty",
    "princess": "royalty",
    "person with crown": "royalty",
    "mermaid": "merperson",
    "merman": "merperson",
    "Santa Claus": "Claus",
    "Mrs. Claus": "Claus",
    "Mx Claus": "Claus",
    "woman and man holding hands": "holding hands",
}
ROLE_SUBGROUPS = frozenset({"person-role", "person-sport", "person-fantasy"})
NOT_ROLES = frozenset(  # states, clothes and families rather than what somebody does or plays
    [
        "feeding baby",
        "in tuxedo",
        "wearing turban",
        "with veil",
        "pregnant person",
        "royalty",
        "Claus",
    ]
    + ["merperson"]
)
OTHER_NAMES = {  # where a set's name does not follow from the present CLDR name
    "ON! arrow": "on-exclamation-arrow",
    "UP! button": "up-exclamation-button",
    "bullseye": "direct-hit",
    "enraged face": "pouting-face",
    "face with crossed-out eyes": "dizzy-face",
    "keycap: #": "keycap-pound",
    "keycap: *": "keycap-asterisk",
    "red exclamation mark": "exclamation-mark",
    "red question mark": "question-mark",
    "smiling face with open hands": "hugging-face",
}


class Drawing(NamedTuple):
    """One image: the row of its entry and its pixels [SIZE, SIZE, 4]."""

    entry: int
    pixels: np.ndarray


def read_entries(packages: pathlib.Path) -> list[dict]:
    """Every emoji with its attributes, sorted so that look-alikes are neighbours."""
    tables = json.loads((packages / "emojibase-data/meta/groups.json").read_text())
    rows = [
        entry_of(base, item, tables["groups"], tables["subgroups"])
        for base, item in each_emoji(packages, "en")
    ]
    genders: dict[str, set[str]] = {}
    for row in rows:
        genders.setdefault(row["concept"], set()).add(row["gender"])
    for row in rows:
        in_role = row["subgroup"] in ROLE_SUBGROUPS and row["concept"] not in NOT_ROLES
        row["role"] = int(in_role and genders[row["concept"]] >= {"person", "woman", "man"})
    keys = ("group", "subgroup", "concept", "gender", "tone", "order")
    return sorted(rows, key=lambda row: [row[key] for key in keys])


def entry_of(base: Mapping, item: Mapping, groups: Mapping, subgroups: Mapping) -> dict:
    """The row of an emoji: `item` is `base` or one of its skin tones."""
    subgroup = subgroups[str(base["subgroup"])]
    people = subgroup in PEOPLE_SUBGROUPS and base["label"] not in CREATURES
    tone = item.get("tone", 0)
    return {
        "id": code_points(item["hexcode"]),
        "emoji": item["emoji"],
        "name": item["label"],
        "concept": concept_of(base["label"], people),
        "gender": gender_of(base["label"]) if people else "none",
        "tone": tone if isinstance(tone, int) else 6,  # a list: the tones of several people
        "group": groups[str(base["group"])],
        "subgroup": subgroup,
        "tags": "|".join(base.get("tags", [])),
        "order": item["order"],
    }


def each_emoji(packages: pathlib.Path, language: str) -> Iterator[tuple[dict, dict]]:
    """Pairs of (base emoji, itself or one of its skin tones); letters and bare modifiers are left out."""
    for base in json.loads((packages / f"emojibase-data/{language}/data.json").read_text()):
        if base.get("group", 2) != 2:
            yield from ((base, item) for item in (base, *base.get("skins", ())))


def code_points(name: str) -> str:
    """The key of an emoji: lower-case code points without the presentation selector and padding."""
    return "-".join(p.lstrip("0") for p in re.split("[-_]", name.lower()) if p != "fe0f")


def words_of(label: str) -> set[str]:
    """The lower-case words of a name."""
    return set(re.split("[ :,]+", label.lower()))


def gender_of(label: str) -> str:
    """The gender that the name of a drawing of people states; "person" where it states none."""
    words = words_of(label)
    male, female = bool(words & MALE), bool(words & FEMALE)
    if male and female:
        return "mixed"
    if male or female:
        return "man" if male else "woman"
    return "none" if label == "family" else "person"


def concept_of(label: str, people: bool) -> str:
    """The name without what it says about gender."""
    if label in CONCEPTS:
        return CONCEPTS[label]
    if label.startswith(("family:", "kiss:", "couple with heart:")):
        return label.split(":")[0]
    if people and (hair := re.fullmatch(r"(?:man|woman|person): (.+)", label)):
        return f"person: {hair[1]}"
    if people and (rest := re.fullmatch(r"(?:man|woman|person|men|women|people) (.+)", label)):
        return rest[1].split(": facing")[0]
    return label


def draw(style: str, entries: Sequence[Mapping], packages: pathlib.Path) -> Iterator[Drawing]:
    """The images that a style has, in the order of the entries."""
    if style == "fluent-3d":
        yield from draw_files(entries, packages / "@lobehub/fluent-emoji-3d/assets")
        return
    icons = json.loads((packages / ICON_SETS[style] / "icons.json").read_text())
    names = icon_names(style, entries, icons, packages)
    for number, entry in enumerate(entries):
        if (name := names.get(entry["id"])) is not None:
            yield Drawing(number, clean(render(icon_svg(icons, name))))


def draw_files(entries: Sequence[Mapping], folder: pathlib.Path) -> Iterator[Drawing]:
    """The images that come as files, reduced to SIZE."""
    files = {code_points(path.stem): path for path in sorted(folder.iterdir())}
    for number, entry in enumerate(entries):
        if (path := files.get(entry["id"])) is not None:
            with Image.open(path) as image:
                small = image.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.BOX)
            yield Drawing(number, clean(np.asarray(small)))


def icon_names(
    style: str, entries: Sequence[Mapping], icons: Mapping, packages: pathlib.Path
) -> dict[str, str]:
    """From code points to icon name: by the set's own table, else by names.

    noto-v1 has no table, and those of the Fluent sets lack the hands that are mirror images. Other
    aliases do not count: old names are recycled (the insect "cricket" leads to the game), and the
    man in a tuxedo who stood for everybody would be drawn twice.
    """
    own = read_chars(packages / ICON_SETS[style])
    mirrored = {name for name, alias in icons.get("aliases", {}).items() if "hFlip" in alias}
    drawn = icons["icons"].keys() | mirrored
    names = {}
    for entry in entries:
        name = OTHER_NAMES.get(entry["name"], slug(entry["name"]))
        guesses = [f"flag-for-{name}", name, name.replace("-skin-tone", "")]
        guess = next((guess for guess in guesses if guess in drawn), None)
        if found := own.get(entry["id"], guess):
            names[entry["id"]] = found
    return names


def read_chars(folder: pathlib.Path) -> dict[str, str]:
    """An icon set's own table from code points to names, empty where it has none."""
    return {code_points(k): v for k, v in json.loads((folder / "chars.json").read_text()).items()}


def slug(label: str) -> str:
    """A CLDR name as the icon sets spell it: "man mechanic: dark skin tone" -> "man-mechanic-dark-skin-tone"."""
    plain = label.lower().replace("’", "").replace("&", "and")
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")


def icon_svg(icons: Mapping, name: str) -> str:
    """A stand-alone SVG of an icon; an alias is its parent, possibly mirrored."""
    flipped = False
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        unknown = alias.keys() - {"parent", "hFlip", "hidden"}
        if unknown:
            raise ValueError(f"alias {name!r}: {sorted(unknown)} not supported; extend icon_svg")
        flipped ^= alias.get("hFlip", False)
        name = alias["parent"]
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    body = icon["body"]
    if flipped:
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="0 0 {width} {height}">{body}</svg>'
    )


def render(svg: str) -> np.ndarray:
    """Pixels [SIZE, SIZE, 4] of an SVG."""
    import resvg_py  # only drawing needs it

    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.asarray(image.convert("RGBA"))


def clean(pixels: np.ndarray) -> np.ndarray:
    """The image with colour zero where it is fully transparent: nothing to see, nothing to store."""
    return np.where(pixels[..., 3:] > 0, pixels, 0).astype(np.uint8)


def read_names(packages: pathlib.Path, language: str, entries: Sequence[Mapping]) -> list[dict]:
    """The names and keywords of the entries in another language, in the order of the entries."""
    known = {
        code_points(item["hexcode"]): {
            "name": item["label"],
            "tags": "|".join(base.get("tags", [])),
        }
        for base, item in each_emoji(packages, language)
    }
    return [known[entry["id"]] for entry in entries]
