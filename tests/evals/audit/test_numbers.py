"""The numbers of an audit: paired, corrected over a suite, inside their range, of enough items."""

import numpy as np
import pytest

from bias_clip.evals.audit import baselines, run_audit
from bias_clip.evals.audit.baselines import MIN_GROUP, fit_rows, large_groups
from bias_clip.evals.audit.numbers import Resampled, correct, part_numbers
from bias_clip.evals.metrics import Metric
from bias_clip.evals.resampling import Draws, mean_draws
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.measured import Measured, bounded
from bias_clip.evals.uncertainty import Estimate
from tests.evals.audit.people import People, model
from tests.evals.audit.test_audit import SETTINGS, hashed, items, numbers_of

SHARE = Metric("x", "share")


def resampled(metrics, values, *, kind="sobit", sizes=None):
    """A part whose first number has these draws."""
    result = EvalResult(metrics, {"kind": kind, "not_enough": {}})
    key = next(iter(metrics))
    draws = Draws({key: metrics[key]}, {key: np.asarray(values, float)}, 40, {})
    return Resampled(Measured(result, lambda num, seed: draws, sizes=sizes or {}), draws, None)


def one_number(value, draws, **arguments):
    metrics = {"entropy": value, "entropy_base": 0.8, "images": 40.0}
    (found,) = part_numbers([resampled(metrics, draws, **arguments)], level=0.95, min_items=5)
    return found


def test_holm_runs_over_all_parts_of_a_suite():
    parts = []
    for step in (0.02, 0.01):
        draws = [np.full(200, 0.5), 0.5 + np.random.default_rng(0).normal(step, 0.006, 200)]
        models = [resampled({"entropy": 0.5 + i * step}, d) for i, d in enumerate(draws)]
        parts.append(part_numbers(models, level=0.95, min_items=5))
    (first,), (second,) = correct(parts)
    a, b = first.contrasts[0], second.contrasts[0]
    assert a.p < b.p < 0.2
    assert a.corrected == pytest.approx(2 * a.p)
    assert b.corrected == pytest.approx(max(b.p, 2 * a.p))
    assert correct([parts[1]])[0][0].contrasts[0].corrected == b.p


def test_entropy_is_compared_with_that_of_all_images():
    assert one_number(0.7, np.linspace(0.6, 0.8, 99)).even == 0.8


@pytest.mark.parametrize(("size", "there"), [(4, False), (5, True), (6, True)])
def test_a_number_needs_min_items(size, there):
    number = one_number(0.7, np.linspace(0.6, 0.8, 99), sizes={"entropy": size})
    assert (number.values[0].value is not None) == there
    assert number.items == size
    if not there:
        assert number.values[0].note == "not enough items: 4 where 5 are needed"


def test_people_and_not_their_images_are_counted_where_they_are_clusters():
    source = People(60)
    source.columns["group"] = np.array(["woman"] * 16 + ["man"] * 44)
    source.columns["person"] = np.array([f"q{i // 4}" for i in range(60)])
    found = {}
    for cluster in (None, "person"):
        chosen = items(source, cluster=cluster)
        audit = run_audit([model()], chosen, baselines=False, **SETTINGS)
        found[cluster] = numbers_of(audit, "by_group")["acc_of_woman"]
    assert found[None].items == 16
    assert found[None].values[0].low is not None
    assert found["person"].items == 4
    assert found["person"].values[0].value is None
    assert found["person"].values[0].note == "not enough items: 4 where 5 are needed"


def test_a_model_does_not_differ_from_itself():
    audit = run_audit([hashed(), hashed()._replace(name="b")], items(), baselines=False, **SETTINGS)
    checked = 0
    for suite in audit.suites:
        for part in suite.parts:
            for number in part.numbers:
                own = number.contrasts[0]
                if own.low is not None:
                    assert (own.value, own.low, own.high, own.p) == (0, 0, 0, 1)
                    checked += 1
    assert checked > 20


