"""Soft and hard top-k against float64 references, golden values and properties."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logit

from smart_tf.theta import shares as shares_at
from smart_tf.topk import hard_topk, soft_topk, threshold, with_gradient

TEMPERATURES = [10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5]


def reference(x, k, tau, costs=None):
    """Eq. 2 and prop. 2.2 in float64: the shares, and a function for the vjp."""
    x = np.asarray(x, np.float64)
    c = np.ones_like(x) if costs is None else np.asarray(costs, np.float64)
    edge = tau * logit(k / c.sum())
    low, high = x.min() - edge, x.max() - edge
    pad = tau + 1e-12 * abs(low)
    theta = brentq(
        lambda t: (c * expit((x - t) / tau)).sum() - k,
        low - pad,
        high + pad,
        xtol=1e-15,
        rtol=1e-15,
        maxiter=1000,
    )
    f = expit((x - theta) / tau)
    v = expit((x - theta) / tau) * expit((theta - x) / tau)

    def vjp(g):
        mean = (v * g).sum() / (c * v).sum() if (c * v).sum() > 1e-30 else 0.0
        return v / tau * (g - c * mean)

    return f, vjp


def compiled(xla):
    """Forward and backward of `soft_topk` as one function."""

    @tf.function(jit_compile=xla)
    def run(x, k, tau, g, costs=None):
        with tf.GradientTape() as tape:
            tape.watch(x)
            f = soft_topk(x, k, tau, costs=costs)
        return f, tape.gradient(f, x, output_gradients=g)

    return run


def inputs(n, rng):
    """Named logits that are each awkward in their own way."""
    return {
        "normal": rng.normal(size=n),
        "ties": rng.integers(0, 4, n).astype(float),
        "equal": np.full(n, 0.25),
        "plateaus": np.where(rng.random(n) < 0.5, -1.0, 1.0),
        "heavy": rng.standard_cauchy(n),
        "offset": 1e3 + rng.normal(size=n),
        "sorted": np.linspace(-3.0, 3.0, n),
    }


def check(run, x, k, tau, costs, g):
    """Holds one case to the accuracy that is promised."""
    x, tau = np.float32(x), np.float32(tau)
    f, dx = run(
        tf.constant(x),
        tf.constant(k, tf.float64),
        tf.constant(tau),
        tf.constant(g),
        None if costs is None else tf.constant(costs, tf.float32),
    )
    want, vjp = reference(x, k, float(tau), costs)
    c = 1.0 if costs is None else costs
    f = f.numpy().astype(np.float64)
    assert np.isfinite(f).all() and np.isfinite(dx).all()
    assert abs((c * f).sum() - k) <= 1e-4 * max(1.0, k)
    np.testing.assert_allclose(f, want, rtol=0, atol=1e-4)
    bar = 1e-3 * np.abs(g).max() / (4.0 * float(tau))
    np.testing.assert_allclose(dx, vjp(g.astype(np.float64)), rtol=0, atol=bar)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("with_costs", [False, True], ids=["equal", "costs"])
@pytest.mark.parametrize("n", [2, 7, 300, 20_001])
def test_agrees_with_the_float64_reference(n, with_costs, xla):
    rng = np.random.default_rng(n)
    costs = rng.integers(1, 129, n).astype(float) if with_costs else None
    total = n if costs is None else costs.sum()
    budgets = [0.3 * total, 0.9003 * total]
    budgets += [] if with_costs else [1.0, n - 1.0, (n - 1) // 2 + 0.5]
    g = rng.normal(size=n).astype(np.float32)
    run = compiled(xla)
    for x in inputs(n, rng).values():
        for k in budgets if n < 1000 else budgets[:3]:
            for tau in TEMPERATURES if n < 1000 else TEMPERATURES[::2]:
                check(run, x, k, tau, costs, g)


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("tau", [1.0, 1e-4])
def test_a_million_entries_agree_with_the_reference(tau, xla):
    rng = np.random.default_rng(1)
    n = 1_000_003
    g = rng.normal(size=n).astype(np.float32)
    run = compiled(xla)
    check(run, rng.normal(size=n), 0.3 * n, tau, None, g)
    check(run, np.full(n, 0.25), 0.39 * n, tau, None, g)


@pytest.mark.slow
@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_a_million_entries_of_every_kind_agree_with_the_reference(xla):
    rng = np.random.default_rng(2)
    n = 1_000_000
    costs = rng.integers(1, 129, n).astype(float)
    g = rng.normal(size=n).astype(np.float32)
    run = compiled(xla)
    for name, x in inputs(n, rng).items():
        if name == "offset":  # float32 holds 16 000 values a unit there: ties
            continue
        for tau in (1.0, 1e-3, 1e-5):
            check(run, x, 0.3 * n, tau, None, g)
            check(run, x, 0.7 * costs.sum(), tau, costs, g)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.999])
def test_a_single_entry_takes_the_whole_budget(k):
    x = tf.constant([7.5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = soft_topk(x, k, 1e-3)
    np.testing.assert_allclose(f, [k], atol=1e-5)
    np.testing.assert_allclose(tape.gradient(f, x), [0.0], atol=1e-3)


def test_golden_values_by_hand():
    # By symmetry theta = 0, so f = sigmoid(x / tau).
    np.testing.assert_allclose(
        soft_topk([-1.0, 0.0, 1.0], 1.5, 1.0), [0.268941, 0.5, 0.731059], atol=2e-6
    )
    # sigmoid(log 3) + sigmoid(log 1/3) = 3/4 + 1/4 with theta = 0.
    np.testing.assert_allclose(
        soft_topk([np.log(3.0), -np.log(3.0)], 1.0, 1.0), [0.75, 0.25], atol=2e-6
    )
    # Costs 3 and 1: 3 f_1 + f_2 = 3/4 + 3/4 where theta = 0.
    np.testing.assert_allclose(
        soft_topk([-np.log(3.0), np.log(3.0)], 1.5, 1.0, costs=[3.0, 1.0]),
        [0.25, 0.75],
        atol=2e-6,
    )


def test_golden_gradient_by_hand():
    # f = 3/4, 1/4: both v = 3/16, so theta moves by half of either entry's move.
    x = tf.constant([np.log(3.0), -np.log(3.0)], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = soft_topk(x, 1.0, 1.0)
    grad = tape.gradient(f, x, output_gradients=tf.constant([1.0, 0.0]))
    np.testing.assert_allclose(grad, [3 / 32, -3 / 32], atol=1e-6)


def test_gradient_agrees_with_finite_differences():
    rng = np.random.default_rng(3)
    x, g = rng.normal(size=(2, 12))
    costs = rng.uniform(1.0, 5.0, 12)
    k, tau, h = 0.4 * costs.sum(), 0.5, 1e-5
    want = [
        (
            reference(x + h * e, k, tau, costs)[0]
            - reference(x - h * e, k, tau, costs)[0]
        )
        @ g
        / (2 * h)
        for e in np.eye(12)
    ]
    x32 = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x32)
        f = soft_topk(x32, k, tau, costs=costs)
    grad = tape.gradient(f, x32, output_gradients=tf.constant(g, tf.float32))
    np.testing.assert_allclose(grad, want, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_each_slice_along_an_axis_is_solved_on_its_own(axis, xla):
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(4, 6, 5)) * [1.0, 5.0, 0.1, 2.0, 9.0]).astype(np.float32)
    n = x.shape[axis]
    costs = rng.uniform(1.0, 4.0, n)
    run = tf.function(
        lambda x, c: soft_topk(x, 0.4 * costs.sum(), 0.05, costs=c, axis=axis),
        jit_compile=xla,
    )
    f = run(tf.constant(x), tf.constant(costs, tf.float32))
    want = np.apply_along_axis(
        lambda row: reference(row, 0.4 * costs.sum(), 0.05, costs)[0], axis, x
    )
    assert f.shape == x.shape
    np.testing.assert_allclose(f, want, atol=1e-4)


def test_slices_may_have_costs_of_their_own():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3, 8)).astype(np.float32)
    costs = rng.uniform(1.0, 4.0, (3, 8))
    f = soft_topk(x, 6.0, 0.1, costs=costs, axis=1)
    for row, c, got in zip(x, costs, f, strict=True):
        np.testing.assert_allclose(got, reference(row, 6.0, 0.1, c)[0], atol=1e-4)


def test_gradient_of_slices_does_not_cross_them():
    x = tf.random.stateless_normal([3, 6], [0, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = soft_topk(x, 2.0, 0.5, axis=1)
    g = tf.concat([tf.random.stateless_normal([1, 6], [2, 3]), tf.zeros([2, 6])], 0)
    grad = tape.gradient(f, x, output_gradients=g).numpy()
    want = reference(x[0], 2.0, 0.5)[1](g[0].numpy().astype(float))
    np.testing.assert_allclose(grad[0], want, atol=1e-4)
    assert (grad[1:] == 0.0).all()


def test_axis_none_ranks_all_of_a_matrix_together():
    x = np.random.default_rng(6).normal(size=(5, 7)).astype(np.float32)
    want = reference(x.ravel(), 11.0, 0.1)[0].reshape(5, 7)
    np.testing.assert_allclose(soft_topk(x, 11.0, 0.1), want, atol=1e-4)
    np.testing.assert_allclose(
        soft_topk(x, 11.0, 0.1, costs=np.ones((5, 7))), want, atol=1e-4
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtype_is_kept_and_computed_in_float32(dtype):
    x = tf.cast(np.random.default_rng(7).normal(size=500), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = soft_topk(x, 150, 0.05)
    grad = tape.gradient(f, x)
    assert f.dtype == x.dtype and grad.dtype == x.dtype
    want = reference(tf.cast(x, tf.float64).numpy(), 150, 0.05)[0]
    resolution = {"float16": 1e-3, "bfloat16": 8e-3, "float64": 1e-4}[dtype]
    np.testing.assert_allclose(tf.cast(f, tf.float64), want, atol=resolution)


logits = st.lists(
    st.floats(-10, 10, width=32, allow_subnormal=False), min_size=2, max_size=30
)
shares = st.floats(0.02, 0.98)
taus = st.sampled_from([10.0, 0.3, 1e-2, 1e-4])


@tf.function(
    input_signature=[tf.TensorSpec([None]), tf.TensorSpec([]), tf.TensorSpec([])]
)
def any_length(x, k, tau):
    """`soft_topk` traced once for lists of every length."""
    return soft_topk(x, k, tau)


@settings(max_examples=100, deadline=None)
@given(logits, shares, taus)
def test_shares_are_in_range_and_ordered_as_x(x, share, tau):
    f = any_length(x, share * len(x), tau).numpy()
    assert ((f >= 0.0) & (f <= 1.0)).all()
    order = np.argsort(np.float32(x), kind="stable")
    # Equal entries may differ by rounding, as the vectorised sigmoid has tails.
    assert (np.diff(f[order]) >= -2e-7).all()
    assert abs(f.astype(float).sum() - share * len(x)) <= 1e-4 * max(1, len(x))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-640, 640), min_size=2, max_size=30), shares, taus)
def test_a_shift_of_all_entries_changes_nothing(ticks, share, tau):
    x = np.float32(ticks) / 64  # shifts by 256 without rounding
    k = share * len(x)
    f = any_length(x, k, tau)
    np.testing.assert_allclose(any_length(x + np.float32(256), k, tau), f, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(-1000, 1000), min_size=3, max_size=40), st.data())
def test_tends_to_the_hard_topk(ticks, data):
    x = np.float32(data.draw(st.permutations(sorted(ticks)))) / 100
    k = data.draw(st.integers(1, len(x) - 1))
    f = any_length(x, k, 1e-4)
    np.testing.assert_allclose(f, hard_topk(x, k).astype(float), atol=1e-3)


def test_works_in_a_saved_model(tmp_path):
    module = tf.Module()
    module.run = tf.function(
        lambda x: soft_topk(x, 2.0, 0.1, axis=-1),
        input_signature=[tf.TensorSpec([None, None], tf.float32)],
    )
    x = tf.random.stateless_normal([3, 5], [8, 9])
    before = module.run(x)
    tf.saved_model.save(module, str(tmp_path))
    after = tf.saved_model.load(str(tmp_path)).run(x)
    np.testing.assert_array_equal(after, before)
    np.testing.assert_allclose(after[1], reference(x[1], 2.0, 0.1)[0], atol=1e-4)


def test_unknown_length_is_as_good_as_a_known_one():
    run = tf.function(
        lambda x: soft_topk(x, 5000.0, 0.1),
        input_signature=[tf.TensorSpec([None], tf.float32)],
    )
    x = np.random.default_rng(10).normal(size=20_001).astype(np.float32)
    np.testing.assert_allclose(run(x), reference(x, 5000.0, 0.1)[0], atol=1e-4)


MIRRORED = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
from smart_tf.topk import soft_topk
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    x = tf.Variable([3.0, 1.0, 2.0, 0.0])

def step():
    with tf.GradientTape() as tape:
        f = soft_topk(x, 2.0, 0.5)
    return f, tape.gradient(f, x, tf.constant([1.0, 0.0, 0.0, 0.0]))

f, grad = tf.function(lambda: strategy.run(step))()
assert len(strategy.experimental_local_results(f)) == 2
for local in strategy.experimental_local_results(f):
    print(*local.numpy())
for local in strategy.experimental_local_results(grad):
    print(*local.numpy())
"""


