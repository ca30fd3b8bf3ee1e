"""What a training step costs more when a model is pruned, as a ratio to the dense step.

Every variant trains the same network on the same batch, and they take turns in one
process: a round is one turn of each, compared with the dense one's. What pruning adds
is work on the weights, as long whatever the batch. With a small batch little else
disturbs it, so that it is measured there, too, in milliseconds, and set against the
dense step of a whole batch. A second dense model tells what is noise.

Memory is the peak of a process of its own, as it is, over what the process held before
the model was made, and once the first step, which compiles, is over: the median of
several processes. They give freed arrays back at once; what glibc's allocator else
keeps of them varies from process to process by more than pruning takes.
"""

import argparse
import ctypes
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import smart_tf
from benchmarks.record import RESULTS, commit, markdown_table, provenance, write
from examples import networks

SEED = 0
BATCH, SMALL_BATCH = 128, 8
STEPS, SMALL_STEPS = 1, 3  # in a turn
SPARSITY = 0.7
BARS = {"search": 1.05, "fine-tuning": 1.01, "memory": 1.05}
NETWORKS = {"resnet20": (32, 32, 3), "small_vit": (32, 32, 3)}
STRUCTURES = {"resnet20": "16x8", "small_vit": "16x8"}
OURS = ("dense", "dense again", "search", "fine-tuning")
FLAVOURS = {
    "keras": OURS,
    "keras XLA": OURS,
    "tf_keras": (*OURS, "tfmot, frequency 1", "tfmot, frequency 100"),
}
PLACES = len(NETWORKS) * len(FLAVOURS)
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}  # arrays of so many bytes, or more


def stepper(network, flavour, variant, batch=BATCH):
    """A function that takes one training step of one variant.

    Args:
        network: Key of `NETWORKS`.
        flavour: Key of `FLAVOURS`.
        variant: One of the flavour's variants.
        batch: How many images a step sees.

    Returns:
        Function without arguments.
    """
    api = keras
    if flavour == "tf_keras":
        import tf_keras as api
    api.utils.set_random_seed(SEED)
    model = build(network, api)
    if variant in ("search", "fine-tuning"):
        model = smart_tf.prune(model, SPARSITY, STRUCTURES[network])
    elif variant.startswith("tfmot"):
        model = tfmot_pruned(model, frequency=int(variant.split()[-1]))
    model.compile(
        api.optimizers.AdamW(1e-3),
        api.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=flavour.endswith("XLA"),
    )
    if variant in ("search", "fine-tuning"):
        drive(model, variant)
    model.make_train_function()
    iterator = iter(batches(network, batch))
    return lambda: float(next(iter(model.train_function(iterator).values())))


def build(network, api):
    """The network in either flavour, from the same description."""
    ours = networks.PositionEmbedding
    names = {"keras": api, "layers": api.layers}
    if api is not keras:
        methods = {"build": ours.build, "call": ours.call}
        names["PositionEmbedding"] = type("Positions", (api.layers.Layer,), methods)
    with unittest.mock.patch.multiple(networks, **names):
        return getattr(networks, network)(NETWORKS[network], 10)


def batches(network, batch):
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(batch, *NETWORKS[network])).astype("float32")
    y = rng.integers(0, 10, batch)
    return tf.data.Dataset.from_tensors((x, y)).repeat()


def drive(model, variant):
    """Puts a pruned model into the phase that is measured."""
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 10**6))
    model.optimizer = pruner.wrap_optimizer(model.optimizer)
    model.optimizer.build(model.trainable_variables)
    pruner.start()
    if variant == "fine-tuning":
        pruner.ranking.freeze()


def tfmot_pruned(model, frequency):
    import tensorflow_model_optimization as tfmot

    sparsity = tfmot.sparsity.keras.ConstantSparsity(SPARSITY, 0, frequency=frequency)
    wrap = tfmot.sparsity.keras.prune_low_magnitude
    layers = sys.modules["tf_keras"].layers
    known = (layers.Conv2D, layers.Dense)

    def replace(layer):
        return wrap(layer, sparsity) if isinstance(layer, known) else layer

    pruned = sys.modules["tf_keras"].models.clone_model(model, clone_function=replace)
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    callback.set_model(pruned)
    callback.on_train_begin()
    return pruned


