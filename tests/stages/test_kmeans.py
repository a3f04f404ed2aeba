"""k-means: what scikit-learn finds, the same on any number of devices and in chunks."""

import doctest
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.datasets import load_digits

from bias_clip.stages import kmeans, kmeans_stream
from bias_clip.stages._lloyd import squared_distances
from bias_clip.stages._plus_plus import plus_plus, race, random_key
from bias_clip.stages._rows import make_rows
from bias_clip.stages.kmeans import KMeans, assign, fit
from bias_clip.stages.kmeans_stream import fit_stream

GOLDEN = Path(__file__).parent.parent / "golden"


def digits():
    """1797 images of digits at unit length, in 64 dimensions."""
    x = load_digits().data
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def blobs(rows=400, k=5, width=12, seed=0):
    """Unit rows around k directions, and these."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(k, width))
    x = middle[rng.integers(k, size=rows)] + 0.6 * rng.normal(size=(rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_mesh(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))


def spread_fit(devices, x, k, **arguments):
    """`fit` inside shard_map, rows filled up with NaN of weight 0."""
    rows = -(-len(x) // devices) * devices
    padded = np.full((rows, x.shape[1]), np.nan, x.dtype)
    padded[: len(x)] = x
    weights = jnp.arange(rows) < len(x)
    fit_rows = lambda x, w: fit(x, k, weights=w, axis_name="data", **arguments)  # noqa: E731
    specs = KMeans(P(), P("data"), P(), P(), P())
    found = jax.jit(
        jax.shard_map(fit_rows, mesh=make_mesh(devices), in_specs=P("data"), out_specs=specs)
    )(jnp.asarray(padded), weights)
    return found._replace(labels=found.labels[: len(x)])


def assert_same(a, b, rtol=1e-5):
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_allclose(a.centres, b.centres, rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(a.inertia, b.inertia, rtol=rtol)
    assert int(a.iterations) == int(b.iterations)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("form", ["fit", "fit_stream"])
def test_iterations_of_scikit_learn(number, form, x64):
    golden = np.load(GOLDEN / f"metric_kmeans_{number}.npz")
    x, init = golden["points"], jnp.asarray(golden["initial_centres"])
    for i, most in enumerate(golden["iterations"].tolist()):
        given = dict(init=init, max_iterations=most, tol=0.0)
        if form == "fit":
            found = fit(jnp.asarray(x), len(init), **given)
        else:
            found = fit_stream(lambda: np.array_split(x, 3), len(init), **given)
        np.testing.assert_allclose(found.centres, golden["centres"][i], atol=1e-9)
        np.testing.assert_array_equal(found.labels, golden["labels"][i])
        np.testing.assert_allclose(found.inertia, golden["inertia"][i], rtol=1e-9)
        assert int(found.iterations) == golden["n_iter"][i]


@pytest.mark.parametrize(
    "devices", [pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4)] + [8]
)
def test_a_seed_gives_one_clustering_on_any_number_of_devices(devices):
    """In chunks too: 225 rows a device, the last three of the last one padding."""
    x = digits()
    dense = fit(jnp.asarray(x), 10, seed=3, n_init=2)
    assert dense.counts.sum() == len(x)
    assert_same(spread_fit(devices, x, 10, seed=3, n_init=2, chunk_size=100), dense)


def test_inertia_is_scikit_learns():
    """Both the best of 8 starts; ours may be lower."""
    x = digits()
    peer = SklearnKMeans(10, n_init=8, random_state=0).fit(x)
    found = fit(jnp.asarray(x), 10, n_init=8)
    assert float(found.inertia) < 1.01 * peer.inertia_


def test_the_best_of_several_starts_is_kept():
    x = jnp.asarray(digits())
    one, many = (
        [float(fit(x, 10, seed=s, n_init=n, max_iterations=3).inertia) for s in range(4)]
        for n in (1, 8)
    )
    assert all(b <= a for a, b in zip(one, many, strict=True))
    assert sum(many) < sum(one)


def test_centres_are_the_means_of_what_is_nearest_to_them():
    x = blobs()
    found = fit(jnp.asarray(x), 5, tol=0.0)
    for c in range(5):
        np.testing.assert_allclose(found.centres[c], x[found.labels == c].mean(0), atol=1e-6)
    distances = ((x[:, None] - np.asarray(found.centres)) ** 2).sum(2)
    np.testing.assert_array_equal(found.labels, distances.argmin(1))
    assert float(found.inertia) == pytest.approx(distances.min(1).sum(), rel=1e-5)
    np.testing.assert_array_equal(found.labels, assign(jnp.asarray(x), found.centres))


def test_no_iteration_raises_the_inertia():
    x = jnp.asarray(digits())
    init = x[:10]
    seen = [float(fit(x, 10, init=init, tol=0.0, max_iterations=m).inertia) for m in range(6)]
    assert all(later < earlier for earlier, later in pairwise(seen))


def test_a_weight_is_a_number_of_copies():
    x = blobs(rows=60)
    copies = np.random.default_rng(1).integers(0, 4, size=60)
    init = jnp.asarray(x[:5])
    weighted = fit(jnp.asarray(x), 5, init=init, weights=jnp.asarray(copies))
    copied = fit(jnp.asarray(np.repeat(x, copies, axis=0)), 5, init=init)
    np.testing.assert_allclose(weighted.centres, copied.centres, atol=1e-6)
    assert float(weighted.inertia) == pytest.approx(float(copied.inertia), rel=1e-5)
    there = np.bincount(weighted.labels[copies > 0], minlength=5)
    np.testing.assert_array_equal(weighted.counts, there)


def test_rows_of_weight_zero_may_hold_anything():
    x = blobs()
    padded = np.concatenate([x, np.full((7, x.shape[1]), np.nan, np.float32)])
    for init in (jnp.asarray(x[:5]), None):  # None: k-means++ draws centres from all rows
        found = fit(jnp.asarray(padded), 5, init=init, weights=jnp.arange(len(padded)) < len(x))
        own = found._replace(labels=found.labels[: len(x)])
        assert_same(own, fit(jnp.asarray(x), 5, init=init))


def test_chunks_and_short_floats_change_nothing():
    x = jnp.asarray(blobs(), jnp.bfloat16)
    init = jnp.asarray(blobs()[:5])
    whole = fit(x.astype(jnp.float32), 5, init=init)
    assert_same(fit(x, 5, init=init, chunk_size=64), whole)


def far_start(x, far=2):
    """Centres of which `far` are nobody's nearest."""
    return jnp.concatenate([jnp.asarray(x[: 5 - far]), jnp.full((far, x.shape[1]), 9.0)])


