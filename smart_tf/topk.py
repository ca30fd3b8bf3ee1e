"""Soft and hard top-k: which blocks stay (eq. 2, prop. 2.2, thm. 2.1).

`soft_topk` gives every entry of `x` a share `f` in [0, 1] so that the shares sum
to a budget. All shares hang on one threshold `theta`, and everything here is about
finding it: in few passes over `x` when `x` is large, in few TensorFlow operations
when it is small, and exactly enough when the temperature is tiny.

Symbols follow the paper (arXiv 2403.19969): `tau` the temperature, `c` the costs,
`K` the budget, `v = f (1 - f)`.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_LANES = 8
_SAMPLE = 2**16  # entries that are enough to guess theta and its slope from
_RESIDUAL = 2e-6  # |S - K|, in mean costs, below which theta is taken as it is
_ERROR = 1e-5  # error of theta / tau that may be left after the last step
_RUN = 16
_LOOKS = 2  # after the one at the start
_MAX_STEPS = 120


@tf.autograph.experimental.do_not_convert
def soft_topk(x, k, temperature, costs=None, axis=None):
    """Relaxes "keep the `k` largest entries" to shares between 0 and 1 (eq. 2).

    The shares are `f = sigmoid((x - theta) / temperature)`, with the one `theta`
    for which `sum(costs * f) == k`. They tend to the hard top-k as the temperature
    falls (thm. 2.1). The gradient with respect to `x` is that of prop. 2.2 and
    takes O(n); `k`, `temperature` and `costs` get none.

    Example:

    >>> f = soft_topk(tf.constant([3.0, 1.0, 2.0, 0.0]), k=2, temperature=0.01)
    >>> f.numpy().round(3)
    array([1., 0., 1., 0.], dtype=float32)

    Args:
        x: Floating tensor of rank 1 or more. float16 and bfloat16 are computed in
            float32 inside.
        k: Number or scalar tensor, in (0, n), where n is the number of entries
            ranked together. It may be fractional. With `costs` it is a budget, in
            (0, sum(costs)).
        temperature: Positive number or scalar tensor, in the unit of `x`.
        costs: What each entry takes from the budget; positive. Shape of `x`, or
            `(x.shape[axis],)` for an int `axis`. `None` means 1 for each.
        axis: `None` ranks all of `x` together; an int solves each slice along that
            axis on its own.

    Returns:
        The shares, a tensor with the shape and dtype of `x`.

    Raises:
        ValueError: If an argument is out of range. What is only known when a graph
            runs raises `tf.errors.InvalidArgumentError` there, except under XLA,
            which drops assertions.
        TypeError: If `x` is not floating.
        NotImplementedError: If a second-order gradient is asked for.
    """
    x = _checked_x(x, axis)
    rows, restore = _as_rows(x, axis)
    costs = None if costs is None else _checked_costs(costs, x, axis)
    temperature = _checked_temperature(temperature)
    k = _checked_k(k, rows, costs)
    return restore(_soft_topk_rows(rows, k, temperature, costs))


@tf.autograph.experimental.do_not_convert
def threshold(x, budget, temperature, costs=None, start=None):
    """Solves `sum(costs * sigmoid((x - theta) / tau)) == budget` for `theta`.

    This is the hot path of a training step: one call over the concatenated logits
    of all layers, then one `soft_mask` per layer. It checks nothing. `theta` comes
    as a pair, because one float32 is too coarse at low temperatures.

    Example:

    >>> a, s = threshold(tf.concat(logits, 0), budget=300.0, temperature=0.1)
    >>> masks = [soft_mask(m, a, s, 0.1) for m in logits]

    The gradient is that of prop. 2.2, `d theta / d x_j = c_j v_j / sum(c v)`. What
    flows back into `a` is taken as the gradient of `theta`. What flows back into
    `s` is ignored: `s` enters a mask only together with `a`, so that its gradient
    is `tau` times the one of `a` and says nothing new.

    Args:
        x: float32 tensor of shape `(n,)`.
        budget: Number or scalar tensor in (0, sum(costs)).
        temperature: Positive number or scalar tensor.
        costs: Optional positive costs of shape `(n,)`; 1 for each by default.
        start: Optional float32 scalar tensor, a guess such as the last step's
            `theta`. A wrong one costs time only.

    Returns:
        Tuple `(a, s)` of float32 scalar tensors with `theta = a + tau * s`.
    """
    temperature = tf.cast(temperature, tf.float32)
    costs = costs if costs is None else tf.cast(costs, tf.float32)

    @tf.custom_gradient
    def solve(x):
        frozen = tf.stop_gradient(x)
        a, s = _solve(frozen, budget, temperature, costs, start)

        def pull(upstream, x):
            del x
            f = soft_mask(frozen, a, s, temperature)
            cv = _weighted(costs, f * (1.0 - f))
            return upstream * tf.math.divide_no_nan(cv, tf.cast(_sum(cv), tf.float32))

        def gradient(upstream_a, upstream_s):
            del upstream_s
            return _first_order_only(pull, upstream_a, x)

        return (tf.reshape(a, []), tf.reshape(s, [])), gradient

    return solve(tf.convert_to_tensor(x, tf.float32))


def soft_mask(x, a, s, temperature):
    """Shares `f = sigmoid((x - theta) / tau)` for `theta = a + tau * s` (eq. 2).

    Args:
        x: float32 tensor of any shape.
        a: float32 scalar tensor, the coarse part of the threshold.
        s: float32 scalar tensor, the fine part, in temperatures.
        temperature: Positive number or scalar tensor.

    Returns:
        float32 tensor with the shape of `x`.
    """
    return tf.sigmoid((x - a) / tf.cast(temperature, tf.float32) - s)


def hard_topk(scores, budget, costs=None, floors=None):
    """Keeps the best entries whose summed cost does not exceed `budget`.

    The kept entries are a prefix of the order by falling score, ties by rising
    index: the first entry that would exceed the budget ends it. So the result is
    never denser than asked, and less dense by less than one entry.

    Example:

    >>> hard_topk([0.1, 0.9, 0.5, 0.5], budget=2)
    array([False,  True,  True, False])

    Args:
        scores: Array of shape `(n,)`, without NaN.
        budget: Number, not negative.
        costs: Optional positive costs of shape `(n,)`; 1 for each by default.
        floors: Optional list of pairs `(indices, minimum)`, one for each layer:
            the `minimum` best among `indices` stay whatever their rank, and count
            towards the budget first.

    Returns:
        Boolean NumPy array of shape `(n,)`, True where an entry stays.

    Raises:
        ValueError: If a score is NaN, a cost not positive, the budget negative, or
            too small for the floors.
    """
    scores, costs, budget = _checked_hard(scores, costs, budget)
    n = scores.size
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(n, bool)
    for indices, minimum in floors or ():
        member = np.zeros(n, bool)
        member[np.asarray(indices, np.int64)] = True
        if not 0 <= minimum <= member.sum():
            raise ValueError(
                "Argument `floors` must ask for between 0 and all of a layer's "
                f"entries. Received: minimum={minimum} of {member.sum()}"
            )
        kept[order[member[order]][: int(minimum)]] = True
    smallest = costs.min(initial=np.inf)
    # 0.3 * 10 is not quite 3: forgive rounding, but never as much as an entry.
    limit = budget + min(max(1e-9 * budget, 1e-6 * smallest), 0.5 * smallest)
    floor_cost = costs[kept].sum()
    if floor_cost > limit:
        raise ValueError(
            f"Argument `budget` must cover the floors, which take {floor_cost:g}. "
            f"Received: budget={budget:g}"
        )
    rest = order[~kept[order]]
    kept[rest[floor_cost + np.cumsum(costs[rest]) <= limit]] = True
    return kept


# --- Solving for theta ----------------------------------------------------------------


class _Problem(NamedTuple):
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


def _solve(x, budget, temperature, costs, start=None):
    """The pair `(a, s)`, each of shape `(..., 1)`, for every row of `x`."""
    problem = _problem(x, budget, temperature, costs)
    stride = max(1, (x.shape[-1] or 1) // _SAMPLE)
    if start is not None:
        a = tf.reshape(tf.stop_gradient(start), [1] * x.shape.rank)
    else:
        a, s = _search(_sample(problem, stride))
        if stride == 1:
            return a, s
    return _polish(problem, a, stride)


def _problem(x, budget, temperature, costs):
    n = tf.cast(x.shape[-1] or tf.shape(x)[-1], tf.float64)
    total = n if costs is None else _sum(costs)
    budget = tf.cast(budget, tf.float64)
    sign = tf.where(budget > 0.5 * total, tf.constant(-1.0, tf.float64), 1.0)
    return _Problem(
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

    def take(x):  # short runs, each a cache line: single entries cost as much
        whole = x.shape[-1] // (stride * _RUN) * (stride * _RUN)
        rows = tf.shape(x)[:-1]
        x = tf.reshape(x[..., :whole], tf.concat([rows, [-1, stride * _RUN]], 0))
        kept = tf.reshape(x[..., :_RUN], tf.concat([rows, [whole // stride]], 0))
        return tf.ensure_shape(kept, [*x.shape[:-2], whole // stride])

    x = take(problem.x)
    costs = problem.costs if problem.costs is None else take(problem.costs)
    total = tf.cast(x.shape[-1], tf.float64) if costs is None else _sum(costs)
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
    knows no bracket and takes one sum a look, at the start, once more, and then
    leaves what is not close to `_search`.
    """
    scaled = (problem.x - a) * problem.scale
    f = tf.sigmoid(scaled)
    sum_0 = _sum(_weighted(problem.costs, f))
    # Newton: the slope is that of a sample, which is all of a small `x`.
    part = _sample(problem._replace(x=f), stride)
    slope = _sum(_weighted(part.costs, part.x * (1.0 - part.x)))
    slope = slope * (problem.total / part.total) if stride > 1 else slope
    miss = sum_0 - problem.target
    p = tf.clip_by_value(tf.math.divide_no_nan(miss, slope), -0.5, 0.5)
    # A step leaves an error of about its length times the one of the slope.
    trust = 0.1 if stride > 1 else 0.003
    close = tf.abs(miss) <= tf.maximum(problem.tolerance, slope * (_ERROR / trust))

    def pair(p):
        s = tf.cast(p * problem.sign, tf.float32)
        return a + tf.zeros_like(s), s

    def look_again(p, done, looks):
        f = tf.sigmoid(scaled - tf.cast(p, tf.float32))
        sum_p = _sum(_weighted(problem.costs, f))
        left = tf.abs(sum_p - problem.target)
        # Secant through the start. The clip is for a start so close that both sums
        # differ by rounding only.
        ratio = tf.clip_by_value(tf.math.divide_no_nan(miss, sum_0 - sum_p), 0.25, 4.0)
        keep = done | (left <= problem.tolerance)
        better = tf.where(keep, p, p * ratio)
        allowed = tf.minimum(2.0 * _ERROR / tf.abs(p), 1e-2) * slope
        done = keep | (left <= allowed)

        def further():
            if looks == 1:
                return _search(problem, *pair(better))
            return look_again(better, done, looks - 1)

        return tf.cond(tf.reduce_all(done), lambda: pair(better), further)

    return tf.cond(
        tf.reduce_all(close), lambda: pair(p), lambda: look_again(p, close, _LOOKS)
    )