def time_steps(network, flavour, batch, rounds, steps):
    """Dict from each variant to an array `[rounds]`, milliseconds per step."""
    variants = FLAVOURS[flavour]
    step = {v: stepper(network, flavour, v, batch) for v in variants}
    for function in step.values():
        for _ in range(3):
            function()
    times = {variant: [] for variant in variants}
    for number in range(rounds):
        # Whoever comes first in a round would always meet the same disturbance.
        order = variants[number % len(variants) :] + variants[: number % len(variants)]
        for variant in order:
            started = time.perf_counter()
            for _ in range(steps):
                step[variant]()
            times[variant].append(1e3 * (time.perf_counter() - started) / steps)
    return {variant: np.array(rounds) for variant, rounds in times.items()}


def median(values):
    """The median and a 95 % interval for it, from resampled rounds."""
    rng = np.random.default_rng(SEED)
    resampled = rng.choice(values, (2000, len(values)))
    interval = np.percentile(np.median(resampled, axis=1), [2.5, 97.5])
    return [float(np.median(values)), *interval]


def peak_memory(network, flavour, variant):
    """Bytes that a process of its own holds at its peak, before the model is made, and
    in the steps that follow the first."""
    command = [sys.executable, "-m", "benchmarks.step_overhead", "--memory"]
    command += [network, flavour, variant]
    environment = os.environ | GIVE_BACK
    output = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(output.stdout.splitlines()[-1])


def measure_memory(network, flavour, variant):
    if flavour == "tf_keras":
        importlib.import_module("tensorflow_model_optimization")  # is no part of it
    float(tf.reduce_sum(tf.ones((64, 64)) @ tf.ones((64, 64))))  # TensorFlow's own
    before = peak_of_process()
    step = stepper(network, flavour, variant)
    step()
    first = peak_of_process()
    forget_peak()
    for _ in range(4):
        step()
    later = peak_of_process()
    print(json.dumps([max(first, later), before, later]))