@pytest.mark.parametrize("far", [1, 2])
def test_an_empty_cluster_goes_to_the_farthest_row_as_in_scikit_learn(far):
    x = blobs(seed=4)
    init = far_start(x, far)
    once = fit(jnp.asarray(x), 5, init=init, max_iterations=1)
    distances = ((x[:, None] - np.asarray(init)) ** 2).sum(2).min(1)
    rows = np.argsort(-distances)[:far]
    np.testing.assert_allclose(once.centres[5 - far :], x[rows], atol=1e-6)
    for iterations in (1, 30):
        peer = SklearnKMeans(5, init=np.asarray(init), n_init=1, max_iter=iterations, tol=0).fit(x)
        found = fit(jnp.asarray(x), 5, init=init, max_iterations=iterations, tol=0.0)
        order = np.argsort(peer.cluster_centers_[:, 0])  # which of two goes where is our own rule
        own = np.argsort(found.centres[:, 0])
        np.testing.assert_allclose(found.centres[own], peer.cluster_centers_[order], atol=1e-5)
        assert (found.counts > 0).all()


def test_an_empty_cluster_stays_where_it_is_if_told_so():
    x = blobs()
    init = far_start(x)
    found = fit(jnp.asarray(x), 5, init=init, empty="keep")
    np.testing.assert_array_equal(found.centres[3:], init[3:])
    np.testing.assert_array_equal(found.counts[3:], 0)