def test_draws_and_differences_are_of_the_number_that_they_stand_for():
    """An interval is widened to hold its value: draws of another number would make it end there."""
    models = [model(), model("b", bias=0.2), hashed()._replace(name="c")]
    audit = run_audit(models, items(words=("guard",)), baselines=False, **SETTINGS)
    search = numbers_of(audit, "search", "group")
    signed = search["bias_10"].contrasts[0]
    assert 0 < signed.low < signed.value < signed.high  # men are found for a guard
    own = [search["bias_10"].values[i] for i in (0, 1)] + [search["ndkl_share_10"].values[0]]
    own += [numbers_of(audit, "by_group")[k].values[2] for k in ("acc_worst", "acc_of_man")]
    own.append(numbers_of(audit, "association")["pairs_signed"].values[2])
    for value in own:
        assert value.low < value.value < value.high, value


def test_intervals_over_texts_lie_around_the_value_of_all_images():
    value = numbers_of(
        run_audit([model(bias=1.0)], items(), baselines=False, **SETTINGS), "zeroshot"
    )["acc1"].values[0]
    assert value.texts_low <= value.value <= value.texts_high


def test_intervals_stay_inside_what_a_number_can_be():
    skew = Metric("x", "nats", "lower", even=0.0)
    low = Metric("x", "nats", "higher", even=0.0)
    entropy = Metric("x", "number", "higher", even=1.0)
    free = Metric("x", "nats", even=0.0)
    given = Estimate(0.1, -0.2, 0.3, 9, "")
    assert bounded(given, skew, items=9)[1:3] == (0, 0.3)
    assert bounded(Estimate(-0.1, -0.2, 0.3, 9, ""), low, items=9)[1:3] == (-0.2, 0)
    assert bounded(Estimate(0.9, 0.8, 1.2, 9, ""), entropy, items=9)[1:3] == (0.8, 1)
    assert bounded(given, free, items=9)[1:3] == (-0.2, 0.3)
    assert bounded(given, SHARE, items=9)[1:3] == (0, 0.3)
    signed = Metric("x", "signed points", even=0.0)
    assert bounded(Estimate(-0.9, -1.3, 0.3, 9, ""), signed, items=9)[1:3] == (-1, 0.3)
    assert np.isnan(bounded(Estimate(0.1, np.nan, np.nan, 9, "few"), skew, items=9).low)


def test_a_share_of_none_or_of_all_has_the_exact_interval():
    none = bounded(Estimate(0.0, 0.0, 0.0, 60, ""), SHARE, items=60)
    every = bounded(Estimate(1.0, 1.0, 1.0, 60, ""), SHARE, items=60)
    # Clopper and Pearson's limits of 0 of 60, from tables: 0 to 5.96 %.
    assert none[1:3] == (0, pytest.approx(0.0596, abs=1e-4))
    assert every[1:3] == (pytest.approx(1 - 0.0596, abs=1e-4), 1)
    texts = mean_draws({"x": np.zeros(4)}, num=10)
    same = Estimate(0.0, *np.quantile(texts.drawn["x"], [0, 1]), 4, "")
    assert bounded(same, SHARE, items=0)[1:3] == (0, 0)


def test_settings_that_give_no_interval_are_refused():
    with pytest.raises(ValueError, match="got 39 resamples; an interval of 95% needs at least 40"):
        run_audit([model()], items(), num=39)
    with pytest.raises(ValueError, match="min_items is 0"):
        run_audit([model()], items(), num=40, min_items=0)


def spied_baselines(monkeypatch, source, **arguments):
    """Runs the baselines; returns ids that were fitted on and ids that were judged."""
    seen = {}
    fit = baselines.projections
    ids = source.columns["id"]
    place = {tuple(z): i for z, i in zip(hashed().images(source, {}).tolist(), ids, strict=True)}

    def projections(z, groups):
        seen["fitted"] = {place[tuple(row)] for row in z.tolist()}
        return fit(z, groups)

    def take(data, rows):
        seen["judged"] = set(ids[rows].tolist())
        return take_rows(data, rows)

    take_rows = baselines.take
    monkeypatch.setattr(baselines, "projections", projections)
    monkeypatch.setattr(baselines, "take", take)
    chosen = [item for item in items(source, **arguments) if item.suite.name == "by_group"]
    found = run_audit([hashed()], chosen, attribute="group", num=40)
    return seen["fitted"], seen["judged"], found


