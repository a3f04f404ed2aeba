"""How the embedded data set is put together: what a name says, which images are the same."""

import numpy as np
import pytest

from bias_clip.data.emoji import source as emoji
from tools.emoji_pack import build, packages


@pytest.mark.parametrize(
    ("label", "people", "gender", "concept"),
    [
        ("man mechanic", True, "man", "mechanic"),
        ("mechanic", True, "person", "mechanic"),
        ("women with bunny ears", True, "woman", "with bunny ears"),
        ("person walking: facing right", True, "person", "walking"),
        ("woman: red hair", True, "woman", "person: red hair"),
        ("family: man, girl", True, "mixed", "family"),
        ("kiss: woman, woman", True, "woman", "kiss"),
        ("woman and man holding hands", True, "mixed", "holding hands"),
        ("Mrs. Claus", True, "woman", "Claus"),
        ("man’s shoe", False, "none", "man’s shoe"),
    ],
)
def test_names_give_gender_and_concept(label, people, gender, concept):
    assert packages.concept_of(label, people) == concept
    if people:
        assert packages.gender_of(label) == gender


def test_code_points_forget_presentation_and_padding():
    key = packages.code_points
    assert key("0023-FE0F-20E3") == key("23-20e3") == "23-20e3"
    assert key("1F3F4-E0067_E0062") == "1f3f4-e0067-e0062"


def test_mirrored_alias_is_drawn_mirrored():
    icons = {
        "width": 32,
        "height": 32,
        "icons": {"left": {"body": "<path/>"}},
        "aliases": {"right": {"parent": "left", "hFlip": True}, "again": {"parent": "left"}},
    }
    assert "scale(-1 1)" in packages.icon_svg(icons, "right")
    assert packages.icon_svg(icons, "again") == packages.icon_svg(icons, "left")
    icons["aliases"]["again"]["rotate"] = 1
    with pytest.raises(ValueError, match=r"'again'.*rotate"):
        packages.icon_svg(icons, "again")


def image(value):
    return np.full((4, 4, 4), (value, value, value, 255), np.uint8)


def test_equal_images_share_a_number_and_near_ones_within_an_emoji():
    drawing = packages.Drawing
    drawings = {
        "one": [drawing(0, image(10)), drawing(1, image(10)), drawing(2, image(90))],
        "two": [drawing(0, image(11)), drawing(1, image(50)), drawing(3, image(91))],
    }
    assert build.number_images(drawings) == [0, 0, 2, 0, 4, 5]


def test_concepts_that_share_a_image_are_one_family():
    family = build.join_concepts(list("dcbae"), [0, 1, 0, 1, 2])
    assert family == {"a": "a", "c": "a", "b": "b", "d": "b", "e": "e"}
    chain = build.join_concepts(list("abbccd"), [0, 0, 1, 1, 2, 2])
    assert set(chain.values()) == {"a"}


@pytest.fixture
def nothing_read():
    """The source keeps what it has read; the test below reads another folder."""
    kept = (emoji._read_images, emoji._decode_images, emoji._decode_webp)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


def test_packed_images_come_back(tmp_path, monkeypatch, nothing_read):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, emoji.SIZE, emoji.SIZE, 4), np.uint8)
    images[:, :20] = 0
    images = packages.clean(images)
    black = images * np.uint8([0, 0, 0, 1])
    for style, expected in (("noto", images), ("fluent-hc", black), ("fluent-3d", images)):
        build.pack_images(tmp_path, style, list(expected))
        monkeypatch.setattr(emoji, "PACK", tmp_path)
        found = np.stack([emoji._load_image(style, i) for i in range(len(images))])
        np.testing.assert_array_equal(found[..., 3], expected[..., 3])
        if style != "fluent-3d":  # WebP keeps the colours only nearly
            np.testing.assert_array_equal(found, expected)
        assert not found[found[..., 3] == 0].any()


def test_differing_files_are_named(tmp_path):
    for folder, text in (("a", "1"), ("b", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text(text)
        (tmp_path / folder / "y").write_text("same")
        (tmp_path / folder / "manifest.json").write_text(text)
    (tmp_path / "a" / "z").write_text("alone")
    assert build.differing_files(tmp_path / "a", tmp_path / "b") == ["x", "z"]


def test_wrong_package_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found nothing, expected @iconify-json/noto@1\.2\.9"):
        build.check_packages(tmp_path)
