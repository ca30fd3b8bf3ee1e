"""Slow and plain float64 references, and small models, for the tests of Keras 3."""

import keras
import numpy as np


def soft_topk(x, budget, temperature, costs=None):
    """Eq. 2 by bisection: `f = sigmoid((x - theta) / tau)` with `sum(c f) = K`."""
    x = np.asarray(x, np.float64)
    costs = np.ones_like(x) if costs is None else np.asarray(costs, np.float64)
    spread = 50 * temperature + np.ptp(x) + 1
    low, high = x.min() - spread, x.max() + spread
    for _ in range(200):
        theta = (low + high) / 2
        f = 1 / (1 + np.exp(-np.clip((x - theta) / temperature, -700, 700)))
        low, high = (theta, high) if (costs * f).sum() > budget else (low, theta)
    return f


def jacobian(f, temperature, costs=None):
    """Prop. 2.2: `J_ij = (v_i [i = j] - v_i c_j v_j / sum(c v)) / tau`."""
    costs = np.ones_like(f) if costs is None else costs
    v = f * (1 - f)
    return (np.diag(v) - np.outer(v, costs * v) / (costs * v).sum()) / temperature


def temperature_at(step, end, initial, final):
    """Section 2.3: `tau_s = tau_0 (tau_1 / tau_0) ** (s / S)`."""
    return initial * (final / initial) ** (step / end)


def greedy_topk(scores, budget):
    """Which of equally large blocks stay: the `floor(budget)` best, first come."""
    flat = np.concatenate([np.ravel(s) for s in scores])
    keep = np.zeros(flat.size, bool)
    for _ in range(int(budget + 1e-9)):
        keep[np.argmax(np.where(keep, -np.inf, flat))] = True
    return np.split(keep, np.cumsum([s.size for s in scores])[:-1])


def data(n=64, width=16, classes=4, seed=0):
    """A small classification problem that a linear layer learns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)).astype("float32")
    y = np.argmax(x @ rng.normal(size=(width, classes)), axis=1)
    return x, y.astype("int32")


def mlp(width=16, classes=4, seed=1):
    """Two hidden layers of 16 units."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dense(16, activation="relu", name="first"),
            keras.layers.Dense(16, activation="relu", name="second"),
            keras.layers.Dense(classes, name="last"),
        ]
    )


def compiled(model, optimizer="sgd", **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **kwargs)
    return model


def kernels(model):
    """The raw kernels of a model, by path; those of wrapped layers too."""
    return {
        v.path: np.asarray(v.numpy(), np.float64)
        for v in model.trainable_variables
        if v.path.endswith("kernel")
    }


def zeros(model):
    """Fraction of all raw kernel weights that are exactly zero."""
    values = np.concatenate([k.ravel() for k in kernels(model).values()])
    return float(np.mean(values == 0))


def weights(model):
    return [np.asarray(v.numpy()) for v in model.variables]


def assert_same(first, second, **tolerance):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 0, "atol": 0} | tolerance))


def output(model, x):
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)))


class EachBatch(keras.callbacks.Callback):
    """Calls `look(model)` after every batch and keeps the answers."""

    def __init__(self, look):
        super().__init__()
        self.look, self.seen = look, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.look(self.model))


class EachEpoch(EachBatch):
    """Calls `look(model)` after every epoch instead."""

    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.look(self.model))


def linear(*kernels):
    """A model with one output `x @ kernel` for each kernel, all of the same input."""
    inputs = keras.Input((kernels[0].shape[0],))
    layers = [
        keras.layers.Dense(k.shape[1], use_bias=False, name=f"dense_{i}")
        for i, k in enumerate(kernels)
    ]
    model = keras.Model(inputs, [layer(inputs) for layer in layers])
    model.set_weights([np.asarray(k, "float32") for k in kernels])
    return model


def block_sums(values, out, into):
    """Sums of a Dense kernel over blocks of `out` x `into`, ragged at the far edges."""
    rows = range(0, values.shape[0], into)
    columns = range(0, values.shape[1], out)
    return np.array(
        [[values[r : r + into, c : c + out].sum() for c in columns] for r in rows]
    )


def spread_blocks(grid, shape, out, into):
    """The inverse: each block's value on each of its weights."""
    return np.kron(grid, np.ones((into, out)))[: shape[0], : shape[1]]
