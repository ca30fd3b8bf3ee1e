"""Prunes every model of `keras.applications`: train a step, freeze, strip, compare.

One JSON line per model; a model that has its line already is not run again.
"""

import argparse
import gc
import inspect
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import smart_tf
from benchmarks.record import append_row, commit, provenance, read_rows

SIZE = 64  # the smallest at which all of them train without NaN when they are dense
LARGER = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
RESULTS = Path(__file__).parent / "results" / "applications.jsonl"


def names():
    """All model constructors of `keras.applications`."""
    found = inspect.getmembers(keras.applications, inspect.isfunction)
    return [name for name, _ in found if name[0].isupper()]


def run(name, structure="16x8", sparsity=0.5):
    """Prunes one model from scratch.

    Args:
        name: String, constructor in `keras.applications`.
        structure: String.
        sparsity: Float.

    Returns:
        Dict of what came out.
    """
    keras.utils.set_random_seed(0)
    size = LARGER.get(name, SIZE)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10
    )
    before = [(layer.name, type(layer).__name__) for layer in model.layers]
    x = np.random.default_rng(0).uniform(0, 1, (4, size, size, 3)).astype("float32")
    started = time.time()
    pruned = smart_tf.prune(model, sparsity=sparsity, structure=structure)
    pruned.compile(
        keras.optimizers.SGD(1e-4),
        "sparse_categorical_crossentropy",
        jit_compile=False,  # two updates are not worth compiling for
    )
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    labels = np.arange(4)
    pruned.fit(x, labels, batch_size=2, epochs=2, verbose=0, callbacks=[callback])
    report = smart_tf.report(pruned)
    masked = pruned.predict(x, verbose=0)
    final = smart_tf.strip_pruning(pruned)
    largest = max(k.weights / k.blocks for k in report.kernels)
    return {
        "model": name,
        "prunable_weights": sum(k.weights for k in report.kernels),
        "kernels": len(report.kernels),
        "blocks": sum(k.blocks for k in report.kernels),
        "phase": report.phase,
        "sparsity": report.sparsity,
        "one_block": largest / sum(k.weights for k in report.kernels),
        "sparsity_stripped": smart_tf.report(final).sparsity,
        "max_difference": float(np.abs(final.predict(x, verbose=0) - masked).max()),
        "same_layers": before == [(k.name, type(k).__name__) for k in final.layers],
        "same_class": type(final).__name__ == type(model).__name__,
        "finite": bool(np.isfinite(masked).all()),
        "seconds": round(time.time() - started, 1),
    }


def passes(row):
    """Whether a row shows what it should: exact to a block, stripped, unchanged."""
    return (
        row["phase"] == "frozen"
        and 0 <= row["sparsity"] - 0.5 <= row["one_block"] + 1e-9
        and row["sparsity_stripped"] >= row["sparsity"]
        and row["max_difference"] == 0
        and row["same_layers"]
        and row["same_class"]
    )


def run_each(run, models, path, module):
    """Runs models one after the other, but for those that have a line already.

    Args:
        run: Function from a name to a dict of what came out.
        models: Names in `keras.applications`, or None for all.
        path: `pathlib.Path` of the file of lines.
        module: String, of whom the lines are.

    Returns:
        The rows of the file, those of before and the new ones.
    """
    rows = {key(row): row for row in read_rows(path)}
    for name in models or names():
        if (name, keras.config.floatx()) not in rows:
            row = {**run(name), **provenance(module, 0), "commit": commit()}
            rows[key(row)] = row
            append_row(path, row)
            print(row, flush=True)
            keras.backend.clear_session()
            gc.collect()
    return rows.values()


def key(row):
    """The name and the dtype of a row's model."""
    return row["model"], row.get("dtype", "float32")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    show(run_each(run, args.only, args.results, "benchmarks.applications"))


def show(rows):
    table = Table(title="keras.applications at 50 % in 16x8 blocks")
    for column in (
        "model",
        "weights",
        "blocks",
        "sparsity",
        "difference",
        "s",
        "passes",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['prunable_weights']:,}",
            f"{row['blocks']:,}",
            f"{row['sparsity']:.4%}",
            f"{row['max_difference']:g}",
            f"{row['seconds']:.0f}",
            "yes" if passes(row) else "NO",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
