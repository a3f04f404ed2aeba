"""Random annotated rows, and problems about them."""

import numpy as np

from bias_clip.balancing import count, lookup, make_problem, solve


def sample(seed, rows=3000, attributes=2, labels=4, unknown=0.0):
    """Labels more frequent with the first attribute or without it; attributes overlap."""
    rng = np.random.default_rng(seed)
    s = (rng.random((rows, attributes)) < rng.uniform(0.25, 0.6, attributes)).astype(np.int8)
    tilt = np.exp(0.4 * rng.normal(size=labels) * (2 * s[:, :1] - 1))
    y = (rng.random((rows, labels)) < rng.uniform(0.05, 0.35, labels) * tilt).astype(np.int8)
    s[rng.random(rows) < unknown] = -1
    return s, y


def problem_of(s, y, target=0.5, **arguments):
    targets = {f"s{k}": target for k in range(s.shape[1])}
    return make_problem(targets, [f"y{r}" for r in range(y.shape[1])], **arguments)


def row_weights(s, y, problem, utility=None, **arguments):
    """Weight of each row."""
    table = count(s, y, utility)
    solution = solve(table, problem, **arguments)
    return solution.weights[lookup(table, s, y, utility)]


EXACT = dict(eps_representation=0.0, eps_association=0.0, eta=0.3)
SLACK = dict(eps_representation=0.01, eps_association=0.01, eta=0.4)
