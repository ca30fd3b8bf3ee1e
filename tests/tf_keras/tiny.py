"""Small tf_keras models and data, and an independent reference for the masks."""

import numpy as np
import tf_keras
from tf_keras import layers

import smart_tf


class Residual(tf_keras.Model):
    """A subclassed model: layers as attributes, in a list and in a dict."""

    def __init__(self, width=16, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Dense(width, name="stem")
        self.blocks = [layers.Dense(width, name=f"block_{i}") for i in range(2)]
        self.heads = {"label": layers.Dense(4, name="head")}
        self.norm = layers.BatchNormalization()

    def call(self, inputs, training=None):
        x = self.stem(inputs)
        for block in self.blocks:
            x = x + self.norm(block(x), training=training)
        return self.heads["label"](x)


def sequential():
    return tf_keras.Sequential(
        [
            tf_keras.Input((8,)),
            layers.Dense(32, activation="relu", name="first"),
            layers.Dense(16, activation="relu", name="second"),
            layers.Dense(4, name="last"),
        ],
        name="tiny",
    )


def convolutional(dropout=0.3):
    """Convolutions, BatchNorm, Dropout, a regularizer and a residual connection."""
    image = tf_keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(8, 3, padding="same", kernel_regularizer="l2", name="conv_1")(
        image
    )
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = layers.Conv2D(8, 1, use_bias=False, name="conv_2")(y)
    y = layers.Dropout(dropout, seed=1)(x + y)
    y = layers.GlobalAveragePooling2D()(y)
    return tf_keras.Model(image, layers.Dense(4, name="last")(y), name="conv")


def nested():
    inner = tf_keras.Sequential(
        [tf_keras.Input((8,)), layers.Dense(16, name="in_1"), layers.ReLU()],
        name="inner",
    )
    x = tf_keras.Input((8,))
    side = layers.Dense(16, name="side")(x)
    y = layers.Add()([inner(x), side])
    return tf_keras.Model(x, layers.Dense(4, name="last")(y), name="nested")


def two_in_two_out():
    left, right = tf_keras.Input((8,), name="left"), tf_keras.Input((8,), name="right")
    joined = layers.Concatenate()(
        [layers.Dense(8, name="a")(left), layers.Dense(8, name="b")(right)]
    )
    outputs = [layers.Dense(4, name="x")(joined), layers.Dense(4, name="y")(joined)]
    return tf_keras.Model([left, right], outputs, name="two")


def siamese():
    """One layer that is shared between two branches."""
    left, right = tf_keras.Input((8,)), tf_keras.Input((8,))
    shared = layers.Dense(16, activation="relu", name="shared")
    difference = shared(left) - shared(right)
    last = layers.Dense(4, name="last")
    return tf_keras.Model([left, right], last(difference), name="siamese")


def subclassed():
    model = Residual()
    model(np.zeros((1, 8), "float32"))
    return model


BUILDERS = [sequential, convolutional, nested, two_in_two_out, siamese, subclassed]


def inputs_for(model, count=64, seed=0):
    """Random inputs of the model's shapes."""
    rng = np.random.default_rng(seed)
    if isinstance(model, Residual):
        return rng.normal(size=(count, 8)).astype("float32")
    arrays = [
        rng.normal(size=(count, *one.shape[1:])).astype("float32")
        for one in model.inputs
    ]
    return arrays if len(arrays) > 1 else arrays[0]


def targets_for(model, count=64, seed=0):
    """Labels that follow from the inputs, one array for each output."""
    first = inputs_for(model, count, seed)
    first = first[0] if isinstance(first, list) else first
    flat = first.reshape(count, -1)
    teacher = np.random.default_rng(7).normal(size=(flat.shape[1], 4))
    labels = np.argmax(flat @ teacher, axis=1)
    outputs = 1 if isinstance(model, Residual) else len(model.outputs)
    return [labels] * outputs if outputs > 1 else labels


def compiled(model, optimizer=None, **kwargs):
    model.compile(
        optimizer or tf_keras.optimizers.Adam(1e-2),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    return model


def fit(model, epochs=4, callbacks=(), count=64, **kwargs):
    """4 updates of 16 rows in every epoch, the same on every run."""
    settings = {"batch_size": 16, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(
        inputs_for(model, count),
        targets_for(model, count),
        epochs=epochs,
        callbacks=list(callbacks),
        **settings,
    )


def wrappers(model):
    return smart_tf.flavours.wrappers(model)


def kernels(model):
    """Dict from layer name to its prunable kernel, of a pruned or a plain model."""
    found = {}
    for layer in model._flatten_layers():
        for name in ("kernel", "depthwise_kernel"):
            if name in vars(layer):
                found[layer.name] = getattr(layer, name).numpy()
    return found


def sparsity(model, names=None):
    """Fraction of exact zeros, counted in the kernels themselves."""
    chosen = [v for k, v in kernels(model).items() if names is None or k in names]
    return sum((v == 0).sum() for v in chosen) / sum(v.size for v in chosen)


def block_view(kernel, out, into):
    """Dense kernel `[in, out]` as `[in blocks, into, out blocks, out]`, zero-padded."""
    rows, columns = -kernel.shape[0] % into, -kernel.shape[1] % out
    padded = np.pad(kernel, ((0, rows), (0, columns)))
    return padded.reshape(padded.shape[0] // into, into, -1, out)


def zero_fraction_of_blocks(kernel, out, into):
    """Array of the fraction of zeros in each block of a kernel that divides evenly."""
    return (block_view(kernel, out, into) == 0).mean(axis=(1, 3))


def hard_masked(arrays, sparsity, out, into):
    """Kernels with the globally weakest blocks (root mean square) at zero.

    For kernels of equal blocks. Numpy only, nothing of the library.
    """
    scores = [
        np.sqrt((block_view(a.astype("float64"), out, into) ** 2).mean(axis=(1, 3)))
        for a in arrays
    ]
    everything = np.concatenate([s.ravel() for s in scores])
    keep = int((1 - sparsity) * len(everything) + 1e-9)
    threshold = np.sort(everything)[::-1][keep - 1]
    return [
        a * np.kron(s >= threshold, np.ones((into, out))).astype(a.dtype)
        for a, s in zip(arrays, scores, strict=True)
    ]
