"""Prunes with stock tfmot; `registry.Tfmot` says with what settings."""

import importlib.metadata
import sys
import types

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from benchmarks.accuracy.recipe import batches, compile_model
from benchmarks.accuracy.rivals.protocol import Outcome, serve

# Importing tfmot has switched this process to tf_keras; the networks are written in
# what it has in common with Keras 3.
sys.modules["keras"] = tf_keras
from examples import networks  # noqa: E402


class Attention:
    """Self-attention made of Dense layers.

    tfmot's N:M takes kernels of rank 2 and 4 only, and those of `MultiHeadAttention`
    have 3. The weights are the same numbers in the same order.

    Args:
        heads: Integer.
        size: Integer, of one head.
        name: String.
    """

    def __init__(self, heads, size, name):
        self._heads, self._size, self._name = heads, size, name

    def __call__(self, query, value):
        parts = [("query", query), ("key", value), ("value", value)]
        q, k, v = (self._split(self._dense(part, x)) for part, x in parts)
        scale = float(self._size) ** -0.5
        shares = tf.nn.softmax(tf.matmul(q * scale, k, transpose_b=True))
        merged = tf_keras.layers.Permute((2, 1, 3))(tf.matmul(shares, v))
        flat = tf_keras.layers.Reshape((-1, self._heads * self._size))(merged)
        return self._dense("attention_output", flat)

    def _dense(self, part, x):
        width = self._heads * self._size
        return tf_keras.layers.Dense(width, name=f"{self._name}/{part}")(x)

    def _split(self, x):
        split = tf_keras.layers.Reshape((-1, self._heads, self._size))(x)
        return tf_keras.layers.Permute((2, 1, 3))(split)


def build(job):
    """The network of a `Job` in tf_keras, with its weights."""
    networks.layers = types.SimpleNamespace(
        **{**vars(tf_keras.layers), "MultiHeadAttention": Attention}
    )
    model = job.build(networks)
    variables = by_path(model)
    if variables.keys() != job.weights.keys():
        raise ValueError(
            "The weights of a job must be those of its network. Received: "
            f"{sorted(variables.keys() ^ job.weights.keys())} on one side only"
        )
    for path, variable in variables.items():
        variable.assign(job.weights[path].reshape(variable.shape))
    return model


def by_path(model):
    """Dict from the paths that the variables have in Keras 3 to the variables."""
    return {variable.name.removesuffix(":0"): variable for variable in model.weights}


def prune(model, job):
    """The model with a pruning wrapper around each layer that has a kernel."""
    end, updates = job.search_steps, job.settings["updates"]
    frequency = max(1, end // updates)
    sparsity = job.pruning["sparsity"]
    if sparsity is None:  # N:M; the schedule has no say.
        keep, of = map(int, job.pruning["structure"].split(":"))
        schedule = tfmot.sparsity.keras.ConstantSparsity(1 - keep / of, 0)
        options = {"sparsity_m_by_n": (of - keep, of)}
    else:
        schedule = tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=sparsity,
            begin_step=end % frequency,  # so that the last update is the last step's
            end_step=end,
            power=job.settings["power"],
            frequency=frequency,
        )
        options = {}

    def wrap(layer):
        if not hasattr(layer, "kernel"):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule, **options)

    return tf_keras.models.clone_model(model, clone_function=wrap)


def train(job):
    """Prunes and trains as a `Job` says.

    Returns:
        `Outcome`.
    """
    tf_keras.utils.set_random_seed(job.seed)
    model = build(job)
    before = model.predict(job.probe, verbose=0)
    pruned = prune(model, job)
    compile_model(tf_keras, pruned, job.rate, len(job.order))
    pruned.fit(
        batches(job.x, job.y, job.order),
        steps_per_epoch=len(job.order) // job.epochs,
        epochs=job.epochs,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
        shuffle=False,
        verbose=0,
    )
    final = tfmot.sparsity.keras.strip_pruning(pruned)
    names = ("tensorflow-model-optimization", "tf-keras", "tensorflow")
    return Outcome(
        weights={
            path: variable.numpy().reshape(job.weights[path].shape)
            for path, variable in by_path(final).items()
        },
        before=before,
        after=final.predict(job.probe, verbose=0),
        versions={name: importlib.metadata.version(name) for name in names},
    )


if __name__ == "__main__":
    serve(train)
