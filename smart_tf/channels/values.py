"""Values that entries of a tensor have whatever the input is, carried through layers.

NaN stands for a value that varies.
"""

import numpy as np

MIXING = ("softmax", "log_softmax", "sparsemax", "glu")
"""Activations that do not treat every entry by itself."""


def matrix(kernel, inputs, outputs):
    """A kernel as `(positions, inputs, outputs)`."""
    kernel = np.moveaxis(kernel, (inputs, outputs), (-2, -1))
    return kernel.reshape(-1, *kernel.shape[-2:]).astype(np.float64)


def product(kernel, constant):
    """Constants of `x @ kernel` for inputs with constants.

    Args:
        kernel: `(positions, inputs, outputs)`.
        constant: `(inputs,)`.

    Returns:
        float64 array `(outputs,)`.
    """
    varies = np.isnan(constant)
    used = (kernel != 0).any(axis=0)
    out = np.where(varies, 0.0, constant) @ kernel.sum(axis=0)
    return np.where((used & varies[:, None]).any(axis=0), np.nan, out)


def apply(function, constant):
    """An elementwise function of constants; what varies goes on varying."""
    out = np.asarray(function(np.asarray(constant, np.float32)), np.float64)
    return np.where(np.isnan(constant), np.nan, out)


def normalised(constant, gamma, beta, mean, variance, epsilon):
    """Constants after a normalisation by known statistics (NaN: unknown)."""
    out = gamma * (constant - mean) / np.sqrt(variance + epsilon) + beta
    return np.where(gamma == 0.0, beta, out)
