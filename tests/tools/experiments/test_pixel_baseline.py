"""The nearest neighbour in pixels against a plain loop."""

import numpy as np

from tools.experiments.pixel_baseline import nearest_ranks, print_baseline


def test_ranks_are_those_of_a_plain_loop():
    random = np.random.default_rng(0)
    train, queries = random.normal(size=(60, 5)), random.normal(size=(40, 5))
    train_names = random.choice(list("abcdefgh"), 60)
    names = random.choice(list("abcdefghxyz"), 40)  # x, y and z have no training image
    expected = []
    for query, name in zip(queries, names, strict=True):
        nearest = {}
        for image, other in zip(train, train_names, strict=True):
            distance = float(np.sum((image - query) ** 2))
            nearest[other] = min(distance, nearest.get(other, np.inf))
        known = name in nearest
        expected.append(sorted(nearest, key=nearest.get).index(name) if known else len(nearest))
    np.testing.assert_array_equal(nearest_ranks(queries, train, names, train_names), expected)


def test_it_says_what_each_zero_shot_evaluator_would_reach(tmp_path, capsys):
    folder = tmp_path / "configs"
    folder.mkdir()
    path = folder / "tiny.py"
    path.write_text(
        """
import ml_collections


def get_config():
    emoji = dict(name="emoji", styles=("noto",))
    image = "decode|background(white)|resize(8)|value_range(-1,1)"
    return ml_collections.ConfigDict(
        dict(
            data=dict(source=dict(emoji, split="train")),
            evaluation=dict(image=image),
            evals=dict(
                same=dict(type="zeroshot", source=dict(emoji, split="train"), label="name"),
                other=dict(type="retrieval", source=dict(emoji, split="train")),
            ),
        )
    )
"""
    )
    print_baseline(path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["same"]
    # A image is its own nearest neighbour; at 8 pixels some emoji look the same.
    assert float(lines[1].split()[4].rstrip("%")) > 95
