"""Every pattern by every export route, on a small CNN that has been trained.

One JSON line per pattern and route; what has its line already is not measured again.
The trained models are kept in `build/export`.  Latencies are ratios to the dense
model's file, the two timed in turns on one thread; cycles are Vela's estimates.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import smart_tf
from benchmarks.record import (
    RESULTS,
    append_row,
    markdown_table,
    provenance,
    read_rows,
    write,
)
from examples.datasets import load_fashion_mnist
from examples.networks import small_resnet
from examples.training import fit
from smart_tf import export

WIDTHS = (32, 64, 128)
PATTERNS = {
    "dense": None,
    "unstructured 70%": {"structure": "unstructured", "sparsity": 0.7},
    "unstructured 90%": {"structure": "unstructured", "sparsity": 0.9},
    "1x4 70%": {"structure": "1x4", "sparsity": 0.7},
    "16x8 50%": {"structure": "16x8", "sparsity": 0.5},
    "16x8 70%": {"structure": "16x8", "sparsity": 0.7},
    "16x8 90%": {"structure": "16x8", "sparsity": 0.9},
    "2:4": {"structure": "2:4", "sparsity": 0.5},
    "channels 50%": {"structure": "channel", "sparsity": 0.5},
    "channels 70%": {"structure": "channel", "sparsity": 0.7},
    "odd channels 70%": {"structure": smart_tf.Channel(round_to=1), "sparsity": 0.7},
}
# The same models once more, without the channels that are zero.
CUT = [pattern for pattern in PATTERNS if "channels" in pattern]
PATTERNS |= {f"{pattern} cut": PATTERNS[pattern] for pattern in CUT}
TFLITE = {
    "tflite float32": {},
    "tflite float16": {"quantize": "float16"},
    "tflite dynamic": {"quantize": "dynamic"},
    "tflite int8": {"quantize": "int8"},
    "tflite sparse": {"sparse": True},
}
ETHOS_U = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-512")
ROUTES = (*TFLITE, "onnx", "openvino", *ETHOS_U)
START = "start"  # the model that all others begin with
SEED = 0
PACKAGES = ("ai-edge-litert", "ethos-u-vela", "onnxruntime", "openvino", "tf2onnx")
ROWS = RESULTS / "export.jsonl"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=15_000, help="training images")
    parser.add_argument("--epochs", type=int, default=2, help="dense; then pruning")
    parser.add_argument("--models", type=Path, default=Path("build/export"))
    parser.add_argument("--results", type=Path, default=ROWS)
    args = parser.parse_args()
    args.models.mkdir(parents=True, exist_ok=True)
    rows = read(args.results)
    missing = [p for p in PATTERNS if any((p, route) not in rows for route in ROUTES)]
    if missing:
        data = load_fashion_mnist(limit=args.images)
        origin = provenance("benchmarks.export", SEED, PACKAGES)
        append_row(args.results, {"provenance": origin | {"data": data.name}})
    models = {pattern: trained(pattern, args, data) for pattern in missing}
    for pattern, model in models.items():
        accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)[1]
        for route in ROUTES:
            if (pattern, route) not in rows:
                row = {"pattern": pattern, "route": route, "accuracy": accuracy}
                row |= measure(model, pattern, route, args.models, data.x_train[:200])
                append_row(args.results, row)
                rows[pattern, route] = row
                print(row, flush=True)
    write(args.results.with_suffix(".md"), tables(rows))


def read(path):
    """The measured rows by pattern and route."""
    rows = [row for row in read_rows(path) if "route" in row]
    return {(row["pattern"], row["route"]): row for row in rows}


def trained(pattern, args, data):
    """The plain model with a pattern, from its file or trained now.

    All of them, the dense one included, start from one model and get the same epochs.
    """
    path = args.models / f"{pattern.replace(':', 'of')}.keras"
    if not path.exists():
        keras.utils.set_random_seed(SEED)
        make(pattern, args, data).save(path)
    model = keras.models.load_model(path)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model


def make(pattern, args, data):
    if pattern == START:
        model = small_resnet(data.input_shape, data.classes, WIDTHS)
        fit(model, data, args.epochs)
        return model
    if pattern.endswith(" cut"):
        return smart_tf.shrink(trained(pattern.removesuffix(" cut"), args, data))
    model = trained(START, args, data)
    if PATTERNS[pattern] is None:
        fit(model, data, args.epochs)
        return model
    pruned = smart_tf.prune(model, **PATTERNS[pattern])
    callback = smart_tf.SmartPruningCallback(search_epochs=args.epochs / 2)
    fit(pruned, data, args.epochs, callbacks=[callback])
    return smart_tf.strip_pruning(pruned)


def measure(model, pattern, route, folder, x):
    """Export along one route; what came out, beside the dense model's file."""
    suffix = {"onnx": ".onnx", "openvino": ".xml"}.get(route, ".tflite")

    def place(name):
        return folder / f"{name} {route}{suffix}".replace(" ", "_").replace(":", "of")

    if route in ETHOS_U:
        path = folder / f"{pattern}_tflite_int8.tflite".replace(" ", "_")
        report = export.compile_for_ethos_u(
            Path(str(path).replace(":", "of")), route, output_path=place(pattern)
        )
        kept = ("cycles", "encoded_weight_bytes", "sram_bytes", "flash_bytes")
        return {key: getattr(report, key) for key in kept}
    if route == "onnx":
        report = export.to_onnx(model, place(pattern), x)
    elif route == "openvino":
        report = export.to_openvino(model, place(pattern), representative_data=x)
    else:
        report = export.to_tflite(
            model, place(pattern), representative_data=x, **TFLITE[route]
        )
    # Short turns, so that whatever else runs here hits few of them; and three times,
    # since it may hit all of one.
    files = [place("dense"), place(pattern)]
    timed = [export.benchmark(files, rounds=99, round_seconds=0.002) for _ in range(3)]
    latency = sorted((report.rows[1] for report in timed), key=lambda r: r.ratio)[1]
    return {
        "bytes": report.bytes,
        "gzip_bytes": report.gzip_bytes,
        "zero_fraction": report.zero_fraction,
        "relative_difference": report.relative_difference,
        "latency_ms": latency.median_ms,
        "latency_ratio": latency.ratio,
    }