def test_empty_clusters_on_several_devices_and_in_a_stream():
    x = blobs()
    init = far_start(x)
    dense = fit(jnp.asarray(x), 5, init=init)
    assert_same(spread_fit(3, x, 5, init=init), dense)
    assert_same(fit_stream(lambda: (x[:150], x[150:300], x[300:]), 5, init=init), dense)


def test_ties_go_to_the_lowest_centre():
    x = jnp.array([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]])
    centres = jnp.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [-2.0, 0.0]])  # exact in binary
    np.testing.assert_array_equal(assign(x, centres), [0, 0, 0])
    np.testing.assert_array_equal(assign(x, centres[1:]), [0, 1, 1])


@pytest.mark.parametrize("devices", [None, 4])
@pytest.mark.parametrize("size", [100, 599])
def test_a_stream_is_clustered_as_a_whole(size, devices):
    x = digits()
    chunks = lambda: (x[i : i + size] for i in range(0, len(x), size))  # noqa: E731
    mesh = None if devices is None else make_mesh(devices)
    init = jnp.asarray(x[:10])
    dense = fit(jnp.asarray(x), 10, init=init)
    seen = []
    on_pass = lambda *pair: seen.append(pair)  # noqa: E731
    found = fit_stream(chunks, 10, init=init, mesh=mesh, on_pass=on_pass)
    assert_same(found, dense)
    assert [i for i, _ in seen] == list(range(1, int(dense.iterations) + 1))
    assert [b for _, b in seen] == sorted((b for _, b in seen), reverse=True)


def test_a_sample_of_everything_makes_a_stream_the_fit():
    x = blobs()
    whole = fit(jnp.asarray(x), 5, seed=2, tol=0.0)
    found = fit_stream(lambda: np.array_split(x, 3), 5, seed=2, tol=0.0)
    np.testing.assert_allclose(found.centres, whole.centres, atol=1e-6)


def test_a_sample_does_not_depend_on_chunks():
    x = digits()
    samples = [
        kmeans_stream._sample(lambda n=n: np.array_split(x, n), 50, seed)[0]
        for n, seed in ((1, 0), (3, 0), (30, 0), (30, 1))
    ]
    assert len(samples[0]) == 50
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])
    assert (samples[0] != samples[3]).any()


def test_spherical_centres_have_unit_length_and_the_direction_of_their_members():
    x = blobs()
    found = fit(jnp.asarray(x), 5, init=jnp.asarray(x[:5]), spherical=True, tol=0.0)
    for c in range(5):
        mean = x[found.labels == c].mean(0)
        np.testing.assert_allclose(found.centres[c], mean / np.linalg.norm(mean), atol=1e-5)


def test_draws_of_a_row_are_its_own():
    key, ids = random_key(5), jnp.arange(1000)
    some = jnp.array([3, 500, 999])
    np.testing.assert_array_equal(race(key, ids)[some], race(key, some))
    assert len(np.unique(race(key, ids))) == 1000


def test_races_are_exponential_and_won_in_proportion_to_weight():
    times = np.asarray(race(random_key(0), jnp.arange(20_000)))
    for at in (0.01, 0.5, 2.0):  # standard error below 0.004
        assert np.mean(times < at) == pytest.approx(1 - np.exp(-at), abs=0.015)
    weights = np.array([1.0, 2.0, 5.0])
    races = jax.vmap(lambda seed: race(random_key(seed), jnp.arange(3)))(jnp.arange(4000))
    won = np.bincount((np.asarray(races) / weights).argmin(1), minlength=3) / 4000
    np.testing.assert_allclose(won, weights / 8, atol=0.03)


def test_first_centres_are_rows_far_apart():
    x = jnp.asarray(blobs(k=5))
    rows = make_rows(x, None, None)
    draw = jax.jit(
        lambda seed: plus_plus(rows, random_key(seed), 5, chunk_size=400, axis_name=None)
    )
    for seed in range(5):
        centres, distinct = draw(seed)
        near = np.asarray(squared_distances(make_rows(centres, None, None), x))
        assert (near == 0).any(1).all()
        assert int(distinct) == len(np.unique(near.argmin(1))) == 5


