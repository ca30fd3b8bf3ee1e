"""What a training step costs more when a model is pruned, as a ratio to the dense step.

Every variant trains the same network on the same batch. They take turns in one
process, and the ratio of each round is to the dense step of the same round and
flavour. Memory is the peak of a process of its own, as it is, over what the process
held before the model was made, and once the first step, which compiles, is over: the
median of several processes.
"""

import argparse
import ctypes
import importlib
import json
import os
import pathlib
import re
import statistics
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
BATCH = 128
SPARSITY = 0.7
BARS = {"search": 1.05, "fine-tuning": 1.01, "memory": 1.05}
NETWORKS = {"resnet20": (32, 32, 3), "small_vit": (32, 32, 3)}
STRUCTURES = {"resnet20": "16x8", "small_vit": "16x8"}
FLAVOURS = {
    "keras": ("dense", "search", "fine-tuning"),
    "keras XLA": ("dense", "search", "fine-tuning"),
    "tf_keras": (
        "dense",
        "search",
        "fine-tuning",
        "tfmot, frequency 1",
        "tfmot, frequency 100",
    ),
}


def stepper(network, flavour, variant):
    """A function that takes one training step of one variant.

    Args:
        network: Key of `NETWORKS`.
        flavour: Key of `FLAVOURS`.
        variant: One of the flavour's variants.

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
    iterator = iter(batches(network))
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


def batches(network):
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(BATCH, *NETWORKS[network])).astype("float32")
    y = rng.integers(0, 10, BATCH)
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


def time_steps(network, flavour, rounds, steps):
    """Milliseconds per step of every variant, one list of rounds each."""
    variants = FLAVOURS[flavour]
    step = {variant: stepper(network, flavour, variant) for variant in variants}
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
    return times


def peak_memory(network, flavour, variant):
    """Bytes that a process of its own holds at its peak, before the model is made, and
    in the steps that follow the first."""
    command = [sys.executable, "-m", "benchmarks.step_overhead", "--memory"]
    command += [network, flavour, variant]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
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


def rows(network, flavour, args):
    times = time_steps(network, flavour, args.rounds, args.steps)
    for variant, rounds in times.items():
        ratios = [a / b for a, b in zip(rounds, times["dense"], strict=True)]
        yield {
            "network": network,
            "flavour": flavour,
            "variant": variant,
            "milliseconds": statistics.median(rounds),
            "ratio": statistics.median(ratios),
            "ratio_of_fastest": min(rounds) / min(times["dense"]),
            "ratio_quartiles": list(np.percentile(ratios, [25, 75])),
            "bar": BARS.get(variant),
        }


def add_memory(measured, networks, flavours, repeats):
    """Adds the median peaks of memory to rows that have their times.

    They are those of the process, what it has beyond the imported libraries, and those
    of the process after its first step.
    """
    dense = {}
    for row in measured:
        place = row["network"], row["flavour"]
        if place[0] in networks and place[1] in flavours:
            samples = [peak_memory(*place, row["variant"]) for _ in range(repeats)]
            row["memory_samples"] = samples
            peaks = [
                statistics.median(peak for peak, _, _ in samples),
                statistics.median(peak - before for peak, before, _ in samples),
                statistics.median(later for _, _, later in samples),
            ]
            if row["variant"] == "dense":
                dense[place] = peaks
            row["memory_ratios"] = list(np.divide(peaks, dense[place]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--steps", type=int, default=1, help="steps in a round")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--flavours", nargs="*", default=list(FLAVOURS))
    parser.add_argument(
        "--memory-repeats", type=int, default=3, help="processes; 0 leaves memory out"
    )
    parser.add_argument(
        "--only-memory", action="store_true", help="add memory to earlier results"
    )
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        measure_memory(*args.memory)
        return
    if args.only_memory:
        report = json.loads((RESULTS / "step_overhead.json").read_text())
        everything = (args.networks, args.flavours) == (list(NETWORKS), list(FLAVOURS))
        earlier = [] if everything else report.get("memory_command", [])
        command = provenance("benchmarks.step_overhead", SEED)["command"]
        report["memory_command"] = [*earlier, command]
    else:
        report = measure_times(args)
    report["memory_repeats"] = args.memory_repeats
    if args.memory_repeats:
        add_memory(report["rows"], args.networks, args.flavours, args.memory_repeats)
    write(RESULTS / "step_overhead.json", report)
    write(RESULTS / "step_overhead.md", markdown(report))
    show(report["rows"])


def measure_times(args):
    report = {
        **provenance("benchmarks.step_overhead", SEED),
        "commit": commit(),
        "load_before": os.getloadavg()[0],
        "batch": BATCH,
        "rounds": args.rounds,
        "rows": [],
    }
    for network in args.networks:
        for flavour in args.flavours:
            report["rows"] += rows(network, flavour, args)
            write(RESULTS / "step_overhead.json", report)
            show(report["rows"])
    return report


def cells(row):
    quartiles = "-".join(f"{q:.3f}" for q in row["ratio_quartiles"])
    memory = [f"{ratio:.3f}" for ratio in row.get("memory_ratios", ())]
    return [
        f"{row['network']}, {row['flavour']}: {row['variant']}",
        f"{row['milliseconds']:.1f}",
        f"{row['ratio']:.3f} ({quartiles})",
        f"{row['ratio_of_fastest']:.3f}",
        row["bar"] or "",
        *(memory or ["", "", ""]),
    ]


HEADER = [
    *("", "ms", "ratio (quartiles)", "of fastest", "bar"),
    *("memory", "without imports", "in later steps"),
]


def markdown(report):
    table = markdown_table(HEADER, [cells(row) for row in report["rows"]])
    where = f"{report['machine']['cpu']}, {report['machine']['cores']} cores"
    commands = [report["command"], *report.get("memory_command", [])]
    commands = [f"`{command}`" for command in commands]
    repeats = report["memory_repeats"]
    processes = f"median of {repeats} processes" if repeats > 1 else "one process each"
    return (
        "# Step time and memory, as a ratio to the dense step\n\n"
        f"{', '.join(commands)} on {where}; load average {report['load_before']:.1f} "
        f"before; medians of {report['rounds']} interleaved rounds. Bars: search "
        f"{BARS['search']}, fine-tuning {BARS['fine-tuning']}, memory "
        f"{BARS['memory']}. Memory is the peak of the process, with the imported "
        "libraries and without, and with them once the first step, which compiles, is "
        f"over; {processes}.\n\n"
        f"{table}"
    )


def show(measured):
    table = Table(title="Step time and memory, as a ratio to the dense step")
    for column in HEADER:
        table.add_column(column, justify="right" if column else "left")
    for row in measured:
        table.add_row(*map(str, cells(row)))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
