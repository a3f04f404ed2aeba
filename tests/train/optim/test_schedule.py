"""Durations are exact and refuse what they cannot know; schedules obey their laws at every step."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.train.optim.schedule import SCHEDULES, make_schedule, parse_duration


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (0, 0),
        (7, 7),
        ("500 steps", 500),
        ("1 step", 1),
        ("10_000 steps", 10_000),
        ("1e5 steps", 100_000),
        ("9e9 examples", 274_658),  # SigLIP's ablations at a batch of 32,768
        ("40e9 examples", 1_220_703),  # the released models
        ("200e6 examples", 6_104),  # the warm-up of SigLiT, 6103.5 steps
        ("2 epochs", 61),  # 2 * 1,000,000 / 32,768
        ("0.5epochs", 15),
        ("10%", 100),
        ("0.15 %", 2),  # 1.5 rounds up
        ("100%", 1_000),
        (" 3 steps ", 3),
    ],
)
def test_duration_in_steps(text, steps):
    known = {"total_steps": 1_000, "batch_size": 32_768, "examples_per_epoch": 1_000_000}
    assert parse_duration(text, **known) == steps


def test_short_duration_lasts_a_step_and_zero_none():
    known = {"total_steps": 5, "batch_size": 8, "examples_per_epoch": 3}
    assert parse_duration("1 examples", **known) == 1
    assert parse_duration("1%", **known) == 1
    assert parse_duration("0%", **known) == parse_duration("0 epochs", **known) == 0


@pytest.mark.parametrize(
    ("text", "needs"),
    [("10%", "total_steps"), ("5 examples", "batch_size"), ("2 epochs", "examples_per_epoch")],
)
def test_missing_information_is_named(text, needs):
    known = {"total_steps": 100, "batch_size": 8, "examples_per_epoch": 80}
    parse_duration(text, **known)
    del known[needs]
    with pytest.raises(ValueError, match=needs):
        parse_duration(text, **known)


@pytest.mark.parametrize(
    "text",
    [
        "500",
        "5 minutes",
        "steps",
        "x steps",
        "-3 steps",
        "nan steps",
        "inf%",
        "1/2 epochs",
        "",
        True,
    ]
    + ["2.5 steps", "101%", -1, 1.5, None, "1e2e3 steps", "5 percent", "1 2 steps"],
)
def test_unreadable_duration_is_an_error(text):
    with pytest.raises(ValueError, match=r"[Dd]uration"):
        parse_duration(text, total_steps=100, batch_size=8, examples_per_epoch=80)


ARGUMENTS = {
    "cosine": {},
    "linear": {},
    "constant": {"cooldown": 1},
    "rsqrt": {"cooldown": 1, "timescale": 40},
}


def values(name, total, **arguments):
    schedule = make_schedule(name=name, total_steps=total, **arguments)
    return np.asarray(schedule(jnp.arange(256)))  # one shape: each operation compiles once


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rises_once_falls_once_never_jumps(name, data):
    total = data.draw(st.integers(1, 120))
    warmup = data.draw(st.integers(0, total))
    cooldown = data.draw(st.integers(0, total)) if "cooldown" in ARGUMENTS[name] else 0
    if warmup + cooldown > total:
        cooldown = total - warmup
    extra = {"cooldown": cooldown} if cooldown else {}
    got = values(name, total, warmup=warmup, **extra)
    assert np.all((got >= 0) & (got <= 1))
    assert np.all(np.diff(got[: warmup + 1]) >= 0)
    assert np.all(np.diff(got[warmup:]) <= 1e-6)
    np.testing.assert_allclose(got[warmup], 1.0, atol=1e-6)
    np.testing.assert_array_equal(got[total:], got[total])
    # The steepest piece is a cosine's middle, or a cool-down on top of a decay.
    falls = [max(1, total - warmup)] + ([cooldown] if cooldown else [])
    steepest = max([1 / warmup if warmup else 0] + [np.pi / 2 / length for length in falls])
    assert np.max(np.abs(np.diff(got[: total + 1]))) <= steepest + 0.02


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_endpoints(name):
    got = values(name, 100, warmup=10, **{k: 20 for k in ("cooldown",) if k in ARGUMENTS[name]})
    assert got[0] == 0
    assert got[5] == 0.5
    assert got[10] == 1
    assert got[99] > 0, "the last update would be wasted"
    np.testing.assert_allclose(got[100:], 0, atol=1e-7)


def test_values_where_the_formulas_are_known():
    cosine = make_schedule(name="cosine", total_steps=1100, warmup=100)
    points = np.float32([cosine(100), cosine(350), cosine(600), cosine(850), cosine(1100)])
    root = np.sqrt(0.5)
    np.testing.assert_allclose(points, [1, (1 + root) / 2, 0.5, (1 - root) / 2, 0], atol=1e-6)
    linear = make_schedule(name="linear", total_steps=1100, warmup=100, floor=0.2)
    np.testing.assert_allclose(
        [linear(350), linear(1100), linear(9999)], [0.8, 0.2, 0.2], rtol=1e-6
    )
    rsqrt = make_schedule(name="rsqrt", total_steps=10**6, warmup=100, timescale=10_000)
    np.testing.assert_allclose([rsqrt(10_100), rsqrt(30_100)], [root, 0.5], rtol=1e-6)
    constant = make_schedule(name="constant", total_steps=100, cooldown="20%")
    np.testing.assert_allclose([constant(0), constant(80), constant(90)], [1, 1, 0.5], rtol=1e-6)


def test_cosine_with_floor_ends_there():
    got = values("cosine", 50, warmup=5, floor=0.1)
    np.testing.assert_allclose(got[50:], 0.1, rtol=1e-6)
    np.testing.assert_allclose(
        got[5:50], 0.1 + 0.9 * values("cosine", 50, warmup=5)[5:50], rtol=1e-5
    )


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("cooldown", [0, 30])
def test_equals_product_of_warmup_decay_cooldown(name, cooldown):
    """An independent form, in float64: three factors, as big_vision writes it."""
    if cooldown and "cooldown" not in ARGUMENTS[name]:
        with pytest.raises(ValueError, match="cooldown"):
            make_schedule(name=name, total_steps=9, cooldown=1)
        return
    total, warmup, timescale = 200, 20, 40
    step = np.arange(total + 1)
    since = np.maximum(step - warmup, 0)
    decay = {
        "cosine": 0.5 * (1 + np.cos(np.pi * since / (total - warmup))),
        "linear": 1 - since / (total - warmup),
        "constant": np.ones(total + 1),
        "rsqrt": 1 / np.sqrt(1 + since / timescale),
    }[name]
    expected = decay * np.minimum(1, step / warmup)
    extra = {"timescale": timescale} if name == "rsqrt" else {}
    if cooldown:
        expected = expected * np.minimum(1, (total - step) / cooldown)
        extra["cooldown"] = cooldown
    got = values(name, total, warmup=warmup, **extra)
    np.testing.assert_allclose(got[: total + 1], expected, atol=2e-7)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_same_inside_jit_and_scan(name):
    extra = {key: 7 for key in ("cooldown", "timescale") if key in ARGUMENTS[name]}
    schedule = make_schedule(name=name, total_steps=40, warmup="10%", **extra)
    steps = jnp.arange(45)
    _, scanned = jax.lax.scan(lambda step, _: (step + 1, schedule(step)), jnp.int32(0), length=45)
    np.testing.assert_allclose(scanned, jax.jit(schedule)(steps), atol=2e-7)
    np.testing.assert_allclose(scanned, schedule(steps), atol=2e-7)
    assert np.all((scanned >= 0) & (scanned <= 1))
    assert schedule(3).dtype == jnp.float32


def test_durations_inside_a_schedule_are_converted():
    known = {"batch_size": 10, "examples_per_epoch": 200}
    by_text = make_schedule(
        name="rsqrt",
        total_steps=100,
        warmup="1 epochs",
        cooldown="100 examples",
        timescale="5%",
        **known,
    )
    by_steps = make_schedule(name="rsqrt", total_steps=100, warmup=20, cooldown=10, timescale=5)
    steps = jnp.arange(101)
    np.testing.assert_array_equal(by_text(steps), by_steps(steps))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosin"}, "cosine"),
        ({"name": "cosine", "cooldown": 5}, "floor"),
        ({"name": "rsqrt", "timescal": 5}, "timescale"),
        ({"name": "cosine", "warmup": 101}, "do not fit"),
        ({"name": "constant", "warmup": 60, "cooldown": 41}, "do not fit"),
        ({"name": "rsqrt", "warmup": "60%", "cooldown": "41%"}, "do not fit"),
        ({"name": "linear", "floor": -0.1}, "floor"),
        ({"name": "cosine", "floor": 1.5}, "floor"),
        ({"name": "rsqrt", "timescale": 0}, "timescale"),
        ({"name": "cosine", "warmup": "5 examples"}, "batch_size"),
        ({"name": "cosine", "warmup": 0.1}, "duration"),
    ],
)
def test_bad_schedule_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(total_steps=100, **arguments)


def test_builders_are_what_the_config_check_expects():
    for builder in SCHEDULES.values():
        kinds = {p.kind for p in inspect.signature(builder).parameters.values()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}