def test_too_few_rows_are_refused(unchecked):
    x = jnp.asarray(blobs(rows=30))
    with pytest.raises(ValueError, match="got 3 rows for k=4"):
        fit(x[:3], 4)
    with pytest.raises(ValueError, match="got 3 rows of positive weight for k=4"):
        fit(x, 4, weights=jnp.arange(30) < 3)
    with pytest.raises(ValueError, match="got 3 distinct rows for k=4"):
        fit(jnp.tile(x[:3], (10, 1)), 4)
    with pytest.raises(ValueError, match="at least k=4"):
        fit_stream(lambda: [np.asarray(x[:3])], 4, init=x[:4])
    with pytest.raises(ValueError, match="no rows"):
        fit_stream(lambda: iter([]), 4)


def test_a_traced_fit_says_so_by_its_counts():
    x = jnp.tile(jnp.asarray(blobs(rows=3)), (10, 1))
    found = jax.jit(partial(fit, k=4))(x, init=x[:4])
    assert int((found.counts == 0).sum()) == 1


def test_rows_that_are_not_finite_are_named(unchecked):
    x = blobs(rows=50)
    x[[7, 30], 2] = np.nan
    for call in (
        lambda: fit(jnp.asarray(x), 3),
        lambda: fit_stream(lambda: np.array_split(x, 5), 3),
        lambda: fit_stream(lambda: np.array_split(x, 50), 3, init=jnp.asarray(x[:3])),
    ):
        with pytest.raises(
            ValueError, match=r"not finite, or above 1.8e\+13, such as \[(7, 30|7)\]"
        ):
            call()


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_rows_whose_squares_overflow_are_named_and_others_keep_their_clusters(array, unchecked):
    x = blobs(rows=50).astype(np.float32)
    labels, large = (np.asarray(fit(array(x * size), 3).labels) for size in np.float32([1, 1e10]))
    # Which cluster has which number may differ, because the draws' scores round otherwise.
    np.testing.assert_array_equal(large[:, None] == large, labels[:, None] == labels)
    x[[7, 30]] *= np.float32(1e18)
    with pytest.raises(ValueError, match=r"above 1.8e\+13, such as \[7, 30\]; .*divide all rows"):
        fit(array(x), 3)


def test_a_stream_that_changes_is_refused(unchecked):
    x = blobs(rows=50)
    once = iter([x])
    with pytest.raises(ValueError, match=r"got 0 rows in a pass; expected 50 as before"):
        fit_stream(lambda: once, 3, init=jnp.asarray(x[:3]))
    with pytest.raises(ValueError, match="width 11; expected 12 as before"):
        fit_stream(lambda: [x, x[:, :11]], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k=0), "k: got 0; expected an integer"),
        (dict(n_init=0), "n_init: got 0; expected an integer"),
        (dict(chunk_size=0), "chunk_size: got 0"),
        (dict(empty="drop"), "empty: got 'drop'; expected one of"),
        (dict(tol=-1.0), "tol: got -1.0; expected a number of 0 or more"),
        (dict(init=np.zeros((2, 4), np.float32)), r"centres: got float32\[2, 4\]; expected floats"),
        (dict(init=np.zeros((3, 12), np.float32), n_init=2), "n_init: got 2 starts from one init"),
        (dict(weights=np.ones(3)), r"weights: got shape \[3\]; expected \[400\]"),
        (dict(weights=np.full(400, -1.0)), "weights: got negative"),
        (dict(x=np.zeros(5, np.float32)), r"x: got float32\[5\]; expected float rows"),
        (dict(x=np.zeros((5, 2), np.int32)), r"x: got int32\[5, 2\]; expected float rows"),
    ],
)
def test_wrong_arguments_are_refused(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        fit(**{"x": blobs(), "k": 3} | change)


def test_assign_refuses_rows_of_another_width(unchecked):
    with pytest.raises(ValueError, match=r"expected floats \[3, 12\]"):
        assign(jnp.asarray(blobs()), jnp.zeros((3, 4)))


@pytest.mark.parametrize("function", [fit, assign])
def test_the_docstring_example_runs(function, unchecked):
    (test,) = doctest.DocTestFinder(recurse=False).find(function, module=kmeans, globs={})
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
