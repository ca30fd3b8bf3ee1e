"""Soft and hard top-k: which blocks stay (eq. 2, prop. 2.2, thm. 2.1).

`soft_topk` gives every entry of `x` a share `f` in [0, 1] so that the shares sum
to a budget. All shares hang on one threshold `theta`, which `smart_tf.theta` finds.

Symbols follow the paper (arXiv 2403.19969): `tau` the temperature, `c` the costs,
`K` the budget, `v = f (1 - f)`.
"""

import numpy as np
import tensorflow as tf

from smart_tf.theta import problem_of, row_sum, shares, solve_theta, weighted


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
        x: Floating tensor of rank 1 or more, of any dtype; computed in float32 inside.
        k: Number or scalar tensor, in (0, n), where n is the number of entries
            ranked together. It may be fractional. With `costs` it is a budget, in
            (0, sum(costs)).
        temperature: Positive number or scalar tensor, in the unit of `x`, from 1e-30
            to 1e30.
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
    frozen = tf.stop_gradient(rows)
    a, s = solve_theta(problem_of(frozen, k, temperature, costs))
    f = shares(frozen, a, s, temperature)
    return restore(with_gradient(f, rows, temperature, costs))


@tf.autograph.experimental.do_not_convert
def threshold(x, budget, temperature, costs=None, start=None):
    """Solves `sum(costs * sigmoid((x - theta) / tau)) == budget` for `theta`.

    This is the hot path of a training step: one call over the concatenated logits
    of all layers. It checks nothing. `theta` comes as a pair, because one float32 is
    too coarse at low temperatures.

    Example:

    >>> a, s = threshold(x, budget=300.0, temperature=0.1)
    >>> f = with_gradient(shares(x, a, s, 0.1), x, 0.1)

    Args:
        x: float32 tensor of shape `(n,)`.
        budget: Number or scalar tensor in (0, sum(costs)).
        temperature: Positive number or scalar tensor.
        costs: Optional positive costs of shape `(n,)`; 1 for each by default.
        start: Optional float32 scalar tensor, a guess such as the last step's
            `theta`. A wrong one costs time only.

    Returns:
        Tuple `(a, s)` of float32 scalar tensors with `theta = a + tau * s`. No
        gradient flows back through them.
    """
    x = tf.stop_gradient(tf.convert_to_tensor(x, tf.float32))
    costs = costs if costs is None else tf.cast(costs, tf.float32)
    temperature = tf.cast(temperature, tf.float32)
    a, s = solve_theta(problem_of(x, budget, temperature, costs), start)
    return tf.stop_gradient(tf.reshape(a, [])), tf.stop_gradient(tf.reshape(s, []))


def with_gradient(f, x, temperature, costs=None):
    """Makes the shares of a soft top-k differentiable in `x`.

    The gradient is `v_i (g_i - c_i sum(v g) / sum(c v)) / tau` (prop. 2.2), where `g`
    is the one with respect to the shares. It is 0 where all shares are 0 or 1.

    Args:
        f: float32 tensor `(..., n)`, the shares that eq. 2 gives to each row of `x`.
        x: float32 tensor of the same shape.
        temperature: Positive number or scalar tensor.
        costs: Optional float32 tensor `(n,)` or `(..., n)`; 1 for each by default.

    Returns:
        Tensor with the values of `f`. Asking for a second-order gradient raises
        `NotImplementedError`.
    """
    # In a branch of a graph, a persistent tape knows only what was made there.
    f, x = tf.stop_gradient(f), tf.identity(x)
    costs = costs if costs is None else tf.identity(costs)
    steepness = 1.0 / tf.cast(temperature, tf.float32)

    @tf.custom_gradient
    def pull_back(g, x):
        del x  # Only so that a gradient with respect to it is refused.
        v = f * (1.0 - f)
        ratio = tf.math.divide_no_nan(row_sum(v * g), row_sum(weighted(costs, v)))
        shared = weighted(costs, tf.cast(ratio, tf.float32))
        return v * (g - shared) * steepness, _no_second_order

    @tf.custom_gradient
    def attach(_):
        # The gradient of a gather is sparse.
        return tf.identity(f), lambda g: pull_back(tf.convert_to_tensor(g), x)

    return attach(x)


def _no_second_order(*_):
    raise NotImplementedError(
        "The soft top-k has no second-order gradient: it is solved by a loop "
        "through which one would come out wrong."
    )


class BudgetTooSmall(ValueError):
    """What has to stay costs more than the budget."""


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
        ValueError: If a score is NaN, a cost not positive or the budget negative.
        BudgetTooSmall: If the floors alone cost more than the budget; a `ValueError`.
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
        raise BudgetTooSmall(
            f"Argument `budget` must cover the floors, which take {floor_cost:g}. "
            f"Received: budget={budget:g}"
        )
    rest = order[~kept[order]]
    kept[rest[floor_cost + np.cumsum(costs[rest]) <= limit]] = True
    return kept


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
    with tf.control_dependencies(_finite("x", tf.cast(x, tf.float32))):
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
        (temperature >= 1e-30) & (temperature <= 1e30),
        "Argument `temperature` must be positive, from 1e-30 to 1e30. "
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
        limit = tf.reduce_min(row_sum(costs))
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
