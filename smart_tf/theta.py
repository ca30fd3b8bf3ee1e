"""Solving for the threshold `theta` of eq. 2, on which all shares hang.

In few passes over `x` when `x` is large, in few TensorFlow operations when it is small,
and exactly enough when the temperature is tiny.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_FOLDS = 8, 64  # how many rows a long sum is folded into, and then once more
_SMALL = 2**14  # entries up to which theta is searched for without a sample
_STRIDE = 24  # one of so many entries is a sample
_RUN = 16  # entries of a sample that lie together: a cache line
_NARROW = 64  # entries up to which a row is sorted to begin with
_RESIDUAL = 2e-6  # |S - K|, in mean costs, below which theta is taken as it is
_ERROR = 2e-5  # error of theta / tau that may be left after the last step
_MAX_STEPS = 120


class Problem(NamedTuple):
    """Find `p` with `sum(c * sigmoid((sign * x - p) / tau)) = target <= total / 2`.

    Shares near 0 are exact in float32 and shares near 1 are not, so the side with
    the smaller budget is solved for: `sign` is -1 where more than half is kept, and
    `theta = sign * p`. All but `x` and `costs` are scalars, or columns of shape
    `(rows, 1)` where each row has costs of its own.
    """

    x: tf.Tensor  # float32, (..., n)
    costs: tf.Tensor | None  # float32, (..., n) or (n,)
    tau: tf.Tensor  # float64
    scale: tf.Tensor  # float32, sign / tau
    sign: tf.Tensor  # float64
    total: tf.Tensor  # float64, sum(c)
    target: tf.Tensor  # float64, K or sum(c) - K
    tolerance: tf.Tensor  # float64, on the sum


def solve_theta(problem, start=None):
    """The pair `(a, s)`, each of shape `(..., 1)`, for every row of `problem.x`."""
    n = problem.x.shape[-1] or 0
    stride = _STRIDE if n > _SMALL else 1
    if start is not None:
        start = tf.reshape(tf.stop_gradient(start), [1] * problem.x.shape.rank)
    elif stride == 1:
        return _search(problem)
    else:
        a, s = solve_theta(_sample(problem, stride))
        start = a + s * tf.cast(problem.tau, tf.float32)
    return _polish(problem, start, stride)


def problem_of(x, budget, temperature, costs):
    """The `Problem` of eq. 2, stated for the side with the smaller budget.

    Args:
        x: float32 tensor `(..., n)`, the logits `m`.
        budget: Number or scalar tensor in (0, sum(costs)), `K`.
        temperature: Positive float32 scalar tensor, `tau`.
        costs: float32 tensor `(n,)` or `(..., n)`, `c`; None for 1 each.
    """
    n = tf.cast(x.shape[-1] or tf.shape(x)[-1], tf.float64)
    total = n if costs is None else row_sum(costs)
    budget = tf.cast(budget, tf.float64)
    sign = tf.where(budget > 0.5 * total, tf.constant(-1.0, tf.float64), 1.0)
    return Problem(
        x=x,
        costs=costs,
        tau=tf.cast(temperature, tf.float64),
        scale=tf.cast(sign, tf.float32) / temperature,
        sign=sign,
        total=total,
        target=tf.minimum(budget, total - budget),
        tolerance=_RESIDUAL * total / n,
    )


def _sample(problem, stride):
    """The same problem on 1 of `stride` entries, with the same share to keep."""
    if stride == 1:
        return problem

    def take(x):
        whole = x.shape[-1] // (stride * _RUN) * (stride * _RUN)
        rows = tf.shape(x)[:-1]
        x = tf.reshape(x[..., :whole], tf.concat([rows, [-1, stride * _RUN]], 0))
        kept = tf.reshape(x[..., :_RUN], tf.concat([rows, [whole // stride]], 0))
        return tf.ensure_shape(kept, [*x.shape[:-2], whole // stride])

    x = take(problem.x)
    costs = problem.costs if problem.costs is None else take(problem.costs)
    total = tf.cast(x.shape[-1], tf.float64) if costs is None else row_sum(costs)
    ratio = total / problem.total
    return problem._replace(
        x=x,
        costs=costs,
        total=total,
        target=problem.target * ratio,
        tolerance=problem.tolerance * ratio,
    )


def _polish(problem, a, stride):
    """The pair `(a, s)` from a start `a` that is a fraction of tau away.

    Operations count when `n` is small and passes over `x` when it is large. So this
    knows no bracket and takes one sum a look: at the start, once more, rarely a
    third time. What is not close by then is left to `_search`.
    """

    def look(p):
        f = tf.sigmoid((problem.x - a) * problem.scale - tf.cast(p, tf.float32))
        return f, row_sum(weighted(problem.costs, f))

    f, sum_0 = look(0.0)
    # Newton: the slope is that of a sample, which is all of a small `x`.
    part = _sample(problem._replace(x=f), stride)
    slope = row_sum(weighted(part.costs, part.x * (1.0 - part.x)))
    slope = slope * (problem.total / part.total) if stride > 1 else slope
    miss = sum_0 - problem.target
    p_1 = tf.clip_by_value(tf.math.divide_no_nan(miss, slope), -0.5, 0.5)

    def improve(p):
        """A secant through the start, the farthest point, and whether it arrives."""
        sum_p = look(p)[1]
        left = tf.abs(sum_p - problem.target)
        # The clip is for a start so close that both sums differ by rounding only.
        ratio = tf.clip_by_value(tf.math.divide_no_nan(miss, sum_0 - sum_p), 0.25, 4.0)
        found = left <= problem.tolerance
        # The error left after this step is at most about p * left / slope / 2.
        allowed = tf.minimum(2.0 * _ERROR / tf.abs(p), 1e-2) * slope
        done = tf.reduce_all(found | (left <= allowed))
        return tf.where(found, p, p * ratio), done

    def pair(p):
        s = tf.cast(p * problem.sign, tf.float32)
        return a + tf.zeros_like(s), s

    def once_more():
        p_3, done = improve(p_2)
        return tf.cond(done, lambda: pair(p_3), lambda: _search(problem))

    p_2, done = improve(p_1)
    return tf.cond(done, lambda: pair(p_2), once_more)


def _search(problem):
    """A bracketed Newton on logit(S / C), which is a line when tau is large.

    One step of it can rely on `-1 <= d logit(S / C) / d (p / tau) < 0`: each look
    bounds the root from one side, and the extreme entries bound it from the start.
    Where the sum is a staircase (tau far below the gaps), it bisects.

    Returns:
        The pair `(a, s)`.
    """
    tau, sign, total = problem.tau, problem.sign, problem.total
    aim = tf.math.log(problem.target / (total - problem.target))
    ends = [
        sign * tf.cast(reduce(problem.x, axis=-1, keepdims=True), tf.float64)
        for reduce in (tf.reduce_min, tf.reduce_max)
    ]
    low = tf.minimum(*ends) - tau * aim
    high = tf.maximum(*ends) - tau * aim

    def look(p):
        """What is missing on the scale of the logit, its slope, and if it is little."""
        a, s = _as_pair(problem, p)
        f = tf.sigmoid((problem.x - a) * problem.scale - s * tf.cast(sign, tf.float32))
        kept = row_sum(weighted(problem.costs, f))
        rest = tf.maximum(total - kept, 1e-7 * total)
        v = row_sum(weighted(problem.costs, f * (1.0 - f)))
        slope = tf.math.divide_no_nan(v * total, kept * rest)
        found = tf.abs(kept - problem.target) <= problem.tolerance
        return tf.math.log(tf.maximum(kept, 1e-30) / rest) - aim, slope, found

    def body(step, p, h_old, low, high, done):
        h, slope, found = look(p)
        found |= done  # a row that is through waits for the others
        bound = p + tau * h
        low = tf.where(h > 0.0, tf.maximum(low, bound), low)
        high = tf.where(h > 0.0, high, tf.minimum(high, bound))
        guess = p + tau * tf.math.divide_no_nan(h, slope)
        newton = (slope > 0.0) & (guess >= low) & (guess <= high)
        newton &= 2.0 * tf.abs(h) <= h_old
        p_new = tf.where(newton, guess, 0.5 * (low + high))
        # Newton squares the error, in units of tau.
        small = newton & (tf.square(guess - p) < _ERROR * tau * tau)
        done = found | small | (high - low < 2e-6 * tau) | tf.math.is_nan(h)
        return step + 1, tf.where(found, p, p_new), tf.abs(h), low, high, done

    p = tf.clip_by_value(_guess(problem, aim), low, high)
    far = tf.fill(tf.shape(p), tf.constant(np.inf, tf.float64))
    state = (0, p, far, low, high, tf.zeros_like(p, tf.bool))
    p = tf.while_loop(
        lambda step, *rest: (step < _MAX_STEPS) & ~tf.reduce_all(rest[-1]), body, state
    )[1]
    return _as_pair(problem, p)


def _guess(problem, aim):
    """Where to look for the root, a column that knows nothing of earlier steps."""
    x, n = problem.x, problem.x.shape[-1]
    if problem.costs is None and n is not None and n <= _NARROW:
        # What theta tends to for small tau: half way between the last entry that
        # stays and the first that goes, or the one that stays in part.
        order = tf.sort(x * tf.cast(problem.sign, tf.float32), direction="DESCENDING")
        last = tf.cast(tf.math.ceil(problem.target), tf.int32) - 1
        first = tf.cast(tf.math.floor(problem.target), tf.int32)
        # A target out of range is for others to complain of.
        around = tf.clip_by_value(tf.stack([last, first]), 0, n - 1)
        near = tf.gather(order, around, axis=-1)
        return tf.reduce_mean(tf.cast(near, tf.float64), axis=-1, keepdims=True)
    # Were x logistic, with its mean and variance, this would be the root.
    mean, variance = tf.nn.moments(tf.cast(x, tf.float64), axes=[-1], keepdims=True)
    width = tf.sqrt(problem.tau**2 + variance * (3.0 / np.pi**2))
    return problem.sign * mean - width * aim


def shares(x, a, s, tau):
    """`f = sigmoid((x - theta) / tau)` for `theta = a + tau * s` (eq. 2)."""
    return tf.sigmoid((x - a) * (1.0 / tau) - s)


def _as_pair(problem, p):
    theta = problem.sign * p
    a = tf.cast(theta, tf.float32)
    rest = (theta - tf.cast(a, tf.float64)) / problem.tau
    return a, tf.cast(rest, tf.float32)


def weighted(costs, f):
    """Shares times costs; None stands for costs of 1."""
    return f if costs is None else costs * f


def row_sum(x):
    """Sums the last axis, which stays with size 1, to float64 accuracy or nearly.

    XLA on CPU adds the float32 values of a sum one by one, which drifts (1e-2 at
    2e7 equal values), and adds a few long rows to each other as fast as it reads.
    """
    for rows in _FOLDS:
        n = x.shape[-1]
        if n is None or n > 1024 * rows:
            n = n or tf.shape(x)[-1]
            whole = n - n % rows
            shape = tf.concat([tf.shape(x)[:-1], [rows, whole // rows]], 0)
            head = tf.reduce_sum(tf.reshape(x[..., :whole], shape), axis=-2)
            x = tf.concat([head, x[..., whole:]], axis=-1)
    return tf.reduce_sum(tf.cast(x, tf.float64), axis=-1, keepdims=True)