def test_works_under_a_mirrored_strategy():
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = np.array([line.split() for line in done.stdout.splitlines()], float)
    f, vjp = reference([3.0, 1.0, 2.0, 0.0], 2.0, 0.5)
    np.testing.assert_allclose(lines[:2], [f, f], atol=1e-4)
    np.testing.assert_allclose(lines[2:], [vjp(np.eye(4)[0])] * 2, atol=1e-4)


def test_second_order_gradient_is_refused():
    x = tf.constant([0.3, -0.2, 0.9])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = tf.reduce_sum(soft_topk(x, 1.0, 0.5) ** 2)
        first = inner.gradient(y, x)
    with pytest.raises(NotImplementedError, match="second-order"):
        outer.gradient(first, x)


@tf.function
def hessian_diagonal(x):
    y = tf.reduce_sum(soft_topk(x, 1.0, 0.5) ** 2)
    return tf.gradients(tf.gradients(y, x)[0], x)[0]


def test_second_order_gradient_is_refused_in_a_graph():
    with pytest.raises(NotImplementedError, match="second-order"):
        hessian_diagonal(tf.constant([0.3, -0.2, 0.9]))


GOOD = {"x": [0.1, 0.2, 0.3], "k": 1.0, "temperature": 0.1}
REFUSED = {
    "temperature negative": ({"temperature": -1.0}, "`temperature` must be positive"),
    "temperature too small": ({"temperature": 1e-38}, "from 1e-30 to 1e30"),
    "temperature too large": ({"temperature": 1e38}, "from 1e-30 to 1e30"),
    "temperature zero": ({"temperature": 0.0}, "`temperature` must be positive"),
    "temperature NaN": ({"temperature": np.nan}, "`temperature` must be positive"),
    "k zero": ({"k": 0}, r"`k` must be in \(0, n\)"),
    "k all": ({"k": 3}, r"`k` must be in \(0, n\)"),
    "k NaN": ({"k": np.nan}, r"`k` must be in \(0, n\)"),
    "k over costs": ({"k": 7.0, "costs": [1.0, 2.0, 3.0]}, r"sum\(costs\)"),
    "x NaN": ({"x": [0.1, np.nan, 0.3]}, "`x` must be finite"),
    "x infinite": ({"x": [0.1, np.inf, 0.3]}, "`x` must be finite"),
    "x scalar": ({"x": 0.5}, "`x` must have rank 1 or more"),
    "x empty": ({"x": np.zeros([0], np.float32)}, "no empty dimension"),
    "costs zero": ({"costs": [1.0, 0.0, 1.0]}, "`costs` must be positive"),
    "costs negative": ({"costs": [1.0, -1.0, 1.0]}, "`costs` must be positive"),
    "costs infinite": ({"costs": [1.0, np.inf, 1.0]}, "`costs` must be positive"),
    "costs shape": ({"costs": [1.0, 1.0]}, "`costs` must have the shape"),
    "axis": ({"axis": 1}, "`axis` must be None or in"),
    "axis negative": ({"axis": -2}, "`axis` must be None or in"),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED.keys())
