"""Shrinks every model of `keras.applications`, half of most groups being zero.

    python -m benchmarks.applications_shrink [--only NAME ...]

Statistics, gammas, betas and biases are random. One JSON line per model; a model that
has its line already is not run again. `sensitivity` is how much the model itself
changes when its input does by 1e-7: where that is much, float32 proves nothing, and
`--dtype float64` is needed.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import smart_tf
from benchmarks.applications import LARGER, key, run_each
from benchmarks.record import RESULTS

SIZE = 48
OUTPUT = RESULTS / "applications_shrink.jsonl"
TOLERANCE = 1e-5  # of the largest output


def run(name):
    """Zeroes half of the channels in about 60 % of a model's groups, and shrinks it.

    Args:
        name: String, constructor in `keras.applications`.

    Returns:
        Dict of what came out.
    """
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    size = LARGER.get(name, SIZE)
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=10,
        classifier_activation=None,
    )
    make_realistic(model, rng)
    started = time.time()
    groups = smart_tf.channels.find_groups(model)
    found = time.time()
    costs = groups.costs("params")
    kept = zero_half(groups, rng)
    x = rng.normal(scale=50, size=(2, size, size, 3)).astype(keras.config.floatx())
    expected = np.asarray(model(x, training=False))
    noise = 1 + 1e-7 * rng.standard_normal(x.shape)
    moved = np.asarray(model((x * noise).astype(expected.dtype), training=False))
    before = time.time()
    small = smart_tf.shrink(model)
    after = time.time()
    got = np.asarray(small(x, training=False))
    scale = np.abs(expected).max()
    return {
        "model": name,
        "groups": len(groups),
        "channels": sum(costs.sizes),
        "parameters": model.count_params(),
        "parameters_left": small.count_params(),
        "parameters_predicted": round(costs.total(kept)),
        "dtype": expected.dtype.name,
        "relative_difference": float(np.abs(got - expected).max() / scale),
        "sensitivity": float(np.abs(moved - expected).max() / scale),
        "seconds_find": round(found - started, 1),
        "seconds_shrink": round(after - before, 1),
    }


def make_realistic(model, rng):
    """Random values for what is all zeros or ones in an untrained model."""
    spread = {
        "moving_mean": lambda shape: rng.normal(0, 0.1, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 1.5, shape),
        "gamma": lambda shape: rng.uniform(0.7, 1.3, shape),
        "beta": lambda shape: rng.normal(0, 0.1, shape),
        "bias": lambda shape: rng.normal(0, 0.05, shape),
    }
    for variable in model.weights:
        draw = spread.get(variable.path.split("/")[-1])
        if draw is not None:
            variable.assign(draw(variable.shape))


def zero_half(groups, rng):
    """Zeroes channels of a model; returns how many of each group stay."""
    dead = np.zeros(sum(len(group.channels) for group in groups), bool)
    for group in groups:
        if rng.random() < 0.6:
            half = len(group.channels) // 2
            dead[rng.choice(group.channels, half, replace=False)] = True
    for one in groups.slices:
        value = np.asarray(one.variable).copy()
        gone = (one.channels >= 0) & dead[np.maximum(one.channels, 0)]
        np.moveaxis(value, one.axis, 0)[gone] = 0
        one.variable.assign(value)
    return [int((~dead[group.channels]).sum()) for group in groups]


def passes(row):
    """Whether a row shows what it should: exact, and as small as predicted."""
    return (
        row["relative_difference"] <= TOLERANCE
        and row["parameters_left"] == row["parameters_predicted"]
        and row["parameters_left"] < row["parameters"]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--dtype", default="float32", help="float32 or float64")
    args = parser.parse_args()
    keras.config.set_floatx(args.dtype)
    show(run_each(run, args.only, args.output, "benchmarks.applications_shrink"))


def show(rows):
    table = Table(title="keras.applications, shrunk")
    for column in (
        "model",
        "groups",
        "parameters",
        "left",
        "difference",
        "s",
        "passes",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        table.add_row(
            " ".join(key(row)),
            f"{row['groups']:,}",
            f"{row['parameters']:,}",
            f"{row['parameters_left']:,}",
            f"{row['relative_difference']:.1g}",
            f"{row['seconds_find'] + row['seconds_shrink']:.0f}",
            "yes" if passes(row) else "NO",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
