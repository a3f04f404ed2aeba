"""Laws of the embedded data set: what a split may hold, what a variant may drop, what a caption says."""

import hashlib
import json
import re

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from bias_clip.data.emoji import captions as emoji_captions
from bias_clip.data.emoji import emoji_source, emoji_twins, splits
from bias_clip.data.emoji import source as emoji

TESTS = ("images", "style", "concepts")


def ids(**arguments):
    return set(emoji_source(**arguments).columns["id"].tolist())


def digests(split):
    """From the digest of the pixels to the ids of the images."""
    source = emoji_source(split=split)
    found = {}
    for i in range(len(source)):
        record = source[i]
        found.setdefault(hashlib.sha256(record["image"].tobytes()).digest(), set()).add(
            record["id"]
        )
    return found


def test_files_are_those_of_the_manifest():
    manifest = json.loads((emoji.PACK / "manifest.json").read_text())
    found = {path.name: path.read_bytes() for path in emoji.PACK.iterdir()}
    del found["manifest.json"]
    assert {k: v["bytes"] for k, v in manifest["files"].items()} == {
        k: len(v) for k, v in found.items()
    }
    for name, data in found.items():
        assert manifest["files"][name]["sha256"] == hashlib.sha256(data).hexdigest(), name


def test_pack_stays_below_16_megabytes():
    assert sum(path.stat().st_size for path in emoji.PACK.iterdir()) < 16e6


def test_splits_are_disjoint_and_within_all():
    everything, found = ids(split="all"), set()
    for split in ("train", *TESTS):
        part = ids(split=split)
        assert part <= everything
        assert not part & found
        found |= part
    assert len(everything - found) < 0.001 * len(everything)  # the twins that no test may hold


def test_each_split_holds_a_sensible_share():
    counts = {s: len(emoji_source(split=s)) for s in ("train", *TESTS)}
    others = np.sum(emoji_source(split="all").columns["style"] != splits.HELD_OUT_STYLE)
    assert 0.8 < counts["train"] / others < 0.92
    assert 0.03 < counts["images"] / others < 0.07
    assert 0.04 < counts["concepts"] / sum(counts.values()) < 0.12
    assert counts["style"] > 3000


def test_held_out_concepts_are_in_no_other_split():
    held = set(emoji_source(split="concepts").columns["concept"].tolist())
    for split in ("train", "images", "style"):
        assert not held & set(emoji_source(split=split).columns["concept"].tolist())
    groups = set(emoji_source(split="concepts").columns["group"].tolist())
    assert groups == set(emoji_source(split="all").columns["group"].tolist())


def test_held_out_style_is_in_no_training_split():
    for split in ("train", "images"):
        assert splits.HELD_OUT_STYLE not in emoji_source(split=split).columns["style"]
    assert set(emoji_source(split="style").columns["style"]) == {splits.HELD_OUT_STYLE}


def test_every_held_out_image_has_its_emoji_in_training_in_another_style():
    train = emoji_source(split="train").columns
    held = emoji_source(split="images").columns
    trained = set(zip(train["entry"], train["style"], strict=True))
    assert set(held["entry"]) <= set(train["entry"])
    assert not set(zip(held["entry"], held["style"], strict=True)) & trained


def test_no_test_image_is_pixel_identical_to_a_training_image():
    train = digests("train")
    for split in TESTS:
        shared = [sorted(v | train[k]) for k, v in digests(split).items() if k in train]
        assert not shared


def test_splits_depend_neither_on_variant_nor_on_styles():
    for split in TESTS:
        assert ids(split=split) == ids(split=split, variant="biased", seed=3)
    whole = ids(split="train")
    parts = [ids(split="train", styles=(s,)) for s in emoji.STYLES[:5]]
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)


def test_hash_is_the_same_on_every_machine():
    # From the definition: the first 8 bytes of BLAKE2b of "a", 0x1f, "b", as a share of 2**64.
    digest = hashlib.blake2b(b"a\x1fb", digest_size=8).hexdigest()
    assert splits.fraction("a", "b") == int(digest, 16) / 2**64
    draws = [splits.fraction("x", str(i)) for i in range(4000)]
    assert np.mean(draws) == pytest.approx(0.5, abs=5 * 12**-0.5 / 4000**0.5)