def peak_of_process():
    """Bytes of memory at the peak since the last `forget_peak`. Linux only."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def forget_peak():
    """Gives freed memory back, and takes what is left for the new peak."""
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def time_rows(network, flavour, args):
    """Yields each variant with its dict; `median` says what the triples are."""
    whole = time_steps(network, flavour, BATCH, args.rounds, STEPS)
    small = time_steps(network, flavour, SMALL_BATCH, args.small_rounds, SMALL_STEPS)
    dense = float(np.median(whole["dense"]))
    for variant in FLAVOURS[flavour]:
        extra = median(small[variant] - small["dense"])
        yield (
            variant,
            {
                "milliseconds": float(np.median(whole[variant])),
                "ratio": median(whole[variant] / whole["dense"]),
                "extra_milliseconds": extra,
                "ratio_by_extra": [1.0 + value / dense for value in extra],
            },
        )


def memory_rows(network, flavour, args):
    """Yields each variant with its dict of median peaks, in bytes.

    They are those of the process, what it has beyond the imported libraries, and those
    of the process after its first step.
    """
    for variant in FLAVOURS[flavour]:
        if variant == "dense again":
            continue
        place = network, flavour, variant
        samples = [peak_memory(*place) for _ in range(args.repeats)]
        peak, before, later = np.transpose(samples)
        peaks = [float(np.median(part)) for part in (peak, peak - before, later)]
        yield variant, {"memory_samples": samples, "memory": peaks}


HALVES = {"times": time_rows, "memory": memory_rows}


def measure(args, report):
    """Adds the half that was asked for, or both, to the rows of an earlier report."""
    source = {**provenance("benchmarks.step_overhead", SEED), "commit": commit()}
    source["load_before"] = os.getloadavg()[0]
    places = [(n, f) for n in args.networks for f in args.flavours]
    for half in args.halves:
        # A run that is stopped has measured some of its places only.
        run = {**source, "places": []}
        earlier = [] if len(places) == PLACES else report.get(half, [])
        report[half] = [*earlier, run]
        for place in places:
            for variant, row in HALVES[half](*place, args):
                report["rows"].setdefault(name(*place, variant), {}).update(row)
            report["rows"] = in_order(report["rows"])
            run["places"].append(", ".join(place))
            write(RESULTS / "step_overhead.json", report)
            show(report["rows"])


def name(network, flavour, variant):
    return f"{network}, {flavour}: {variant}"


def in_order(rows):
    names = [name(n, f, v) for n in NETWORKS for f, vs in FLAVOURS.items() for v in vs]
    return {key: rows[key] for key in names if key in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument(
        "--small-rounds", type=int, default=200, help="with the small batch"
    )
    parser.add_argument("--repeats", type=int, default=3, help="processes for memory")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--flavours", nargs="*", default=list(FLAVOURS))
    parser.add_argument(
        "--halves",
        nargs="*",
        choices=list(HALVES),
        default=list(HALVES),
        help="what to measure; the other half stays as it was",
    )
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        measure_memory(*args.memory)
        return
    path = RESULTS / "step_overhead.json"
    report = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    measure(args, report)
    write(RESULTS / "step_overhead.md", markdown(report))


HEADER = [
    *("", "ms", "ratio", "extra ms, small batch", "ratio by extra ms", "bar"),
    *("memory", "without imports", "in later steps"),
]


def cells(key, row, rows):
    line = [key, *[""] * 8]
    if "ratio" in row:
        line[1] = f"{row['milliseconds']:.1f}"
    if "ratio" in row and not key.endswith(": dense"):
        line[2:6] = [
            with_interval(row["ratio"], "{:.3f}"),
            with_interval(row["extra_milliseconds"], "{:+.2f}"),
            with_interval(row["ratio_by_extra"], "{:.3f}"),
            BARS.get(key.split(": ")[1], ""),
        ]
    if "memory" in row:
        dense = rows[key.split(": ")[0] + ": dense"]
        line[6:] = [f"{r:.3f}" for r in np.divide(row["memory"], dense["memory"])]
    return line


def with_interval(triple, form):
    middle, low, high = map(form.format, triple)
    return f"{middle} [{low}, {high}]"


def covered(places):
    """What a run has measured, if that is not all."""
    return "" if len(places) == PLACES else f"; {' and '.join(places)} alone"


def markdown(report):
    rows = report["rows"]
    table = markdown_table(HEADER, [cells(*item, rows) for item in rows.items()])
    sources = "\n".join(
        f"- {half.capitalize()}: `{source['command']}`, {source['machine']['cpu']}, "
        f"{source['machine']['cores']} cores, load average "
        f"{source['load_before']:.1f} before{covered(source['places'])}."
        for half in HALVES
        for source in report.get(half, [])
    )
    return (
        "# Step time and memory, as a ratio to the dense step\n\n"
        f"Medians of interleaved rounds with batches of {BATCH}, and 95 % intervals. "
        "`extra ms`: how much longer than the dense one a step takes with batches of "
        f"{SMALL_BATCH}, where it can be told from noise; `ratio by extra ms`: what "
        "that adds to the dense step of a whole batch. Bars: search "
        f"{BARS['search']}, fine-tuning {BARS['fine-tuning']}, memory "
        f"{BARS['memory']}. Memory is the peak of the process, with the imported "
        "libraries and without, and with them once the first step, which compiles, is "
        f"over; freed arrays are given back at once.\n\n{sources}\n\n{table}"
    )


def show(rows):
    table = Table(title="Step time and memory, as a ratio to the dense step")
    for column in HEADER:
        table.add_column(column, justify="right" if column else "left")
    for item in rows.items():
        table.add_row(*map(str, cells(*item, rows)))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