def _search(problem, a=None, s=None):
    """A bracketed secant on logit(S / C), which is a line when tau is large.

    One step of it can rely on `-1 <= d logit(S / C) / d (p / tau) < 0`: each look
    bounds the root from one side, and the extreme entries bound it from the start.
    Where the sum is a staircase (tau far below the gaps), it bisects.

    Returns:
        The pair `(a, s)`.
    """
    tau, sign = problem.tau, problem.sign
    aim = tf.math.log(problem.target / (problem.total - problem.target))
    ends = [
        sign * tf.cast(reduce(problem.x, axis=-1, keepdims=True), tf.float64)
        for reduce in (tf.reduce_min, tf.reduce_max)
    ]
    low = tf.minimum(*ends) - tau * aim
    high = tf.maximum(*ends) - tau * aim
    if a is None:
        # Were x logistic, with its mean and variance, this would be the root.
        mean, variance = tf.nn.moments(
            tf.cast(problem.x, tf.float64), axes=[-1], keepdims=True
        )
        width = tf.sqrt(tau**2 + variance * (3.0 / np.pi**2))
        p = sign * mean - width * aim
    else:
        p = sign * (tf.cast(a, tf.float64) + tau * tf.cast(s, tf.float64))
        width = tau
    p = tf.clip_by_value(p + tf.zeros_like(low), low, high)

    def look(p):
        a, s = _as_pair(problem, p)
        f = tf.sigmoid((problem.x - a) * problem.scale - s * tf.cast(sign, tf.float32))
        total = _sum(_weighted(problem.costs, f))
        odds = tf.maximum(total, 1e-30) / tf.maximum(
            problem.total - total, 1e-7 * problem.total
        )
        found = tf.abs(total - problem.target) <= problem.tolerance
        return tf.math.log(odds) - aim, found

    def body(step, p, p_old, h_old, low, high, done):
        h, found = look(p)
        found |= done  # a row that is through waits for the others
        bound = p + tau * h
        low = tf.where(h > 0.0, tf.maximum(low, bound), low)
        high = tf.where(h > 0.0, high, tf.minimum(high, bound))
        move = h * tf.math.divide_no_nan(p - p_old, h_old - h)
        guess = p + move
        secant = (guess >= low) & (guess <= high) & (2.0 * tf.abs(h) <= tf.abs(h_old))
        p_new = tf.where(secant, guess, 0.5 * (low + high))
        leap = tf.abs(p - p_old)
        small = secant & (leap < 0.5 * tau) & (leap * tf.abs(move) < _ERROR * tau * tau)
        done = found | small | (high - low < 2e-6 * tau) | tf.math.is_nan(h)
        return step + 1, tf.where(found, p, p_new), p, h, low, high, done

    # A point that never was, so that the first secant has the slope -1 / width.
    h_far = tf.zeros_like(p) + 1e6
    state = (0, p, p - width * h_far, h_far, low, high, tf.zeros_like(p, tf.bool))
    p = tf.while_loop(
        lambda step, *rest: (step < _MAX_STEPS) & ~tf.reduce_all(rest[-1]), body, state
    )[1]
    return _as_pair(problem, p)


