"""An audit of models whose knowledge and bias are built in finds both, and says how sure it is."""

import json
import zlib

import numpy as np
import pytest

from bias_clip.evals.audit import AuditModel, list_texts, run_audit, to_json
from bias_clip.evals.audit.baselines import fit_rows
from bias_clip.evals.audit.own_data import own_items
from bias_clip.evals.ranking import unit
from tests.evals.audit.people import LABELS, People, model

SETTINGS = dict(num=200, seed=0)


def items(source=None, **arguments):
    return own_items(
        People() if source is None else source,
        {"source": "people"},
        by="group",
        **{"label": "label", "words": LABELS, "templates": ("{}", "a {}"), **arguments},
    )


def numbers_of(audit, suite, part="all"):
    (found,) = [s for s in audit.suites if s.name == suite]
    (own,) = [p for p in found.parts if p.name == part]
    return {number.key: number for number in own.numbers}


@pytest.fixture(scope="module")
def audit():
    return run_audit(
        [model("fair"), model("biased", bias=1.0)], items(), attribute="group", **SETTINGS
    )


def test_every_number_has_an_interval_or_a_reason(audit):
    for suite in audit.suites:
        for part in suite.parts:
            for number in part.numbers:
                for value in number.values:
                    assert (value.low is not None and value.low <= value.high) or value.note
                    if value.low is not None:
                        assert value.low - 1e-9 <= value.value <= value.high + 1e-9


def test_a_built_in_bias_is_found_and_a_fair_model_is_not_accused(audit):
    skew = numbers_of(audit, "search", "group")["maxskew_even_10"]
    fair, biased = skew.values
    assert biased.low > fair.value
    assert skew.contrasts[0].corrected < 0.05
    assert skew.contrasts[0].value == pytest.approx(biased.value - fair.value)


def test_two_models_that_are_right_of_the_same_images_are_tested_exactly(audit):
    accuracy = numbers_of(audit, "zeroshot")["acc1"]
    assert accuracy.contrasts[0].test == "exact"
    assert accuracy.chance == pytest.approx(1 / 3)
    assert accuracy.items == 120


def test_intervals_over_templates_and_both_stand_beside_those_over_images(audit):
    value = numbers_of(audit, "zeroshot")["acc1"].values[1]
    assert value.texts_low is not None
    assert value.both_high - value.both_low >= 0.8 * (value.high - value.low)


def test_a_projection_removes_what_the_texts_ask_of_the_group(audit):
    found = {b.model: b for b in audit.baselines}["biased"]
    assert found.names[0] == "as it is"
    assert len(found.names) == len(found.sources) + 1 == 6
    (search,) = [s for s in found.suites if s.suite == "search"]
    skew = {n.key: n for n in search.numbers}["maxskew_even_10"]
    before, after = skew.values[0].value, skew.values[found.names.index("projection, both")].value
    assert after < 0.5 * before
    (quality,) = [s for s in found.suites if s.suite == "zeroshot"]
    assert quality.numbers[0].values[3].value > 0.5  # beside it, what it costs


def test_baselines_are_judged_on_images_that_they_were_not_fitted_on(audit):
    found = audit.baselines[0]
    (quality,) = [s for s in found.suites if s.suite == "zeroshot"]
    assert found.fitted == 60
    assert quality.numbers[0].items == 60
    rows = fit_rows(np.array([0, 1] * 10), seed=0)
    assert len(rows) == 10
    assert np.mean(rows % 2) == 0.5


def test_the_record_is_json_and_the_same_twice(audit):
    again = run_audit(
        [model("fair"), model("biased", bias=1.0)], items(), attribute="group", **SETTINGS
    )
    assert json.dumps(to_json(audit), allow_nan=False) == json.dumps(to_json(again))


def test_the_texts_of_an_audit_are_listed_without_a_model():
    texts = list_texts(items())
    assert len(texts) == len(set(texts))
    assert {"baker", "a baker", "a baker, number 0"} <= set(texts)
    # Those of the baselines too, or embeddings made from the list would not be enough.
    prompts = {"a photo of a man", "a photo of a woman"}
    assert prompts <= set(texts)
    assert not prompts & set(list_texts(items(), baselines=False))
    asked, one = set(), model()
    spy = one._replace(texts=lambda strings: asked.update(strings) or one.texts(strings))
    run_audit([spy], items(), **SETTINGS)
    assert asked == set(texts)


def test_a_group_of_one_item_has_no_number():
    source = People(40)
    source.columns["group"] = np.array(["man"] * 39 + ["woman"])
    audit = run_audit([model()], items(source), baselines=False, **SETTINGS)
    accuracy = numbers_of(audit, "by_group")
    for key in ("acc_of_woman", "acc_worst", "acc_range"):
        assert accuracy[key].values[0].value is None
        assert accuracy[key].values[0].note == "not enough items: 1 where 5 are needed"
    assert accuracy["acc_of_man"].values[0].value is not None
    for found in (numbers_of(audit, "search", "group"), numbers_of(audit, "association")):
        assert all(number.values[0].value is None for number in found.values())


def test_images_without_a_caption_are_candidates_that_nobody_asks_for():
    class Gaps(People):
        def __getitem__(self, index):
            caption = {0: (), 1: ("",)}.get(
                index, (f"a {LABELS[index % len(LABELS)]}, number {index}",)
            )
            return {**super().__getitem__(index), "captions": caption}

    audit = run_audit([model()], items(Gaps(40)), baselines=False, **SETTINGS)
    found = numbers_of(audit, "retrieval")["t2i_r1"].values[0]
    assert found.value is not None
    assert found.value * 38 == pytest.approx(round(found.value * 38))
    assert "" not in list_texts(items(Gaps(40)))


