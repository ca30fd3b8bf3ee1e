"""Small Keras 3 models with zeros put in by hand, for the tests of exports."""

import keras
import numpy as np


def zeroed(model, blocks=4, seed=0):
    """Random weights, with rows of output channels zeroed by hand."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = rng.normal(0, 0.3, variable.shape).astype("float32")
        if "variance" in variable.path:
            value = np.abs(value) + 0.5
        if "depthwise" in variable.path and value.ndim == 4:
            value[:, :, :blocks] = 0
        elif "kernel" in variable.path:
            value[..., :blocks] = 0
        variable.assign(value)
    return model


def convnet():
    return zeroed(
        keras.Sequential(
            [
                keras.Input((12, 12, 3), name="image"),
                keras.layers.Conv2D(8, 3, padding="same", name="first"),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.DepthwiseConv2D(3, name="depthwise"),
                keras.layers.Conv2D(16, 3, strides=2, name="second"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(10, name="logits"),
            ],
            name="net",
        )
    )


def images(count=32, seed=1):
    return np.random.default_rng(seed).random((count, 12, 12, 3), "float32")


def two_by_two():
    left, right = keras.Input((4,), name="zeta"), keras.Input((6,), name="alpha")
    joined = keras.layers.Concatenate()([left, right])
    outputs = [keras.layers.Dense(8)(joined), keras.layers.Dense(5)(joined)]
    return zeroed(keras.Model([left, right], outputs), blocks=2)


def golden():
    """A matrix and a convolution whose zeros are four known patterns.

    Keras's axes: the matrix is `(in, out)`, the convolution `(3, 3, in, out)`.
    """
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 16), name="image"),
            keras.layers.Conv2D(32, 3, name="blocks"),
            keras.layers.Conv2D(16, 1, name="two_of_four"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(32, name="quads"),
            keras.layers.Dense(8, name="channels"),
        ],
        name="golden",
    )
    kernels = {
        layer.name: rng.uniform(0.1, 1, layer.kernel.shape)
        for layer in model.layers
        if layer.weights
    }
    kernels["blocks"][0, :, 8:, :16] = 0  # 3 positions x 8 inputs x 16 outputs
    kernels["blocks"][2, 2, :8, 16:] = 0
    for group, (left, right) in enumerate([(0, 3), (0, 1), (1, 2), (1, 3)] * 2):
        kernels["two_of_four"][:, :, 4 * group + left] = 0
        kernels["two_of_four"][:, :, 4 * group + right] = 0
    kernels["two_of_four"] = np.where(
        np.arange(16) % 2, kernels["two_of_four"], kernels["two_of_four"][:, :, ::-1]
    )
    kernels["quads"][4:8, 3] = kernels["quads"][0:4, 30] = 0
    kernels["channels"][:, [2, 5]] = 0
    for name, kernel in kernels.items():
        model.get_layer(name).kernel.assign(kernel)
    return model


GOLDEN_PATTERNS = {
    "blocks": {"16x8", "1x4"},
    "two_of_four": {"2:4"},
    "quads": {"1x4"},
    "channels": {"1x4", "channel"},
}
GOLDEN_ZEROS = {
    "blocks": 4 * 8 * 16,
    "two_of_four": 16 * 16,
    "quads": 8,
    "channels": 2 * 32,
}
