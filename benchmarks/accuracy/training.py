"""Does a run: from a dense checkpoint to a pruned network and its accuracies."""

import dataclasses
import gc
import hashlib
import json
import os
import time

import keras

import smart_tf
from benchmarks.accuracy.config import (
    HINDSIGHT,
    architecture,
    make_method,
    make_structure,
)
from benchmarks.accuracy.recipe import batch_order, batches, compile_model
from benchmarks.accuracy.rivals.harness import prune_elsewhere
from benchmarks.accuracy.rivals.registry import RIVALS
from benchmarks.record import commit, provenance
from examples import networks, training
from examples.clutter import cluttered
from examples.datasets import load_fashion_mnist
from smart_tf import flavours
from smart_tf.prunable import prunable_weights
from smart_tf.restart import restart_learning_rate


def load_data(name, source, images):
    """The `Dataset` that a table of the configuration describes.

    Args:
        name: String, as the tables call it.
        source: `"fashion_mnist"` or `"cluttered_fashion_mnist"`.
        images: Integer, how many to train on.

    Raises:
        ValueError: If it is not to be had.
    """
    data = load_fashion_mnist(limit=images)
    if source.startswith("cluttered_"):
        data = cluttered(data)
    if data.name != source or len(data.x_train) != images:
        raise ValueError(
            f"Data '{name}' must be {images} training images of {source}. "
            f"Received: {len(data.x_train)} of {data.name}"
        )
    return data


class Trainer:
    """A function from a `Run` to a dict of what came out.

    Args:
        folder: `pathlib.Path` of the dense checkpoints.
        load: Function from the entries of `Run.data` to a `Dataset`.
    """

    def __init__(self, folder, load=load_data):
        self._folder = folder
        self._load = load
        self._commit = commit()  # of what was imported, whatever comes meanwhile
        self._name, self._data = None, None

    def __call__(self, run):
        data = self._data_of(run)
        checkpoint = self._checkpoint(run, data)
        started = time.time()
        keras.backend.clear_session()
        gc.collect()
        keras.utils.set_random_seed(run.seed)
        model = build(run.network, data)
        model.load_weights(checkpoint)
        model, outcome = trained_by(run)(model, run, data)
        outcome["accuracy_val"] = accuracy(model, data.x_val, data.y_val)
        if run.stage == "final":
            outcome["accuracy_test"] = accuracy(model, data.x_test, data.y_test)
        versions = provenance("benchmarks.accuracy", run.seed)
        versions["versions"]["smart_tf"] = smart_tf.__version__
        return {
            **outcome,
            "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12],
            "seconds": round(time.time() - started, 1),
            **versions,
            "commit": self._commit,
        }

    def _data_of(self, run):
        if self._name != run.data["name"]:
            self._name, self._data = run.data["name"], self._load(**run.data)
        return self._data

    def _checkpoint(self, run, data):
        """The file of the dense network that all runs of a seed start from."""
        training = [run.training[name] for name in ("batch_size", "dense_epochs")]
        settings = [run.data, run.network, training, run.seed]
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        names = (run.data["name"], run.network["name"], str(run.seed), digest)
        path = self._folder / f"{'-'.join(names)}.weights.h5"
        if not path.exists():
            keras.utils.set_random_seed(run.seed)
            model = build(run.network, data)
            epochs = run.training["dense_epochs"]
            _fit(model, run, data, epochs, run.network["dense_rate"], [run.seed, 0])
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"partial-{os.getpid()}.weights.h5")
            model.save_weights(partial)
            partial.replace(path)
        return path


def build(network, data):
    """The network that a table of the configuration describes, untrained."""
    make, options = architecture(network)
    return getattr(networks, make)(data.input_shape, data.classes, **options)


def trained_by(run):
    """The function that does a run: from a model, the run and its data to a model and
    a dict of what is known of the pruning."""
    if run.base in RIVALS:
        return prune_elsewhere
    if run.base == HINDSIGHT:
        return prune_in_hindsight
    return prune if run.pruning else fit_dense


