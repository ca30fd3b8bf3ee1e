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
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import smart_tf
from examples.datasets import load_fashion_mnist
from examples.networks import small_resnet

console = Console()


def main():
    args = parse_arguments()
    started = time.time()
    keras.utils.set_random_seed(args.seed)
    data = load_fashion_mnist(limit=args.images)
    console.rule(f"[bold]{data.name}: {len(data.x_train):,} training images")

    model = small_resnet(data.x_train.shape[1:], data.classes)
    console.rule("[bold]1. Dense training")
    fit(model, data, args.dense_epochs, args)
    dense = measure("dense", model, data, args.output)

    console.rule(f"[bold]2. SMART: {args.sparsity:.0%} in {args.structure} blocks")
    pruned = smart_tf.prune(model, sparsity=args.sparsity, structure=args.structure)
    callback = smart_tf.SmartPruningCallback(search_epochs=args.search_epochs)
    fit(pruned, data, args.epochs, args, [callback])
    report = smart_tf.report(pruned)
    console.print(report)

    console.rule("[bold]3. Strip and convert")
    final = smart_tf.strip_pruning(pruned)
    sparse = measure("pruned", final, data, args.output)
    add_latency(dense, sparse, args.output)

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


def fit(model, data, epochs, args, callbacks=()):
    steps = -(-len(data.x_train) // args.batch_size) * epochs
    rate = keras.optimizers.schedules.CosineDecay(args.learning_rate, steps)
    model.compile(
        keras.optimizers.AdamW(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=args.batch_size,
        epochs=epochs,
        validation_data=(data.x_val, data.y_val),
        callbacks=list(callbacks),
    )


def measure(name, model, data, folder):
    """Test accuracy as a Keras model and as both files, and the files' sizes."""
    logits = model.predict(data.x_test, batch_size=500, verbose=0)
    kernels = smart_tf.report(model)
    row = {
        "parameters": kernels.parameters,
        "weights_left": sum(k.weights - k.zeros for k in kernels.kernels),
        "accuracy_keras": accuracy(logits, data.y_test),
    }
    for kind, quantize in (("float", None), ("int8", "int8")):
        path = folder / f"{name}_{kind}.tflite"
        export = smart_tf.export.to_tflite(
            model, path, quantize=quantize, representative_data=data.x_train[:200]
        )
        outputs = smart_tf.export.Interpreter(path).run(data.x_test)
        row[f"accuracy_{kind}"] = accuracy(outputs, data.y_test)
        row[f"bytes_{kind}"] = export.bytes
        row[f"gzip_bytes_{kind}"] = export.gzip_bytes
    return row


def accuracy(logits, labels):
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def add_latency(dense, sparse, folder):
    for kind in ("float", "int8"):
        paths = [folder / f"{name}_{kind}.tflite" for name in ("dense", "pruned")]
        latency = smart_tf.export.benchmark(paths)
        for row, measured in zip((dense, sparse), latency.rows, strict=True):
            row[f"latency_ms_{kind}"] = measured.median_ms


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
