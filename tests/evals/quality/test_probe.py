import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from bias_clip.evals.quality.probe import choose_penalty, fit_ridge, make_probe, predict
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, fixed_encode, normal, record


def clusters(seed, n, num_classes, noise=1.0):
    """Points around one fixed centre a class, off the origin."""
    labels = np.random.default_rng(seed).integers(0, num_classes, n)
    z = normal(99, num_classes, 6)[labels] + noise * normal(seed, n, 6) + 0.3
    return z.astype(np.float32), labels


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 50.0])
def test_predictions_equal_scikit_learns_ridge_classifier(num_classes, penalty):
    z, labels = clusters(0, 80, num_classes)
    unseen, _ = clusters(1, 200, num_classes)
    ridge = fit_ridge(z, labels, num_classes=num_classes, penalty=penalty)
    theirs = RidgeClassifier(alpha=penalty).fit(z.astype(np.float64), labels)
    np.testing.assert_array_equal(predict(unseen, ridge), theirs.predict(unseen.astype(np.float64)))
    decision = theirs.decision_function(unseen.astype(np.float64))
    ours = unseen @ ridge.weights + ridge.intercept
    np.testing.assert_allclose(ours if num_classes > 2 else ours[:, 1], decision, atol=1e-8)


def test_more_penalty_gives_smaller_weights():
    z, labels = clusters(0, 80, 3)
    norms = [
        np.linalg.norm(fit_ridge(z, labels, num_classes=3, penalty=p).weights)
        for p in (0.1, 1.0, 10.0)
    ]
    assert norms[0] > norms[1] > norms[2]


def test_the_penalty_is_chosen_by_rows_that_were_not_fitted():
    """With more columns than rows, no penalty fits noise; the held-out rows tell."""
    z = np.concatenate([clusters(0, 60, 2, noise=3.0)[0], 5 * normal(5, 60, 80)], axis=1)
    labels = clusters(0, 60, 2)[1]
    grid = (1e-9, 1e-3, 10.0, 1e3)
    chosen = choose_penalty(z, labels, num_classes=2, penalties=grid, seed=0)
    order = np.random.default_rng(0).permutation(60)
    test, train = order[:12], order[12:]
    accuracy = {
        p: np.mean(
            predict(z[test], fit_ridge(z[train], labels[train], num_classes=2, penalty=p))
            == labels[test]
        )
        for p in grid
    }
    assert accuracy[chosen] == max(accuracy.values())
    assert chosen == max(p for p in grid if accuracy[p] == accuracy[chosen])


def make_case(num_classes=3):
    names = np.array(["ant", "bee", "cow", "doe"])
    sources, z = [], {}
    for seed, n in ((0, 90), (1, 60)):
        points, labels = clusters(seed, n, num_classes, noise=0.3)
        source = ListSource(
            record(i % 99, kind=str(names[label])) for i, label in enumerate(labels)
        )
        z[id(source)] = points
        sources.append(source)
    return *sources, z


def test_the_probe_reads_what_is_linearly_there_and_no_more():
    train, test, z = make_case()
    evaluate = make_probe(test, train_source=train, label="kind")
    metrics = evaluate(fixed_encode(z, {})).metrics
    assert metrics["acc1"] > 0.95
    assert metrics["classes"] == 3
    noise = {id(train): normal(7, 90, 6), id(test): normal(8, 60, 6)}
    assert evaluate(fixed_encode(noise, {})).metrics["acc1"] < 0.6
    ridge = RidgeClassifier(alpha=metrics["penalty"]).fit(
        unit(z[id(train)]).astype(np.float64), train.columns["kind"]
    )
    expected = ridge.score(unit(z[id(test)]).astype(np.float64), test.columns["kind"])
    assert metrics["acc1"] == pytest.approx(expected)


def test_chance_and_recall_are_what_they_say():
    train, test, z = make_case()
    metrics = make_probe(test, train_source=train, label="kind")(fixed_encode(z, {})).metrics
    values, counts = np.unique(train.columns["kind"], return_counts=True)
    assert metrics["chance"] == np.mean(test.columns["kind"] == values[counts.argmax()])
    z[id(train)], z[id(test)] = np.ones((90, 6)), np.ones((60, 6))  # nothing to see
    metrics = make_probe(test, train_source=train, label="kind")(fixed_encode(z, {})).metrics
    assert metrics["acc1"] == metrics["chance"]
    assert metrics["class_recall"] == pytest.approx(1 / 3)


def test_classes_that_were_not_trained_on_count_as_wrong():
    train, test, z = make_case()
    part = ListSource([r for r in train.records if r["kind"] != "ant"])
    z[id(part)] = z[id(train)][train.columns["kind"] != "ant"]
    metrics = make_probe(test, train_source=part, label="kind")(fixed_encode(z, {})).metrics
    share = np.mean(test.columns["kind"] == "ant")
    assert metrics["unseen"] == share
    assert metrics["acc1"] <= 1 - share


def test_wrong_arguments_are_refused():
    train, test, _ = make_case()
    with pytest.raises(ValueError, match="all positive"):
        make_probe(test, train_source=train, label="kind", penalties=(0.0, 1.0))
    single = ListSource([record(0, kind="ant"), record(1, kind="ant")])
    with pytest.raises(ValueError, match="two classes"):
        make_probe(test, train_source=single, label="kind")


@pytest.mark.parametrize("gap", ["", None])
def test_images_without_a_label_are_neither_fitted_nor_judged(gap):
    train, test, z = make_case()

    def changed(source, make):
        rows = range(len(source))
        return ListSource(
            record(i % 99, kind=gap if i % 5 == 0 and make else source[i]["kind"])
            for i in rows
            if make or i % 5
        )

    gapped = [changed(source, True) for source in (train, test)]
    removed = [changed(source, False) for source in (train, test)]
    for source, one, other in zip((train, test), gapped, removed, strict=True):
        z[id(one)] = z[id(source)]
        z[id(other)] = z[id(source)][np.arange(len(source)) % 5 != 0]
    results = [
        make_probe(b, train_source=a, label="kind")(fixed_encode(z, {})).metrics
        for a, b in (gapped, removed)
    ]
    assert results[0] == results[1]