def fit_dense(model, run, data):
    """Trains the dense network on, as long as the pruned ones and by the same rates."""
    epochs, share = run.training["epochs"], run.training["search_share"]
    restart = round(run.steps * share) if run.training.get("restart") else None
    _fit(model, run, data, epochs, run.rate, [run.seed, 1], restart=restart)
    return model, {}


def prune(model, run, data):
    """Searches, freezes, fine-tunes and strips.

    Returns:
        The stripped model, and a dict of what is known of the pruning.
    """
    pruned = wrap(model, run)
    epochs = run.training["epochs"]
    driver = smart_tf.SmartPruningCallback(
        search_epochs=epochs * run.training["search_share"],
        restart_learning_rate=run.training.get("restart", False),
    )
    before, after = AtTheFreeze(driver, data), AtTheFreeze(driver, data)
    callbacks = [before, driver, after]
    _fit(pruned, run, data, epochs, run.rate, [run.seed, 1], callbacks)
    report = smart_tf.report(pruned)
    return smart_tf.strip_pruning(pruned), {
        "accuracy_before_freeze": before.accuracy,
        "accuracy_after_freeze": after.accuracy,
        "sparsity": report.cut[1] if report.cut else report.sparsity,
        "layers": {kernel.name: round(kernel.sparsity, 5) for kernel in report.kernels},
    }


def prune_in_hindsight(model, run, data):
    """Does as `prune`, with what SMART chooses known from the start.

    What goes is found by a run of SMART. The network from the checkpoint has it set to
    zero, which is what one-shot magnitude takes first, and is trained for as long as
    all others. No method can do that: it shows what the search costs.
    """
    dense = model.get_weights()
    found, outcome = prune(model, dataclasses.replace(run, base="smart"), data)
    known = build(run.network, data)
    known.set_weights(dense)
    pairs = zip(prunable_weights(known), prunable_weights(found), strict=True)
    for kernel, kept in pairs:
        kernel.variable.assign(kernel.variable * (kept.variable.numpy() != 0))
    # No more stays than SMART left, which may be a block less than was asked for.
    pruning = {**run.pruning, "sparsity": outcome["sparsity"]}
    once = {"base": "magnitude", "settings": {"gradual": False}, "pruning": pruning}
    return prune(known, dataclasses.replace(run, **once), data)


def wrap(model, run):
    """The model prepared for pruning."""
    return smart_tf.prune(
        model,
        sparsity=run.pruning["sparsity"],
        structure=make_structure(**run.pruning),
        method=make_method(run.base, run.settings),
        budget=run.pruning["budget"],
    )


class AtTheFreeze(keras.callbacks.Callback):
    """Measures the validation accuracy with the update that ends the search.

    In the list of callbacks before the one that freezes the masks, it sees them
    soft, behind it hard.

    Args:
        driver: `SmartPruningCallback`.
        data: `Dataset`.
    """

    def __init__(self, driver, data):
        super().__init__()
        self._driver, self._data = driver, data
        self._updates = 0
        self.accuracy = None

    def on_train_batch_end(self, batch, logs=None):
        self._updates += 1
        if self._updates == self._driver.pruner.schedule.end_step:
            self.accuracy = accuracy(self.model, self._data.x_val, self._data.y_val)


def _fit(model, run, data, epochs, rate, order, callbacks=(), restart=None):
    """Trains on batches whose order hangs on `order` only."""
    size = run.training["batch_size"]
    steps = len(data.x_train) // size
    compile_model(keras, model, rate, steps * epochs)
    if restart is not None:
        updates = 0, restart, steps * epochs
        restart_learning_rate(model.optimizer, flavours.of(model), *updates)
    indices = batch_order(len(data.x_train), epochs, size, order)
    model.fit(
        batches(data.x_train, data.y_train, indices),
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=list(callbacks),
        shuffle=False,
        verbose=0,
    )


def accuracy(model, x, y):
    """Float: the fraction of images that a model of logits gets right."""
    return training.accuracy(model.predict(x, batch_size=500, verbose=0), y)