def test_bad_arguments_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        soft_topk(**{**GOOD, **change})
    soft_topk(**GOOD)


def test_the_value_that_came_is_named():
    with pytest.raises(ValueError, match=r"Received: temperature=-1\.0"):
        soft_topk([1.0, 2.0], 1, -1.0)
    with pytest.raises(ValueError, match=r"Received: k=2\.0"):
        soft_topk([1.0, 2.0], 2, 1.0)


def test_integers_are_a_type_error():
    with pytest.raises(TypeError, match="floating dtype. Received: dtype=int32"):
        soft_topk([1, 2, 3], 1, 1.0)


@pytest.mark.parametrize(
    "x, k, tau",
    [([0.0, 1.0], 1.0, -1.0), ([0.0, 1.0], 2.0, 1.0), ([0.0, np.nan], 1.0, 1.0)],
    ids=["temperature", "k", "x"],
)
def test_bad_values_in_a_graph_raise_when_it_runs(x, k, tau):
    run = tf.function(lambda x, k, tau: soft_topk(x, k, tau))
    run(tf.constant([0.0, 1.0]), tf.constant(1.0), tf.constant(1.0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Argument `"):
        run(tf.constant(x), tf.constant(k), tf.constant(tau))


# --- threshold ------------------------------------------------------------------------


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_threshold_is_right_from_any_start(tau, xla):
    rng = np.random.default_rng(11)
    x = rng.normal(size=600).astype(np.float32)
    costs = rng.integers(1, 129, 600).astype(float)
    k = 0.3 * costs.sum()
    run = tf.function(
        lambda x, tau, start: threshold(x, k, tau, costs=costs, start=start),
        jit_compile=xla,
    )
    tau = float(np.float32(tau))
    a, s = threshold(x, k, tau, costs=costs)
    theta = float(a) + tau * float(s)
    for start in (theta, theta + 0.05 * tau, theta - 3 * tau, 0.0, 50.0, -1e4, 1e6):
        a, s = run(tf.constant(x), tf.constant(tau), tf.constant(start, tf.float32))
        assert a.shape == s.shape == () and a.dtype == s.dtype == tf.float32
        mask = shares_at(x, a, s, tau).numpy()
        np.testing.assert_allclose(mask, reference(x, k, tau, costs)[0], atol=1e-4)
        assert abs((costs * mask.astype(float)).sum() - k) <= 1e-4 * k


@pytest.mark.parametrize("n", [5000, 300_000])
@pytest.mark.parametrize("offset", [0.01, 0.3, 20.0])
def test_warm_starts_of_long_lists_are_right(n, offset):
    x = np.random.default_rng(12).normal(size=n).astype(np.float32)
    tau = 0.125
    a, s = threshold(x, 0.7 * n, tau)
    a, s = threshold(x, 0.7 * n, tau, start=a + tau * s + offset * tau)
    want = reference(x, 0.7 * n, tau)[0]
    np.testing.assert_allclose(shares_at(x, a, s, tau), want, atol=1e-4)


def in_two_steps(x, k, tau, costs=None):
    a, s = threshold(x, k, tau, costs=costs)
    return with_gradient(shares_at(x, a, s, tau), x, tau, costs)


def test_layers_that_share_a_threshold_are_coupled_as_by_soft_topk():
    rng = np.random.default_rng(13)
    sizes = (20, 7, 50)
    layers = [tf.constant(rng.normal(size=n), tf.float32) for n in sizes]
    pulls = [tf.constant(rng.normal(size=n), tf.float32) for n in sizes]
    costs = rng.uniform(1.0, 9.0, 77).astype(np.float32)
    k, tau = 0.35 * costs.sum(), 0.2
    with tf.GradientTape() as tape:
        tape.watch(layers)
        masks = tf.split(in_two_steps(tf.concat(layers, 0), k, tau, costs), sizes)
        loss = tf.add_n(
            [tf.reduce_sum(g * f) for g, f in zip(pulls, masks, strict=True)]
        )
    grads = np.concatenate(tape.gradient(loss, layers))
    want = reference(np.concatenate(layers), k, tau, costs)[1]
    np.testing.assert_allclose(grads, want(np.concatenate(pulls)), atol=1e-4)

    x = tf.concat(layers, 0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = soft_topk(x, k, tau, costs=costs)
    np.testing.assert_allclose(
        grads, tape.gradient(f, x, tf.concat(pulls, 0)), atol=1e-5
    )


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_gradients_of_a_long_layer_do_not_drift(xla):
    """A float32 running sum over so many equal values is off by 1e-2."""
    n, tau = 2_000_000, 0.5
    x = tf.zeros([n])

    @tf.function(jit_compile=xla)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            mask = in_two_steps(x, 0.39 * n, tau)
        return mask, tape.gradient(mask, x)

    mask, grad = run(x)
    np.testing.assert_allclose(mask, np.full(n, 0.39), atol=1e-4)
    # All entries move as one and so does theta: the mask stays as it is.
    np.testing.assert_allclose(grad, np.zeros(n), atol=1e-5 * 0.39 * 0.61 / tau)


def test_the_gradient_is_that_of_the_shares_and_costs_that_are_handed_in():
    f, x = tf.constant([0.5, 0.5, 1.0]), tf.zeros(3)
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = with_gradient(f, x, 0.25, costs=[1.0, 3.0, 1.0])
    np.testing.assert_array_equal(out, f)
    # v = 1/4, 1/4, 0, so sum(v g) / sum(c v) = 1: the pulls beyond their costs are
    # 3 - 1 and 1 - 3.
    got = tape.gradient(out, x, tf.constant([3.0, 1.0, 5.0]))
    np.testing.assert_allclose(got, [2.0, -2.0, 0.0], atol=1e-6)


def test_hard_masks_move_no_logits():
    x = tf.constant([0.3, -0.2, 0.9])
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = with_gradient(tf.constant([1.0, 0.0, 1.0]), x, 1e-4)
    np.testing.assert_array_equal(tape.gradient(f, x), [0.0, 0.0, 0.0])


def test_no_gradient_flows_through_the_threshold_itself():
    x = tf.Variable([0.0, 0.0, 5.0])
    with tf.GradientTape(persistent=True) as tape:
        a, s = threshold(x, 1.5, 0.1)
    assert tape.gradient(a, x) is None and tape.gradient(s, x) is None


def test_nothing_is_nan_where_every_share_is_saturated():
    x = tf.constant([-1.0] * 5 + [1.0] * 5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        mask = in_two_steps(x, 5.0, 1e-5)
    np.testing.assert_array_equal(mask, [0.0] * 5 + [1.0] * 5)
    np.testing.assert_array_equal(tape.gradient(mask, x), np.zeros(10))


def test_warm_start_follows_a_whole_search():
    """Temperatures fall and logits drift, as in training; each step must be right."""
    rng = np.random.default_rng(14)
    x = rng.normal(scale=0.3, size=400).astype(np.float32)
    run = tf.function(lambda x, tau, start: threshold(x, 120.5, tau, start=start))
    theta = tf.constant(0.0)
    for tau in np.geomspace(10.0, 1e-4, 150).astype(np.float32):
        x += rng.normal(scale=2e-3, size=400).astype(np.float32)
        a, s = run(tf.constant(x), tf.constant(tau), theta)
        theta = a + tau * s
        want = reference(x, 120.5, float(tau))[0]
        np.testing.assert_allclose(shares_at(x, a, s, tau), want, atol=1e-4)


# --- hard_topk ------------------------------------------------------------------------


def kept(*args, **kwargs):
    return np.flatnonzero(hard_topk(*args, **kwargs)).tolist()


def test_hard_topk_breaks_ties_by_index():
    assert kept([1.0, 3.0, 3.0, 2.0, 3.0], 2) == [1, 2]
    assert kept([0.0] * 6, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "budget, count", [(0, 0), (2.9, 2), (3, 3), (10, 10), (99, 10)]
)
def test_hard_topk_keeps_the_floor_of_the_budget(budget, count):
    assert hard_topk(np.arange(10.0), budget).sum() == count


def test_hard_topk_forgives_the_rounding_of_the_budget():
    assert (1 - 0.9) * 10 < 1.0
    assert kept(np.arange(10.0), (1 - 0.9) * 10) == [9]
    assert kept(np.arange(10.0), (1 - 0.9) * 1280, costs=[128] * 10) == [9]


def test_hard_topk_stops_at_the_first_entry_that_would_exceed():
    # 5 fits, 5 + 4 does not; the later 1 would, but is not reached.
    assert kept([9.0, 8.0, 7.0], 6, costs=[5.0, 4.0, 1.0]) == [0]
    assert kept([9.0, 8.0, 7.0], 9, costs=[5.0, 4.0, 1.0]) == [0, 1]
    assert kept([9.0, 8.0, 7.0], 4.9, costs=[5.0, 4.0, 1.0]) == []


def test_hard_topk_keeps_the_floor_of_each_layer():
    scores = [9.0, 8.0, 7.0, 6.0, 0.1, 0.3, 0.2]
    floors = [([0, 1, 2, 3], 1), ([4, 5, 6], 2)]
    assert kept(scores, 4, floors=floors) == [0, 1, 5, 6]
    assert kept(scores, 3, floors=floors) == [0, 5, 6]
    ragged = [1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0]
    assert kept(scores, 8.5, costs=ragged, floors=floors) == [0, 1, 5, 6]


def test_hard_topk_refuses_floors_over_the_budget():
    with pytest.raises(ValueError, match="must cover the floors, which take 3"):
        hard_topk([3.0, 2.0, 1.0, 0.0], 2, floors=[([1, 2, 3], 3)])
    with pytest.raises(ValueError, match="`floors` must ask for between"):
        hard_topk([3.0, 2.0, 1.0], 3, floors=[([0, 1], 3)])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": [1.0, np.nan]}, "`scores` must be of rank 1 and without NaN"),
        ({"scores": [[1.0, 2.0]]}, "`scores` must be of rank 1"),
        ({"costs": [1.0, 0.0]}, "`costs` must be positive"),
        ({"costs": [1.0]}, "`costs` must be positive and finite, one for each"),
        ({"budget": -1}, "`budget` must be finite and not negative"),
        ({"budget": np.nan}, "`budget` must be finite and not negative"),
    ],
)
def test_hard_topk_refuses_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        hard_topk(**{"scores": [1.0, 2.0], "budget": 1, **change})


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_hard_topk_is_never_denser_than_asked_and_one_entry_short_at_most(data):
    n = data.draw(st.integers(1, 40))
    scores = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    costs = np.array(data.draw(st.lists(st.integers(1, 128), min_size=n, max_size=n)))
    budget = data.draw(st.integers(0, int(costs.sum())))
    mask = hard_topk(scores, budget, costs=costs)
    assert costs[mask].sum() <= budget
    order = sorted(range(n), key=lambda i: (-scores[i], i))
    assert mask[order].tolist() == sorted(mask, reverse=True)
    if not mask.all():
        assert costs[mask].sum() + costs[order[mask.sum()]] > budget