def _as_pair(problem, p):
    theta = problem.sign * p
    a = tf.cast(theta, tf.float32)
    rest = (theta - tf.cast(a, tf.float64)) / problem.tau
    return a, tf.cast(rest, tf.float32)


def _weighted(costs, f):
    return f if costs is None else costs * f


def _sum(x):
    """Sums the last axis, which stays with size 1, to float64 accuracy or nearly.

    XLA on CPU adds the float32 values of a sum one by one, which drifts (1e-2 at
    2e7 equal values), and adds eight long rows to each other as fast as it reads.
    """
    n = x.shape[-1]
    if n is None or n > _LANES * 1024:
        n = n or tf.shape(x)[-1]
        whole = n - n % _LANES
        rows = tf.concat([tf.shape(x)[:-1], [_LANES, whole // _LANES]], 0)
        head = tf.reduce_sum(tf.reshape(x[..., :whole], rows), axis=-2)
        x = tf.concat([head, x[..., whole:]], axis=-1)
    return tf.reduce_sum(tf.cast(x, tf.float64), axis=-1, keepdims=True)


# --- The op on rows, and its gradient -------------------------------------------------


def _soft_topk_rows(x, budget, temperature, costs, start=None):
    @tf.custom_gradient
    def solve(x):
        a, s = _solve(tf.stop_gradient(x), budget, temperature, costs, start)
        f = soft_mask(tf.stop_gradient(x), a, s, temperature)

        def pull(upstream, x):
            del x
            v = f * (1.0 - f)
            ratio = tf.math.divide_no_nan(_sum(v * upstream), _sum(_weighted(costs, v)))
            shared = _weighted(costs, tf.cast(ratio, tf.float32))
            return v * (upstream - shared) * (1.0 / tf.cast(temperature, tf.float32))

        return f, lambda upstream: _first_order_only(pull, upstream, x)

    return solve(x)


def _first_order_only(pull, upstream, x):
    """`pull(upstream, x)`, whose own gradient would be wrong without saying so."""

    @tf.custom_gradient
    def op(upstream, x):
        def refuse(*_):
            raise NotImplementedError(
                "The soft top-k has no second-order gradient: it is solved by a loop "
                "through which one would come out wrong."
            )

        return pull(upstream, x), refuse

    return op(upstream, x)


def _as_rows(x, axis):
    """`x` in float32 as `(..., n)`, and the way back to its shape and dtype."""
    if axis is None:
        rows, order = tf.reshape(x, [-1]), None
    else:
        order = [i for i in range(x.shape.rank) if i != axis % x.shape.rank]
        order.append(axis % x.shape.rank)
        rows = tf.transpose(x, order)

    def restore(f):
        f = tf.cast(f, x.dtype)
        if order is None:
            return tf.reshape(f, tf.shape(x))
        return tf.transpose(f, np.argsort(order))

    return tf.cast(rows, tf.float32), restore


# --- Checking arguments ---------------------------------------------------------------


def _require(condition, message):
    """Raises at once where `condition` is known, else asserts when the graph runs."""
    known = tf.get_static_value(condition)
    if known is None:
        tf.debugging.Assert(condition, [message])
    elif not known:
        raise ValueError(message)


def _received(name, value):
    known = tf.get_static_value(value)
    return f"Received: {name}={value if known is None else known}"


def _checked_x(x, axis):
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise TypeError(
            f"Argument `x` must be of a floating dtype. Received: dtype={x.dtype.name}"
        )
    rank = x.shape.rank
    if rank == 0 or 0 in (x.shape if rank is not None else ()):
        raise ValueError(
            "Argument `x` must have rank 1 or more and no empty dimension. "
            f"Received: shape={tuple(x.shape)}"
        )
    if axis is not None and (rank is None or not -rank <= axis < rank):
        raise ValueError(
            f"Argument `axis` must be None or in [-{rank}, {rank}), the rank of `x`. "
            f"Received: axis={axis}"
        )
    with tf.control_dependencies(_finite("x", x)):
        return tf.identity(x)


def _finite(name, x):
    message = f"Argument `{name}` must be finite. Received NaN or infinite values"
    if not tf.inside_function():
        _require(tf.reduce_all(tf.math.is_finite(x)), f"{message}.")
        return []
    # One pass and no copy; XLA drops it.
    return [tf.debugging.check_numerics(tf.stop_gradient(x), message)]


def _checked_temperature(temperature):
    temperature = tf.cast(temperature, tf.float32)
    _require(
        (temperature > 0.0) & tf.math.is_finite(temperature),
        "Argument `temperature` must be positive. "
        + _received("temperature", temperature),
    )
    return temperature


def _checked_costs(costs, x, axis):
    """The costs in float32 as `_as_rows` lays out `x`, or of shape `(n,)`."""
    costs = tf.cast(costs, tf.float32)
    whole = costs.shape.is_compatible_with(x.shape)
    one_row = axis is not None and costs.shape.is_compatible_with([x.shape[axis]])
    if costs.shape.rank is None or not (whole or one_row):
        raise ValueError(
            "Argument `costs` must have the shape of `x`, or that of one slice along "
            f"`axis`. Received: costs of shape {costs.shape}, x of shape {x.shape}, "
            f"axis={axis}"
        )
    _require(
        tf.reduce_all((costs > 0.0) & tf.math.is_finite(costs)),
        "Argument `costs` must be positive and finite. Received: "
        "zero, negative, infinite or NaN costs.",
    )
    return _as_rows(costs, axis)[0] if whole else costs


def _checked_k(k, rows, costs):
    k = tf.cast(k, tf.float64)
    if costs is None:
        limit = tf.cast(rows.shape[-1] or tf.shape(rows)[-1], tf.float64)
    else:
        limit = tf.reduce_min(_sum(costs))
    _require(
        (k > 0.0) & (k < limit),
        f"Argument `k` must be in (0, n), with `costs` in (0, sum(costs)), here (0, "
        f"{tf.get_static_value(limit)}). {_received('k', k)}",
    )
    return k


def _checked_hard(scores, costs, budget):
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(
            "Argument `scores` must be of rank 1 and without NaN. Received: "
            f"shape={scores.shape}, {np.isnan(scores).sum()} NaN"
        )
    costs = np.ones_like(scores) if costs is None else np.asarray(costs, np.float64)
    if costs.shape != scores.shape or not (np.isfinite(costs) & (costs > 0)).all():
        raise ValueError(
            "Argument `costs` must be positive and finite, one for each score. "
            f"Received: costs={costs} for scores of shape {scores.shape}"
        )
    budget = float(budget)
    if not 0 <= budget < np.inf:
        raise ValueError(
            "Argument `budget` must be finite and not negative. "
            f"Received: budget={budget}"
        )
    return scores, costs, budget
