"""Prunes with the PDP of PQuantML; `registry.PQuant` says with what settings."""

import importlib.metadata

import keras
from pquant import pdp_config
from pquant.core.keras.layers import (
    PQConv2d,
    PQDense,
    apply_final_compression,
    pre_epoch_functions,
)
from pquant.core.keras.train import train_model

from benchmarks.accuracy.recipe import batches, compile_model
from benchmarks.accuracy.rivals.protocol import Outcome, serve
from examples import networks


def build(job):
    """The network of a `Job`, with its weights."""
    model = job.build(networks)
    for variable in model.weights:
        variable.assign(job.weights[variable.path])
    return model


def configuration(job):
    """PQuantML's configuration: PDP on single weights, and nothing else.

    What it calls an epoch is one step of the sparsity here: the search has `updates`.
    """
    config = pdp_config()
    config.pruning_parameters.sparsity = job.pruning["sparsity"]
    config.pruning_parameters.temperature = job.settings["temperature"]
    config.pruning_parameters.epsilon = 1 / job.settings["updates"]
    config.quantization_parameters.enable_quantization = False
    config.training_parameters.pretraining_epochs = 0
    config.training_parameters.epochs = job.settings["updates"]
    config.training_parameters.fine_tuning_epochs = 1
    return config


def prune(model, config):
    """The model with PQuantML's layers in the places of `Conv2D` and `Dense`.

    `add_compression_layers` takes chains of layers only, and ours have shortcuts.
    """

    def replace(layer):
        common = {"config": config, "name": layer.name}
        if isinstance(layer, keras.layers.Conv2D):
            return PQConv2d(
                filters=layer.filters,
                kernel_size=layer.kernel_size,
                strides=layer.strides,
                padding=layer.padding,
                use_bias=layer.use_bias,
                **common,
            )
        if isinstance(layer, keras.layers.Dense):
            return PQDense(units=layer.units, use_bias=layer.use_bias, **common)
        return layer

    pruned = keras.models.clone_model(model, clone_function=replace)
    for layer in replaced(pruned):
        original = model.get_layer(layer.name)
        layer._kernel.assign(original.kernel)
        if layer.use_bias:
            layer._bias.assign(original.bias)
    return pruned


def replaced(pruned):
    """List of PQuantML's layers in a model."""
    return [x for x in pruned.layers if isinstance(x, PQConv2d | PQDense)]


def fit(pruned, config, job):
    """PQuantML's own loop over as many batches as everyone gets."""
    compile_model(keras, pruned, job.rate, len(job.order))
    updates, share_out = job.settings["updates"], job.settings["share_out"]
    ends = [job.search_steps * (k + 1) // updates for k in range(updates)]
    pieces = zip([0, *ends], [*ends, len(job.order)], strict=True)

    def train_some(model, epoch):
        if epoch == 0 and share_out:
            for layer in replaced(model):
                layer.pruning_layer._init_r = float(layer.pruning_layer.init_r)
            pre_epoch_functions(model, 0, updates)
        start, stop = next(pieces)
        if start < stop:
            order = job.order[start:stop]
            model.fit(batches(job.x, job.y, order), shuffle=False, verbose=0)

    if share_out:  # or the magnitudes that are compared are those of masked weights
        for layer in replaced(pruned):
            layer.pruning_layer.r.assign(0.0)
    train_model(pruned, config, train_some, lambda model, epoch: None)
    apply_final_compression(pruned)


def train(job):
    """Prunes and trains as a `Job` says.

    Returns:
        `Outcome`.
    """
    keras.utils.set_random_seed(job.seed)
    model = build(job)
    before = model.predict(job.probe, verbose=0)
    config = configuration(job)
    pruned = prune(model, config)
    fit(pruned, config, job)
    for layer in replaced(pruned):  # all others are in both models
        original = model.get_layer(layer.name)
        original.kernel.assign(layer.kernel)
        if layer.use_bias:
            original.bias.assign(layer.bias)
    return Outcome(
        weights={variable.path: variable.numpy() for variable in model.weights},
        before=before,
        after=pruned.predict(job.probe, verbose=0),
        versions={
            name: importlib.metadata.version(name)
            for name in ("pquant-ml", "keras", "tensorflow")
        },
    )


if __name__ == "__main__":
    serve(train)
