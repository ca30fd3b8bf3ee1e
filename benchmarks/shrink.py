"""What removing channels buys: size, latency and accuracy at 30, 50 and 70 % off MACs.

    python -m benchmarks.shrink [--quick]

One JSON line for each network, fraction and seed; what has its line is not run again.
Fine-tuning goes on after the channels are gone, so that the slim network has trained
for longer than the dense one. To be fair, `dense_longer` is the dense network trained
on for the same number of epochs.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from rich.console import Console
from rich.table import Table

from benchmarks.record import (
    RESULTS,
    append_row,
    commit,
    markdown_table,
    provenance,
    read_rows,
    write,
)
from examples.datasets import load_fashion_mnist
from examples.slim_a_network import NETWORKS, compare, dense_network, slim
from examples.training import accuracy, fit

OUTPUT = RESULTS / "shrink.jsonl"
EPOCHS = {"dense": 4, "search": 2, "fine_tune": 4}
QUICK = {"dense": 1, "search": 1, "fine_tune": 1}
LATENCY_BAR, ACCURACY_BAR = 1 / 1.7, -0.005  # at half the MACs


def run(name, fraction, model, data, epochs, folder):
    """One row: the dense network beside the one with fewer MACs."""
    started = time.time()
    small = slim(model, data, fraction, epochs["search"], epochs["fine_tune"])
    rows = compare(model, small, data, folder)
    return {
        "network": name,
        "macs_removed": fraction,
        **rows,
        "seconds": round(time.time() - started),
    }


def train_on(model, data, epochs):
    """Test accuracy of the dense network when it gets the epochs of the slim one."""
    longer = keras.models.clone_model(model)
    longer.set_weights(model.get_weights())
    fit(longer, data, epochs["search"])
    fit(longer, data, epochs["fine_tune"])
    return accuracy(longer.predict(data.x_test, verbose=0), data.y_test)


def trained(name, data, epochs, seed, folder):
    """The dense network and the accuracy of training it on; made once."""
    path = folder / f"{name}_{seed}_{len(data.x_train)}_{epochs['dense']}.keras"
    note = path.with_suffix(".json")
    if not note.exists():
        keras.utils.set_random_seed(seed)
        model = dense_network(name, data, epochs["dense"])
        model.save(path)
        write(note, {"dense_longer": train_on(model, data, epochs)})
    return keras.models.load_model(path), json.loads(note.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--fractions", nargs="*", type=float, default=[0.5, 0.3, 0.7])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="one epoch of everything")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--build", type=Path, default=Path("build/shrink"))
    args = parser.parse_args()
    args.build.mkdir(parents=True, exist_ok=True)
    epochs = QUICK if args.quick else EPOCHS
    data = load_fashion_mnist(limit=args.images)
    rows = read_rows(args.output)
    done = {(row["network"], row["macs_removed"], row["seed"]) for row in rows}
    for seed in args.seeds:
        for name in args.networks:
            for fraction in args.fractions:
                if (name, fraction, seed) in done:
                    continue
                model, note = trained(name, data, epochs, seed, args.build)
                keras.utils.set_random_seed(seed)
                row = {
                    **run(name, fraction, model, data, epochs, args.build),
                    **note,
                    **provenance("benchmarks.shrink", seed),
                    "commit": commit(),
                    "data": data.name,
                    "images": len(data.x_train),
                    "epochs": epochs,
                }
                append_row(args.output, row)
                rows.append(row)
                show(rows)
    write(args.output.with_suffix(".md"), markdown(rows))
    show(rows)


HEADER = [
    "network, MACs removed",
    "accuracy, dense",
    "dense, trained on",
    "slim",
    "slim int8",
    "MACs",
    "bytes float",
    "bytes int8",
    "speed-up float",
    "speed-up int8",
]


def cells(row):
    dense, small = row["dense"], row["slim"]

    def ratio(key):
        return f"x {small[key] / dense[key]:.2f}"

    return [
        f"{row['network']}, {row['macs_removed']:.0%} (seed {row['seed']})",
        f"{dense['accuracy_keras']:.2%}",
        f"{row['dense_longer']:.2%}",
        f"{small['accuracy_keras']:.2%}",
        f"{small['accuracy_int8']:.2%}",
        *map(ratio, ("macs", "bytes_float", "bytes_int8")),
        f"{1 / small['latency_ratio_float']:.2f}",
        f"{1 / small['latency_ratio_int8']:.2f}",
    ]


def markdown(rows):
    last = rows[-1]
    commands = "`, `".join(sorted({row["command"] for row in rows}))
    images = " and ".join(f"{n:,}" for n in sorted({row["images"] for row in rows}))
    return (
        "# Channels removed: size, latency and accuracy\n\n"
        f"`{commands}` on {last['machine']['cpu']}, {last['machine']['cores']} "
        f"cores; {last['data']}, {images} training images; latency through "
        "LiteRT, one thread, interleaved. Bars at half the MACs: 1.7 times faster, "
        "accuracy within 0.5 points of dense.\n\n"
        + markdown_table(HEADER, [cells(row) for row in rows])
    )


def show(rows):
    table = Table(title="Channels removed")
    for column in HEADER:
        table.add_column(column, justify="left" if column == HEADER[0] else "right")
    for row in rows:
        table.add_row(*cells(row), style=None if passes(row) else "red")
    Console(width=150).print(table)


def passes(row):
    """Whether a row keeps the bars, which are set for half the MACs."""
    small, dense = row["slim"], row["dense"]
    ratios = [small[f"latency_ratio_{kind}"] for kind in ("float", "int8")]
    longer = max(dense["accuracy_keras"], row["dense_longer"])
    return row["macs_removed"] != 0.5 or (
        max(ratios) <= LATENCY_BAR and small["accuracy_keras"] - longer >= ACCURACY_BAR
    )


if __name__ == "__main__":
    main()
