"""The commands: each takes parsed options and returns a report."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable

import keras
import numpy as np
from rich.table import Table

import smart_tf
from smart_tf import export, flavours, targets
from smart_tf.cli import data, models
from smart_tf.export.staging import staged
from smart_tf.export.tflite import TOLERANCE
from smart_tf.printing import render


class Refused(RuntimeError):
    """A result that is not worth a file."""


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What `smart-tf prune` did; prints as tables.

    Attributes:
        path: The file that it wrote.
        before: Dict from the names of the loss and the metrics to floats, on the data
            that was held out, for the model as it was given.
        after: The same for the model in the file.
        pruning: `PruningReport`.
    """

    path: str
    before: dict
    after: dict
    pruning: smart_tf.PruningReport

    def to_dict(self):
        """The report as plain numbers, strings, lists and dicts."""
        return {
            "path": self.path,
            "before": self.before,
            "after": self.after,
            "pruning": self.pruning.to_dict(),
        }

    def __str__(self):
        table = Table("held-out data", title=self.path)
        for heading in ("before", "after"):
            table.add_column(heading, justify="right")
        for name, before in self.before.items():
            table.add_row(name, f"{before:.4f}", f"{self.after[name]:.4f}")
        return f"{self.pruning}\n{render(table)}"


def prune(options):
    """Prunes and fine-tunes a model; what is evaluated after is the file itself."""
    structure = options.structure or "16x8"
    if options.target:
        structure = targets.get(options.target).structure
    with (
        _output(options.out, options.force) as path,
        data.broken_pictures_named(options.data),
    ):
        keras.utils.set_random_seed(options.seed)
        model = models.load(options.model)
        config = models.compile_config(options.model)
        objective = models.Objective(config, options.loss)
        expected = data.Expected.of(model, objective.settings(model)["loss"])
        train, test = data.load(options.data, expected, _reading(options))
        pruned = smart_tf.prune(
            model,
            sparsity=options.sparsity,
            structure=structure,
            method=options.method,
            filters=options.filters,
            budget=options.budget,
        )
        before = _evaluate(model, objective, test)
        _fit(pruned, objective, train, options)
        pruning = smart_tf.report(pruned)
        chosen = model.get_compile_config() if options.loss else config
        models.save(smart_tf.strip_pruning(pruned), path, chosen)
        after = _evaluate(models.load(path), objective, test)
        if not all(map(np.isfinite, after.values())):
            raise Refused(
                "The pruned model computes no finite loss: try a lower "
                f"--learning-rate. Received: --learning-rate={options.learning_rate}"
            )
    return PruneReport(str(options.out), before, after, pruning)


def report(options):
    """Zeros of a model, layer by layer."""
    found = smart_tf.report(models.load(options.model))
    if options.plot:
        _check_new(pathlib.Path(options.plot), options.force)
        found.plot(options.plot)
    return found


def shrink(options):
    """Removes the channels that are zero."""
    with _output(options.out, options.force) as path:
        model = _plain(models.load(options.model))
        small = smart_tf.shrink(model)
        comparison = smart_tf.compare(model, small, files=options.time)
        models.save(small, path, models.compile_config(options.model))
    return comparison


def inspect(options):
    """Zeros, patterns and bytes in a file."""
    return smart_tf.inspect_file(options.path)


def export_model(options):
    """Converts a model, by a format or by what a chip wants."""
    if options.target:
        target = targets.get(options.target)
        beside = _VELA if target.accelerator else None
        stored = (target.quantize,)
        route = Route(target.export, {"data"}, beside, stored)
    else:
        route = ROUTES[options.to]
    given = {
        name: value
        for name in ("quantize", "sparse", "structure", "accelerator", "data")
        if (value := getattr(options, name))
    }
    goal = f"--target {options.target}" if options.target else f"--to {options.to}"
    _check_given(given, route, goal, options.rescale)
    out = pathlib.Path(options.out)
    _check_new(out, options.force)
    if route.beside:
        replaces = options.force and out.exists()
        _check_new(out.with_name(out.stem + route.beside), replaces)
    model = _plain(models.load(options.model))
    if not given.pop("data", None):
        return route.write(model, out, **given)
    expected = data.Expected.of(model)
    settings = data.Settings(held_out=0, scale=options.rescale)
    samples, _ = data.load(options.data, expected, settings)
    with data.broken_pictures_named(options.data):
        return route.write(model, out, representative_data=samples, **given)