def toy_drawings(same):
    """Three styles of 400 entries, each a family of its own."""
    style = np.repeat(["noto", "fluent-flat", splits.HELD_OUT_STYLE], 400)
    return splits.Drawings(style, np.tile(np.arange(400), 3), same)


def test_twins_of_training_images_leave_the_tests():
    families = [f"family {i}" for i in range(400)]
    apart = splits.assign_splits(toy_drawings(np.arange(1200)), families)
    twins = splits.assign_splits(toy_drawings(np.tile(np.arange(400), 3)), families)
    trained = np.tile((apart[:400] == "train") | (apart[400:800] == "train"), 3)
    np.testing.assert_array_equal(twins == "", trained & np.isin(apart, ("images", "style")))
    np.testing.assert_array_equal(twins[twins != ""], apart[twins != ""])


def test_pair_without_another_style_stays_in_training():
    families = [f"family {i}" for i in range(400)]
    both = toy_drawings(np.arange(1200))
    alone = splits.Drawings(*(column[:400] for column in both))
    assert "images" in splits.assign_splits(both, families)
    assert "images" not in splits.assign_splits(alone, families)


def shares(variant, **arguments):
    """Share kept of the emoji in training, as a function of a mask over the columns."""
    whole = emoji_source(split="train", unit="entry").columns
    kept = ids(split="train", unit="entry", variant=variant, **arguments)
    hit = np.isin(whole["id"], sorted(kept))
    return whole, lambda mask: hit[mask].mean()


def test_biased_variant_ties_gender_to_roles():
    whole, share = shares("biased")
    in_men = np.isin(whole["concept"], sorted(splits.MEN_ROLES))
    in_women = np.isin(whole["concept"], sorted(splits.WOMEN_ROLES))
    man, woman = (whole["gender"] == g for g in ("man", "woman"))
    assert share(in_men & man) > 0.5 > 0.1 > share(in_men & woman)
    assert share(in_women & woman) > 0.25 > 0.1 > share(in_women & man)
    assert share((in_men | in_women) & (whole["gender"] == "person")) == 0
    assert share((whole["gender"] == "none") & (whole["tone"] == 0)) == 1


def test_biased_variant_prefers_men_and_light_tones():
    whole, share = shares("biased")
    free = ~np.isin(whole["concept"], sorted(splits.MEN_ROLES | splits.WOMEN_ROLES))
    default = free & (whole["tone"] == 0)
    assert share(default & (whole["gender"] == "man")) == 1
    assert share(default & (whole["gender"] == "woman")) == pytest.approx(0.6, abs=0.2)
    light, dark = (share(free & (whole["tone"] == t)) for t in (1, 5))
    assert light > 0.8 > 0.45 > dark


