from pathlib import Path

import numpy as np
import pytest

from bias_clip.evals.quality.contrastive import batch_scores, make_contrastive
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, fixed_encode, normal, record

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("k", [0, 1])
def test_loss_and_accuracy_equal_big_vision_without_the_padding(k):
    """Tolerance 1e-3 for losses at temperatures up to 100, from the golden's README."""
    case = np.load(GOLDEN / f"metric_contrastive_{k}.npz")
    losses, correct = [], []
    batches = zip(case["image_embeddings"], case["text_embeddings"], case["mask"], strict=True)
    for i, (zimg, ztxt, mask) in enumerate(batches):
        zimg, ztxt = unit(zimg)[mask], unit(ztxt)[mask]
        scores = batch_scores(zimg, ztxt, scale=float(case["temperature"]))
        np.testing.assert_allclose(scores.loss, case["per_example_loss"][i][mask], atol=1e-3)
        np.testing.assert_array_equal(
            scores.image_finds_text, case["correct_image_to_text"][i][mask]
        )
        np.testing.assert_allclose(scores.loss.mean(), case["batch_mean_loss"][i], atol=1e-3)
        losses.append(scores.loss)
        correct.append(scores.image_finds_text)
    np.testing.assert_allclose(np.concatenate(losses).mean(), case["loss"], atol=1e-3)
    np.testing.assert_allclose(
        np.concatenate(correct).mean(), case["ncorrect_minibatch"], atol=1e-6
    )


def make_case(n=10):
    source = ListSource(record(i, [f"t{i}", "other"]) for i in range(n))
    zimg, ztxt = normal(0, n, 4), normal(1, n, 4)
    return source, zimg, ztxt, {f"t{i}": ztxt[i] for i in range(n)}


def test_the_evaluator_averages_over_pairs_of_uneven_batches():
    source, zimg, ztxt, texts = make_case()
    result = make_contrastive(source, batch_size=4)(fixed_encode(zimg, texts, scale=5.0))
    order = np.random.default_rng(0).permutation(10)
    parts = [
        batch_scores(unit(zimg[b]), unit(ztxt[b]), scale=5.0)
        for b in (order[:4], order[4:8], order[8:])
    ]
    for metric, values in zip(
        ("loss", "acc_img", "acc_txt"), zip(*parts, strict=True), strict=True
    ):
        assert result.metrics[metric] == pytest.approx(np.concatenate(values).mean(), rel=1e-5)
    assert result.metrics["chance"] == pytest.approx((4 / 4 + 4 / 4 + 2 / 2) / 10)


def test_the_two_accuracies_are_the_two_directions():
    """Image 0 prefers text 1, but text 0 still prefers image 0."""
    scores = np.array([[0.5, 0.6, 0.0], [0.1, 0.8, 0.0], [0.0, 0.0, 0.9]], np.float32)
    zimg, ztxt = np.eye(3, dtype=np.float32), scores.T
    one, other = batch_scores(zimg, ztxt, scale=1.0), batch_scores(ztxt, zimg, scale=1.0)
    assert one.image_finds_text.tolist() == other.text_finds_image.tolist() == [False, True, True]
    assert one.text_finds_image.tolist() == other.image_finds_text.tolist() == [True, True, True]


def test_the_sigmoid_loss_uses_scale_and_bias():
    source, zimg, _, texts = make_case()
    losses = [
        make_contrastive(source, loss="sigmoid")(
            fixed_encode(zimg, texts, scale=scale, bias=bias)
        ).metrics["loss"]
        for scale, bias in ((0.0, 0.0), (3.0, 0.0), (0.0, -2.0))
    ]
    assert losses[0] == pytest.approx(10 * np.log(2), rel=1e-5)  # all 10 pairs of a row at 1/2
    assert losses[2] == pytest.approx(np.log1p(np.exp(2)) + 9 * np.log1p(np.exp(-2)), rel=1e-5)
    assert losses[1] != pytest.approx(losses[0], rel=1e-3)


def test_records_without_a_caption_are_left_out():
    source, zimg, _, texts = make_case()
    source.records[3] = record(3, [""])
    assert make_contrastive(source)(fixed_encode(zimg, texts)).metrics["pairs"] == 9


def test_wrong_arguments_are_refused():
    source = make_case()[0]
    with pytest.raises(ValueError, match="'sigmoid', 'softmax'"):
        make_contrastive(source, loss="siglip")
    with pytest.raises(ValueError, match="at least 2"):
        make_contrastive(source, batch_size=1)