def _check_given(given, route, goal, rescale):
    """Raise unless the options are those of the route, and all that it needs."""
    wrong = [f"--{name}" for name in given if name not in route.options]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} cannot be given with {goal}")
    quantize = given.get("quantize", route.stored[0])
    if quantize not in route.stored:
        known = ", ".join(filter(None, route.stored))
        raise ValueError(
            f"Argument `--quantize` must be one of {known} with {goal}. "
            f"Received: --quantize={quantize}"
        )
    if "structure" in route.options and "structure" not in given:
        raise ValueError(
            f"Argument `--structure` must be given with {goal}. Received: none"
        )
    if quantize == "int8" and "data" not in given:
        raise ValueError(
            f"Argument `--data` must be given with {goal} in int8: the ranges of the "
            "activations are measured on it. Received: none"
        )
    if rescale != 1 and "data" not in given:
        raise ValueError(
            "Argument `--rescale` must be given with `--data`, whose inputs it "
            f"multiplies. Received: --rescale={rescale} alone"
        )


def _to_ethos_u(model, path, quantize="int8", representative_data=None, **options):
    """As for a chip that is known, with another accelerator."""
    target = dataclasses.replace(
        targets.get("ethos-u55-128"), quantize=quantize, **options
    )
    return target.export(model, path, representative_data)


@dataclasses.dataclass(frozen=True)
class Route:
    """One way to export.

    Attributes:
        write: Function of a model, a path and keyword arguments; returns a report.
        options: Set of the options of the command that it takes.
        beside: What the name of a second file ends in, or None.
        stored: Tuple of how numbers can be stored, the default first; None is float32.
    """

    write: Callable
    options: set
    beside: str | None = None
    stored: tuple = (None,)


_VELA = "_vela.tflite"

ROUTES = {
    "tflite": Route(
        export.to_tflite, {"quantize", "sparse", "data"}, stored=tuple(TOLERANCE)
    ),
    "onnx": Route(export.to_onnx, {"data"}),
    "openvino": Route(
        export.to_openvino, {"quantize", "data"}, ".bin", (None, "float16")
    ),
    "saved_model": Route(export.to_saved_model, {"data"}),
    "iree": Route(export.to_iree, {"quantize", "data"}, stored=(None, "int8")),
    "masks": Route(export.to_masks, {"structure"}, ".json"),
    "ethos-u": Route(
        _to_ethos_u, {"quantize", "accelerator", "data"}, _VELA, ("int8",)
    ),
}
"""What `--to` takes."""


@contextlib.contextmanager
def _output(out, force):
    """A path to write a model to, which becomes `out` if the block succeeds."""
    out = pathlib.Path(out)
    if out.suffix != ".keras":
        raise ValueError(f"Argument `OUT` must end in .keras. Received: OUT='{out}'")
    _check_new(out, force)
    with staged(out, argument="OUT") as path:
        yield path


def _check_new(out, force):
    if out.exists() and not force:
        raise ValueError(
            "Argument `OUT` must be a file that does not exist yet; --force replaces "
            "one that is there, with its file beside it (not that file alone). "
            f"Received: OUT='{out}'"
        )


def _plain(model):
    """The model without wrappers, unless its masks are still being searched for."""
    phase = smart_tf.report(model).phase
    if phase not in ("plain", "frozen"):
        raise ValueError(
            "Argument `MODEL` must have frozen masks: train on until the search is "
            f"over. Received: a model whose phase is '{phase}'"
        )
    return smart_tf.strip_pruning(model)


def _reading(options):
    return data.Settings(
        batch_size=options.batch_size,
        held_out=options.held_out,
        scale=options.rescale,
        seed=options.seed,
    )


def _evaluate(model, objective, test):
    """Dict from the names of loss and metrics to floats."""
    model.compile("sgd", **objective.settings(model))
    values = model.evaluate(test, verbose=0, return_dict=True)
    return {name: float(value) for name, value in values.items()}


def _fit(pruned, objective, train, options):
    optimizers = flavours.of(pruned).keras.optimizers
    steps = int(train.cardinality()) * options.epochs
    rate = optimizers.schedules.CosineDecay(options.learning_rate, steps)
    pruned.compile(optimizers.AdamW(rate), **objective.settings(pruned))
    # A bar where someone watches, a line for each epoch in a log.
    verbose = 1 if sys.stderr.isatty() else 2
    callback = smart_tf.SmartPruningCallback(
        search_epochs=options.search_epochs, restart_learning_rate=True
    )
    try:
        pruned.fit(
            train,
            epochs=options.epochs,
            shuffle=False,  # The data is shuffled already.
            verbose=0 if options.quiet else verbose,
            callbacks=[callback],
        )
    except ValueError as error:
        if not int(pruned.optimizer.iterations):
            raise  # Before the first step: an argument is wrong.
        raise Refused(
            f"Training failed. If it diverged, try a lower --learning-rate: {error}"
        ) from error