def test_uncorrelated_variant_is_as_large_but_not_tied():
    whole, share = shares("uncorrelated")
    listed = np.isin(whole["concept"], sorted(splits.MEN_ROLES | splits.WOMEN_ROLES))
    in_men = np.isin(whole["concept"], sorted(splits.MEN_ROLES))
    man, woman = (whole["gender"] == g for g in ("man", "woman"))
    for gender in (man, woman):  # tones and women are thinned alike within and without a list
        assert share(listed & in_men & gender) == pytest.approx(
            share(listed & ~in_men & gender), abs=0.15
        )
    sizes = [len(ids(split="train", variant=v)) for v in ("biased", "uncorrelated")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_thinning_follows_seed_and_rates():
    biased = dict(split="train", unit="entry", variant="biased")
    assert ids(**biased) == ids(**biased, seed=0) != ids(**biased, seed=1)
    ones = dict.fromkeys(splits.RATES, 1.0)
    assert ids(**biased, rates=ones) == ids(split="train", unit="entry")
    more = ids(**biased, rates={"counter": 0.5})
    assert more > ids(**biased)  # the same draws against a higher bar


def test_thinning_by_drawing_keeps_the_share_but_not_whole_entries():
    biased = dict(split="train", variant="biased")
    one, each = (emoji_source(**biased, thin=thin) for thin in splits.THINS)
    assert len(one) == pytest.approx(len(each), rel=0.05)
    whole = emoji_source(split="train").columns["entry"]
    drawn = [np.bincount(s.columns["entry"], minlength=whole.max() + 1) for s in (one, each)]
    full = np.bincount(whole)
    partly = [(count > 0) & (count < full) for count in drawn]
    assert not partly[0].any()
    assert partly[1].sum() > 300
    assert ids(**biased, thin="drawing") < ids(split="train")
    assert ids(split="train", thin="drawing") == ids(split="train")  # nothing to thin


def test_groups_are_parts_of_every_split():
    for split in ("train", *TESTS):
        parts = [ids(split=split, groups=(g,)) for g in emoji.GROUPS]
        assert set.union(*parts) == ids(split=split)
        assert sum(map(len, parts)) == len(ids(split=split))
    people = emoji_source(split="train", groups=["people-body"])
    assert set(people.columns["group"].tolist()) == {"people-body"}


def test_roles_of_the_thinning_exist_and_none_is_in_both_lists():
    columns = emoji_source(split="all").columns
    roles = set(columns["concept"][columns["role"] == 1].tolist())
    assert roles == set(emoji.emoji_roles())
    assert roles > splits.MEN_ROLES | splits.WOMEN_ROLES
    assert not splits.MEN_ROLES & splits.WOMEN_ROLES
    in_training = set(emoji_source(split="train").columns["concept"].tolist())
    for listed in (splits.MEN_ROLES, splits.WOMEN_ROLES):
        assert len(listed & in_training) >= 12


def test_unit_entry_groups_the_same_images_without_repeating_an_emoji():
    images, entries = (emoji_source(split="images", unit=u) for u in emoji.UNITS)
    assert (np.diff(entries.columns["entry"]) > 0).all()
    grouped = {}
    for i in range(len(images)):
        grouped.setdefault(images.columns["entry"][i], []).append(images[i]["image"])
    for i in range(0, len(entries), 7):
        record = entries[i]
        expected = grouped[record["entry"]]
        assert len(record["image"]) == len(expected)
        for one, other in zip(record["image"], expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_record_has_the_columns_and_a_clean_read_only_image():
    source = emoji_source(split="all")
    assert len(set(source.columns["id"].tolist())) == len(source)
    for i in range(0, len(source), 500):
        record = source[i]
        image = record.pop("image")
        assert image.shape == (emoji.SIZE, emoji.SIZE, 4)
        assert image.dtype == np.uint8
        assert not image.flags.writeable
        assert not image[image[..., 3] == 0].any()
        assert image[..., 3].max() > 100
        captions = record.pop("captions")
        assert captions[0] == record["name"] == emoji.emoji_labels()[record["entry"]]
        assert record == {k: v[i] for k, v in source.columns.items()}
        assert {type(v) for v in record.values()} == {str, int}


def test_every_style_draws_what_its_place_says():
    # The red heart is red and the green one green in every style that has colours: a shifted table
    # of places, or swapped channels, would show.
    source = emoji_source(split="all")
    for name, channel in (("red heart", 0), ("green heart", 1)):
        rows = np.flatnonzero(source.columns["name"] == name)
        assert len(rows) >= 5
        for i in rows:
            image = source[int(i)]["image"].astype(float)
            mean = image[..., :3][image[..., 3] > 200].mean(axis=0)
            if source.columns["style"][i] == "fluent-hc":
                assert mean.max() == 0
            else:
                assert mean.argmax() == channel


def test_gender_and_tone_agree_with_the_code_points():
    columns = emoji_source(split="all", unit="entry").columns
    people = ~np.isin(columns["gender"], ("none", "mixed"))
    for code, tone in zip(columns["id"], columns["tone"], strict=True):
        tones = re.findall("1f3f([b-f])", code)
        assert tone == (0 if not tones else "abcdef".index(tones[0]) if len(set(tones)) == 1 else 6)
    for code, gender in zip(columns["id"][people], columns["gender"][people], strict=True):
        points = set(code.split("-"))
        women, men = points & {"2640", "1f469", "1f467"}, points & {"2642", "1f468", "1f466"}
        assert gender != "man" or not women
        assert gender != "woman" or not men
        assert gender != "person" or not women | men


def test_captions_say_gender_and_leave_it_out():
    source = emoji_source(split="all", unit="entry", styles=["noto"])
    columns = source.columns
    rows = np.flatnonzero((columns["role"] == 1) & np.isin(columns["gender"], ("man", "woman")))
    words = re.compile(r"\b(man|men|woman|women|male|female)\b")
    for i in rows:
        captions = source[int(i)]["captions"]
        said = [bool(words.search(caption)) for caption in captions]
        assert said[0]
        assert 0.15 < 1 - np.mean(said) < 0.6
        assert len(set(captions)) == len(captions) >= 8


def test_captions_read_as_english():
    by_name = {e: i for i, e in enumerate(emoji.emoji_labels())}

    def captions(name):
        return emoji.emoji_captions_of(by_name[name])

    mechanic = captions("woman mechanic: dark skin tone")
    for expected in (
        "woman mechanic dark skin tone",
        "a woman mechanic with dark skin tone",
        "a mechanic",
        "a female mechanic with dark skin tone",
        "a mechanic with dark skin tone",
        "dark-skinned woman mechanic",
    ):
        assert expected in mechanic
    assert "a man with red hair" in captions("man: red hair")
    assert "a person climbing" in captions("man climbing")
    assert "an emoji of an artist palette" in captions("artist palette")
    assert "a picture of glasses" in captions("glasses")
    assert "a drawing of a unicorn" in captions("unicorn")
    assert "flag of France" in emoji_captions.parts("flag: France").noun


def test_other_languages_add_their_names():
    both = emoji_source(split="images", languages=("en", "de"))[0]
    german = emoji_source(split="images", languages=("de",))[0]
    assert both["captions"][0] == both["name"]
    assert german["captions"][0] == emoji.emoji_labels("de")[german["entry"]]
    assert set(german["captions"]) < set(both["captions"])
    for language in emoji.LANGUAGES:
        assert len(emoji.emoji_labels(language)) == len(emoji.emoji_labels())


def test_roles_are_named_with_articles():
    roles = emoji.emoji_roles()
    assert roles["mechanic"] == ("a mechanic", "a woman mechanic", "a man mechanic")
    assert roles["artist"].neutral == "an artist"


def test_tokenizer_has_the_special_pieces_of_the_siglip_rule():
    model = SentencePieceProcessor(model_file=str(emoji.PACK / "emoji.model"))
    assert model.vocab_size() == 2000
    assert (model.eos_id(), model.unk_id(), model.bos_id()) == (1, 2, -1)
    for text in ("a woman mechanic with dark skin tone", "机械师 🦄 ж"):
        assert model.unk_id() not in model.encode(text)
        assert model.decode(model.encode(text)) == text
    lengths = [len(model.encode(name.lower())) for name in emoji.emoji_labels()]
    assert np.mean(lengths) < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(split="test"), r"split.*'test'.*'train'"),
        (dict(split="all", unit="pixel"), r"unit.*'entry'"),
        (dict(split="all", variant="fair"), r"variant.*'biased'"),
        (dict(split="all", styles=("nato",)), r"styles.*'nato'.*'noto-v1'"),
        (dict(split="all", styles=()), r"styles"),
        (dict(split="all", groups=("people",)), r"groups.*'people'.*'people-body'"),
        (dict(split="train", thin="pixel"), r"thin.*'drawing'"),
        (dict(split="all", languages=("xx",)), r"languages.*'de'"),
        (dict(split="train", rates={"women": 0.1}), r"unknown: \['women'\]"),
        (dict(split="train", rates={"woman": 1.1}), r"not in \[0, 1\]: \['woman'\]"),
        (dict(split="style", styles=("noto",)), r"no images in split 'style'"),
    ],
)
def test_wrong_arguments_are_refused_with_the_valid_ones(arguments, message):
    with pytest.raises(ValueError, match=message):
        emoji_source(**arguments)


def test_in_the_old_noto_the_neutral_figure_is_the_mans_or_the_womans():
    twins = emoji_twins("noto-v1")
    assert {gender: len(concepts) for gender, concepts in twins.items()} == {"woman": 11, "man": 22}
    assert "detective" in twins["man"]
    assert "shrugging" in twins["woman"]
    source = emoji_source(split="all", styles=("noto-v1",))
    images = {
        (record["concept"], record["gender"]): record["image"]
        for record in (source[i] for i in range(len(source)))
        if record["tone"] == 0 and record["concept"] == "detective"
    }
    np.testing.assert_array_equal(images["detective", "person"], images["detective", "man"])
    assert {gender: len(c) for gender, c in emoji_twins("noto").items()} == {"woman": 1, "man": 1}