def ratio(rows, pattern, route, key):
    """A figure over the dense model's (latencies are ratios as they were measured)."""
    value = rows[pattern, route][key]
    return value if key == "latency_ratio" else value / rows["dense", route][key]


TABLES = (
    ("Size of the file", "bytes", (*TFLITE, "onnx", "openvino")),
    ("Size of the file after gzip", "gzip_bytes", (*TFLITE, "onnx", "openvino")),
    ("Time on this CPU", "latency_ratio", (*TFLITE, "onnx", "openvino")),
    ("Cycles on an Ethos-U", "cycles", ETHOS_U),
    ("Encoded weights on an Ethos-U", "encoded_weight_bytes", ETHOS_U),
)


def tables(rows):
    """All tables of `export.md`: ratios to the dense model's file of the same route."""
    dense = [f"{rows['dense', route]['bytes']:,} ({route})" for route in TFLITE]
    text = (
        "# Every pattern by every export route\n\n"
        "Written by `python -m benchmarks.export`; where it was run, and with which "
        "versions, is in [export.jsonl](export.jsonl). All figures are ratios to the "
        'dense model\'s file of the same route: 0.50 is half. "channels" are zeros '
        'that stay in the file, "cut" is the same model after `smart_tf.shrink`; "odd" '
        "ones are not rounded to multiples of 8. All models, the dense one included, "
        "were trained for as long from one start. On a busy machine expect latencies "
        f"to be off by a tenth.\n\nBytes of the dense files: {', '.join(dense)}.\n"
    )
    accuracies = [(p, f"{rows[p, ROUTES[0]]['accuracy']:.1%}") for p in PATTERNS]
    text += "\n## Test accuracy, Keras\n\n"
    text += markdown_table(["pattern", "accuracy"], accuracies)
    for title, key, routes in TABLES:
        lines = [
            [p, *(f"{ratio(rows, p, r, key):.2f}" for r in routes)] for p in PATTERNS
        ]
        text += f"\n## {title}\n\n" + markdown_table(["pattern", *routes], lines)
    return text


if __name__ == "__main__":
    main()
