"""Values that entries of a tensor have whatever the input is, carried through layers.

NaN stands for a value that varies.
"""

import numpy as np
import tensorflow as tf


def matrix(kernel, inputs, outputs):
    """A kernel as `(positions, inputs, outputs)`."""
    kernel = np.moveaxis(kernel, (inputs, outputs), (-2, -1))
    return kernel.reshape(-1, *kernel.shape[-2:])


def product(summed, used, constant):
    """Constants of `x @ kernel` for inputs with constants.

    Args:
        summed: float64 array `(inputs, outputs)`, the kernel summed over positions.
        used: Boolean array `(inputs, outputs)`, where it is not zero everywhere.
        constant: float64 array `(inputs,)`.

    Returns:
        float64 array `(outputs,)`.
    """
    varies = ~np.isfinite(constant)
    out = constant[~varies] @ summed[~varies]
    return np.where(used[varies].any(axis=0), np.nan, out)


def apply(function, constant):
    """An elementwise function of constants; what varies goes on varying."""
    out = np.asarray(function(tf.constant(constant, tf.float32)), np.float64)
    return np.where(np.isnan(constant), np.nan, out)


def is_elementwise(function):
    """Whether an activation treats every entry by itself: tried out on numbers."""
    if getattr(function, "weights", None):  # a layer that tells channels apart
        return False
    one, other = np.linspace(-3.0, 3.0, 24, dtype=np.float32).reshape(2, 1, 12)
    other[:, :1], one[:, 1:] = 9.0, other[:, 1:]  # they differ in one entry
    try:
        out = [np.asarray(function(tf.constant(x))) for x in (one, other)]
    except (ValueError, tf.errors.OpError):
        return False
    same_shape = out[0].shape == out[1].shape == one.shape
    return same_shape and np.allclose(*(x[:, 1:] for x in out))


def only_zeros(constant):
    """Constants after something that leaves nothing but zeros as they are."""
    return np.where(constant == 0.0, 0.0, np.nan)


def normalised(constant, gamma, beta, mean, variance, epsilon):
    """Constants after a normalisation by known statistics (NaN: unknown)."""
    scale = gamma / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    out = scale * (constant - mean) + beta
    return np.where(gamma == 0.0, beta, out)
