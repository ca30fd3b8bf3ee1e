"""The main job, end to end: train, prune with SMART, strip, convert, run.

A small ResNet learns Fashion-MNIST, loses 90 % of its weights in 16x8 blocks, and
leaves as float and int8 TFLite files that are run through the LiteRT interpreter.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import smart_tf
from examples.datasets import load_fashion_mnist
from examples.networks import small_resnet
from examples.training import add_latency, fit, measure

console = Console()


def main():
    args = parse_arguments()
    started = time.time()
    keras.utils.set_random_seed(args.seed)
    data = load_fashion_mnist(limit=args.images)
    console.rule(f"[bold]{data.name}: {len(data.x_train):,} training images")

    model = small_resnet(data.x_train.shape[1:], data.classes)
    console.rule("[bold]1. Dense training")
    settings = {"rate": args.learning_rate, "batch_size": args.batch_size}
    fit(model, data, args.dense_epochs, **settings)
    dense = measure("dense", model, data, args.output)

    console.rule(f"[bold]2. SMART: {args.sparsity:.0%} in {args.structure} blocks")
    pruned = smart_tf.prune(model, sparsity=args.sparsity, structure=args.structure)
    callback = smart_tf.SmartPruningCallback(
        search_epochs=args.search_epochs, restart_learning_rate=True
    )
    fit(pruned, data, args.epochs, callbacks=[callback], **settings)
    report = smart_tf.report(pruned)
    console.print(report)

    console.rule("[bold]3. Strip and convert")
    final = smart_tf.strip_pruning(pruned)
    sparse = measure("pruned", final, data, args.output)
    add_latency({"dense": dense, "pruned": sparse}, args.output)

    report.plot(args.output / "sparsity_by_layer.png")
    write_results(args, data, report, dense, sparse, time.time() - started)
    console.print(comparison(dense, sparse, args))
    console.print(
        f"{time.time() - started:.0f} s. Files, results and picture: {args.output}/"
    )


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sparsity", type=float, default=0.9, help="fraction that goes"
    )
    parser.add_argument("--structure", default="16x8", help="blocks, e.g. 16x8 or 8x4")
    parser.add_argument("--images", type=int, default=30_000, help="training images")
    parser.add_argument("--dense-epochs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6, help="search and fine-tuning")
    parser.add_argument("--search-epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-2, help="peak rate")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=Path("build/quickstart"), help="folder"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    return args


ROWS = [
    ("test accuracy, Keras", "accuracy_keras", "{:.2%}"),
    ("test accuracy, TFLite float", "accuracy_float", "{:.2%}"),
    ("test accuracy, TFLite int8", "accuracy_int8", "{:.2%}"),
    ("weights in kernels", "weights_left", "{:,.0f}"),
    ("TFLite float, bytes", "bytes_float", "{:,.0f}"),
    ("TFLite float, bytes gzipped", "gzip_bytes_float", "{:,.0f}"),
    ("TFLite int8, bytes", "bytes_int8", "{:,.0f}"),
    ("TFLite int8, bytes gzipped", "gzip_bytes_int8", "{:,.0f}"),
    ("latency float, ms", "latency_ms_float", "{:.3f}"),
    ("latency int8, ms", "latency_ms_int8", "{:.3f}"),
]


def cells(dense, sparse):
    """One row for each measure: name, dense, pruned, and how they compare."""
    for title, key, form in ROWS:
        change = (
            f"{100 * (sparse[key] - dense[key]):+.2f} points"
            if key.startswith("accuracy")
            else f"x {sparse[key] / dense[key]:.2f}"
        )
        yield title, form.format(dense[key]), form.format(sparse[key]), change


def comparison(dense, sparse, args):
    table = Table(title=f"Dense beside {args.sparsity:.0%} in {args.structure} blocks")
    for column in ("", "dense", "pruned", "change"):
        table.add_column(column, justify="right" if column else "left")
    for row in cells(dense, sparse):
        table.add_row(*row)
    return table


def write_results(args, data, report, dense, sparse, seconds):
    settings = {k: v for k, v in vars(args).items() if k != "output"}
    results = {
        "command": " ".join(["python", "-m", "examples.quickstart", *sys.argv[1:]]),
        "data": data.name,
        "settings": settings,
        "versions": {
            "smart_tf": smart_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "seconds": round(seconds),
        "dense": dense,
        "pruned": sparse,
        "layers": report.to_dict(),
    }
    (args.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = ["| | dense | pruned | change |", "|---|---:|---:|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in cells(dense, sparse)]
    (args.output / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
