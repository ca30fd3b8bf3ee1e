"""Half of the multiplications, cut out: SMART channels, shrink, fine-tune, TFLite.

A ResNet and a MobileNetV2-like network learn Fashion-MNIST. SMART searches for the
channels that are worth their multiply-accumulates; the others are removed, and the
smaller network is trained on and exported.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from rich.console import Console
from rich.table import Table

import smart_tf
from examples import networks
from examples.datasets import load_fashion_mnist
from examples.training import add_latency, fit, measure

NETWORKS = {
    "small_resnet": {"widths": (32, 64, 128)},
    "small_mobilenet": {"widths": (24, 48, 96)},
}
console = Console()


def main():
    args = parse_arguments()
    data = load_fashion_mnist(limit=args.images)
    for name in args.networks:
        console.rule(f"[bold]{name} on {data.name}")
        keras.utils.set_random_seed(args.seed)
        model = dense_network(name, data, args.dense_epochs)
        small = slim(model, data, args.macs, args.search_epochs, args.fine_tune_epochs)
        rows = compare(model, small, data, args.output)
        write_results(args, name, rows)
        widths = smart_tf.compare(model, small, files=False)
        widths.plot(args.output / f"{name}.png")
        console.print(widths, comparison(name, rows))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS)
    )
    parser.add_argument("--macs", type=float, default=0.5, help="fraction that goes")
    parser.add_argument("--images", type=int, default=20_000, help="training images")
    parser.add_argument("--dense-epochs", type=int, default=4)
    parser.add_argument("--search-epochs", type=int, default=2)
    parser.add_argument("--fine-tune-epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("build/slim"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def dense_network(name, data, epochs):
    """One of the networks, trained.

    Args:
        name: Key of `NETWORKS`.
        data: `examples.datasets.Dataset`.
        epochs: Number of epochs.
    """
    build = getattr(networks, name)
    model = build(data.input_shape, data.classes, **NETWORKS[name])
    fit(model, data, epochs)
    return model


def slim(model, data, macs, search_epochs, fine_tune_epochs):
    """A narrower network out of a trained one, which is left as it is.

    Args:
        model: Trained Keras 3 model.
        data: `examples.datasets.Dataset`.
        macs: Float, the fraction of the multiply-accumulates that goes.
        search_epochs: Epochs of the search.
        fine_tune_epochs: Epochs that the smaller network is trained.

    Returns:
        Keras 3 model.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    pruned = smart_tf.prune(copy, sparsity=macs, structure="channel", budget="macs")
    callback = smart_tf.SmartPruningCallback(search_epochs=search_epochs)
    fit(pruned, data, search_epochs, callbacks=[callback])
    small = smart_tf.shrink(smart_tf.strip_pruning(pruned))
    fit(small, data, fine_tune_epochs)
    return small


def compare(model, small, data, folder):
    """Dict of what is measured of the dense and the slim network."""
    rows = {}
    for name, one in (("dense", model), ("slim", small)):
        rows[name] = measure(name, one, data, folder)
        rows[name]["macs"] = smart_tf.channels.find_groups(one).costs("macs").total()
    add_latency(rows, folder)
    return rows


ROWS = [
    ("test accuracy, Keras", "accuracy_keras", "{:.2%}"),
    ("test accuracy, TFLite int8", "accuracy_int8", "{:.2%}"),
    ("multiply-accumulates", "macs", "{:,.0f}"),
    ("parameters", "parameters", "{:,.0f}"),
    ("TFLite float, bytes", "bytes_float", "{:,.0f}"),
    ("TFLite int8, bytes", "bytes_int8", "{:,.0f}"),
    ("latency float, ms", "latency_ms_float", "{:.3f}"),
    ("latency int8, ms", "latency_ms_int8", "{:.3f}"),
]


def comparison(name, rows):
    table = Table(title=f"{name}: dense beside slim")
    for column in ("", "dense", "slim", "change"):
        table.add_column(column, justify="right" if column else "left")
    for title, key, form in ROWS:
        dense, small = rows["dense"][key], rows["slim"][key]
        change = (
            f"{100 * (small - dense):+.2f} points"
            if key.startswith("accuracy")
            else f"x {small / dense:.2f}"
        )
        table.add_row(title, form.format(dense), form.format(small), change)
    return table


def write_results(args, name, rows):
    settings = {k: v for k, v in vars(args).items() if k not in ("output", "networks")}
    command = ["python", "-m", "examples.slim_a_network", *sys.argv[1:]]
    results = {"command": " ".join(command), "settings": settings, **rows}
    (args.output / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