def test_a_group_of_few_images_is_left_out_and_named():
    source = People(60)
    source.columns["group"][0] = "X"
    found = items(source, least=5)
    assert {item.suite.groups["group"] for item in found if item.suite.groups} == {("man", "woman")}
    by_group = [
        item.suite.split for item in found if item.suite.name not in ("zeroshot", "retrieval")
    ]
    said = "60 records: man 29, woman 30; groups of fewer than 5 left out: X (1)"
    assert by_group == [said] * 3
    assert (found[0].data.codes["group"][:3] == [-1, 1, 0]).all()
    with pytest.raises(
        ValueError,
        match=r"3 groups, of which 1 has 30 images or more; smaller: X \(1\), man \(29\)",
    ):
        items(source, least=30)
    source.columns["group"] = np.array([f"g{i:02d}" for i in range(60)])
    with pytest.raises(
        ValueError, match=r"60 groups, of which none has 5 .* g09 \(1\) and 50 more"
    ):
        items(source, least=5)


def test_records_of_unknown_group_are_counted_and_a_column_without_values_is_refused():
    source = People(60)
    source.columns["group"][:20] = ""
    splits = {item.suite.name: item.suite.split for item in items(source)}
    said = "60 records: man 20, woman 20; 20 of unknown group, in no number by group"
    assert splits["search"] == splits["by_group"] == splits["association"] == said
    assert splits["zeroshot"] == splits["retrieval"] == "60 records"
    source.columns["group"][:] = ""
    with pytest.raises(ValueError, match=r"'group' has no known value in 60 records"):
        items(source)


def test_baselines_remove_the_column_that_the_audit_is_by():
    source = People(60)
    source.columns["place"] = np.array(["near", "far", "high"])[np.arange(60) % 3]
    del source.columns["group"]
    z = unit(np.random.default_rng(0).normal(size=(60, 12)))
    found = own_items(source, {}, by="place", words=LABELS)
    own = model()._replace(images=lambda source, about: z)
    audit = run_audit([own], found, **SETTINGS)
    assert [(b.attribute, b.groups) for b in audit.baselines] == [
        ("place", ("far", "high", "near"))
    ]


def test_a_model_whose_images_are_all_the_same_ends_no_audit():
    same = model()._replace(
        images=lambda source, about: np.tile(unit(np.ones(12)), (len(source), 1))
    )
    audit = run_audit([same], items(), **SETTINGS)
    assert not audit.baselines
    assert audit.models[0].notes == (
        "no baselines without training, because all images have the same embedding",
    )


def test_an_attribute_with_one_value_is_refused():
    with pytest.raises(ValueError, match=r"'group' has one value, 'man', .*Choose another --by"):
        items(People(groups=("man",)))


def test_an_attribute_that_no_data_have_is_named():
    with pytest.raises(ValueError, match=r"'tone': no data have .* columns \['group', 'label'\]"):
        run_audit([model()], items(), attribute="tone", **SETTINGS)


def test_two_models_of_one_name_are_refused():
    with pytest.raises(ValueError, match="each name once"):
        run_audit([model(), model()], items(), **SETTINGS)


COPIES = 4


def hashed():
    """Random embeddings by id and by text: every number is somewhere inside its range."""

    def drawn(words):
        seeds = [zlib.crc32(word.encode()) for word in words]
        return unit(np.stack([np.random.default_rng(seed).normal(size=8) for seed in seeds]))

    return AuditModel(
        "m", lambda source, about: drawn(source.columns["id"]), drawn, {}, [], model().provenance
    )


def test_copies_of_a_person_narrow_no_interval_where_they_are_one_cluster():
    source = People(60)
    source.columns = {k: np.repeat(v, COPIES) for k, v in source.columns.items()}
    source.columns["person"] = source.columns["id"]
    widths = {}
    for cluster in (None, "person"):
        chosen = items(source, cluster=cluster)
        audit = run_audit([hashed()], chosen, baselines=False, num=400)
        widths[cluster] = {
            (suite.name, key): number.values[0].high - number.values[0].low
            for suite in audit.suites
            for part in suite.parts
            for key, number in numbers_of(audit, suite.name, part.name).items()
            if number.values[0].low is not None
        }
        said = {suite.clusters for suite in audit.suites}
    assert said == {"Images of one person are resampled together: 240 images in 60 clusters"}
    checked = {
        "zeroshot": "acc1",
        "by_group": "acc_of_man",
        "search": "bias_10",
        "association": "pairs_signed",
    }
    for found in checked.items():
        ratio = widths["person"][found] / widths[None][found]
        assert ratio == pytest.approx(np.sqrt(COPIES), rel=0.25), found


def test_images_of_a_cluster_are_not_tested_as_independent():
    source = People()
    source.columns["person"] = np.array([f"q{i // 2}" for i in range(120)])
    chosen = items(source, cluster="person")
    audit = run_audit([model(), model("b", bias=1.0)], chosen, baselines=False, **SETTINGS)
    assert numbers_of(audit, "zeroshot")["acc1"].contrasts[0].test == "bootstrap"


def test_one_cluster_has_no_interval():
    source = People(60)
    source.columns["place"] = np.full(60, "here")
    audit = run_audit([model()], items(source, cluster="place"), baselines=False, **SETTINGS)
    for name in ("search", "zeroshot", "by_group", "association"):
        (part,) = next(s for s in audit.suites if s.name == name).parts
        for number in part.numbers:
            assert number.values[0].low is None
            note = number.values[0].note
            assert "not enough items: 1" in note or "not defined" in note