def test_no_image_is_fitted_on_and_judged(monkeypatch):
    source = People(60)
    fitted, judged, found = spied_baselines(monkeypatch, source)
    assert len(fitted) == found.baselines[0].fitted == 30
    assert not fitted & judged
    assert fitted | judged == set(source.columns["id"])


def test_no_person_is_fitted_on_and_judged(monkeypatch):
    source = People(80)
    source.columns["person"] = np.array([f"q{i // 4}" for i in range(80)])
    source.columns["group"][::4] = ""  # one image of each person has no group
    fitted, judged, _ = spied_baselines(monkeypatch, source, cluster="person")
    person = dict(zip(source.columns["id"], source.columns["person"], strict=True))
    assert len(fitted) == 30
    assert not {person[i] for i in fitted} & {person[i] for i in judged}


def test_half_of_the_clusters_of_each_kind_are_fitted_on():
    # Ten concepts of both genders, ten of men, ten of women; two images each.
    clusters = np.repeat(np.arange(30), 2)
    codes = np.concatenate([np.tile([0, 1], 10), np.zeros(20, int), np.ones(20, int)])
    rows = fit_rows(codes, clusters, seed=0)
    assert len(rows) == 30
    assert [len(np.unique(clusters[rows][clusters[rows] // 10 == i])) for i in range(3)] == [5] * 3
    np.testing.assert_array_equal(np.bincount(codes[rows]), [15, 15])


def test_groups_that_are_too_small_are_not_fitted_on():
    codes = np.repeat([0, 1, 2], [MIN_GROUP, MIN_GROUP - 1, 30])
    np.testing.assert_array_equal(np.unique(large_groups(codes, None)), [-1, 0, 2])
    one_each = np.repeat(np.arange(MIN_GROUP), [1] * (MIN_GROUP - 1) + [len(codes) - MIN_GROUP + 1])
    assert (large_groups(codes, one_each)[codes == 2] == -1).all()


def test_one_image_of_a_group_ends_no_audit():
    source, said = People(60), []
    source.columns["group"] = np.array(["man"] * 59 + ["woman"])
    audit = run_audit([model()], items(source), say=said.append, **SETTINGS)
    assert not audit.baselines
    why = "no baselines without training, because no data have two groups with 10 images each"
    assert said[-1] == f"m: {why}"
    assert why in audit.models[0].notes
    with pytest.raises(ValueError, match=r"attribute 'group': no data have two groups with 10"):
        run_audit([model()], items(source), attribute="group", **SETTINGS)


def test_prompts_that_a_baseline_takes_out_have_a_reason_and_no_number():
    asked = items(People(), words=("man", "woman", "baker"), templates=("a photo of a {}",))
    (found,) = run_audit([model()], asked, attribute="group", **SETTINGS).baselines
    place = found.names.index("prompt projection, texts")
    values = {s.suite: [n.values for n in s.numbers] for s in found.suites}
    why = "not defined: nothing is left of “a photo of a man”, “a photo of a woman”"
    for own in values["search"]:
        assert own[place].value is None
        assert own[place].note == why
        assert all(value.value is not None for value in own[:place])
    assert values["zeroshot"][0][place].value is not None


def test_changed_embeddings_have_unit_length():
    from bias_clip.evals.audit.baselines import transformed
    from bias_clip.evals.audit.model import audit_encode
    from bias_clip.evals.debiasing.transforms import projections

    source = People(60)
    own = audit_encode(model(), {})
    (change, *_) = projections(own.images(source), np.arange(60) % 2)
    found = transformed(own, change._replace(texts=change.images), gone := {})
    for z in (found.images(source), found.texts(["a guard", "a baker"])):
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)
    assert not gone
