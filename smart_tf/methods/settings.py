"""Settings of methods: their checks, and optimizers as configs."""

import math
import numbers

from smart_tf.structures.base import is_count


def check(method, condition, name, requirement):
    """Raises a `ValueError` about a field of a method unless `condition` holds."""
    if not condition:
        raise ValueError(
            f"Argument `{name}` of {type(method).__name__} must be {requirement}. "
            f"Received: {name}={getattr(method, name)!r}"
        )


def check_count(method, name):
    """Raises a `ValueError` unless a field of a method is a positive integer."""
    check(method, is_count(getattr(method, name)), name, "an integer >= 1")


def check_number(method, name, is_in_range, range_, or_none=False):
    """Raises a `ValueError` unless a field of a method is a finite number in a range.

    Args:
        method: The `Method`.
        name: String, the field.
        is_in_range: Function from a number to a boolean.
        range_: String, the range in words.
        or_none: Whether None will do as well.
    """
    value = getattr(method, name)
    if value is None and or_none:
        return
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    holds = is_number and math.isfinite(value) and is_in_range(value)
    check(method, holds, name, f"a finite number {range_}{' or None' * or_none}")


def sgd(**config):
    """Config of an SGD optimizer of either flavour."""
    return {"class_name": "SGD", "config": config}
