"""What removing channels has bought: a network beside the one that it was cut from."""

import dataclasses
import math
import tempfile
from pathlib import Path

from rich.console import Group
from rich.table import Table

from smart_tf import export, flavours, plots, prunable
from smart_tf.channels import find_groups
from smart_tf.printing import render
from smart_tf.rewrite import parts


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two networks side by side: prints as tables.

    Attributes:
        names: Tuple of the two models' names.
        parameters: Tuple of integers.
        macs: Tuple of floats, multiply-accumulates for one example, or None where they
            cannot be counted.
        widths: Dict from the path of a kernel to the tuple of its output channels.
        files: Dict from `"float32"` or `"int8"` to a dict with `bytes`, `gzip_bytes`
            (tuples of integers) and `latency_ratio` (float: time of the second over
            the time of the first, LiteRT, one thread, interleaved).
    """

    names: tuple
    parameters: tuple
    macs: tuple | None
    widths: dict
    files: dict

    def to_dict(self):
        """Plain dict, ready for JSON."""
        return dataclasses.asdict(self)

    def plot(self, path=None):
        """Bars of the output channels of every kernel, before and after.

        Args:
            path: Where to write the picture, or None.

        Returns:
            `matplotlib.figure.Figure`.
        """
        return plots.channel_widths(self, path)

    def __rich__(self):
        return Group(self._totals(), self._widths())

    def _totals(self):
        table = Table(title=" beside ".join(self.names))
        for column in ("", "before", "after", "after / before"):
            table.add_column(column, justify="right" if column else "left")
        rows = {"parameters": self.parameters}
        if self.macs:
            rows["multiply-accumulates"] = self.macs
        for kind, file in self.files.items():
            rows[f"TFLite {kind}, bytes"] = file["bytes"]
            rows[f"TFLite {kind}, gzipped"] = file["gzip_bytes"]
        for name, (before, after) in rows.items():
            ratio = f"{after / before:.2f}" if before else ""
            table.add_row(name, f"{before:,.0f}", f"{after:,.0f}", ratio)
        for kind, file in self.files.items():
            ratio = f"{file['latency_ratio']:.2f}"
            table.add_row(f"TFLite {kind}, latency", "", "", ratio)
        return table

    def _widths(self):
        table = Table(title="output channels")
        for column in ("kernel", "before", "after"):
            table.add_column(column, justify="left" if column == "kernel" else "right")
        for name, (before, after) in self.widths.items():
            table.add_row(name, str(before), str(after))
        return table

    def __str__(self):
        return render(self.__rich__())


def compare(original, small, files=True, representative_data=None):
    """Sets a network beside a narrower one that `smart_tf.shrink` made of it.

    Args:
        original: Functional or Sequential model of Keras 3 or tf_keras.
        small: Model with the same layer names.
        files: Whether to convert both to TFLite, and to time them.
        representative_data: Data for int8 files; without it there are float32 files
            only. See `smart_tf.export.to_tflite`.

    Returns:
        `Comparison`.

    Raises:
        ValueError: If the two have different layers, or one has no graph of layers or
            has pruning wrappers.
    """
    models = (original, small)
    for name, model in zip(("original", "small"), models, strict=True):
        if flavours.wrappers(model):
            raise ValueError(
                f"Argument `{name}` must be without pruning wrappers: call "
                f"`smart_tf.strip_pruning` on it first. Received: {name}={model!r}"
            )
    before, after = (_widths(model) for model in models)
    if before.keys() != after.keys():
        raise ValueError(
            "Arguments `original` and `small` must have the same layers. Only one of "
            f"them has: {sorted(before.keys() ^ after.keys())}"
        )
    quantizations = {"float32": None}
    if representative_data is not None:
        quantizations["int8"] = "int8"
    return Comparison(
        names=tuple(model.name for model in models),
        parameters=tuple(model.count_params() for model in models),
        macs=_macs(models),
        widths={name: (before[name], after[name]) for name in before},
        files={
            kind: _files(models, quantize, representative_data)
            for kind, quantize in quantizations.items()
            if files
        },
    )


def _macs(models):
    groups = [find_groups(model) for model in models]
    try:
        return tuple(each.costs("macs").total() for each in groups)
    except ValueError:  # They cannot be counted.
        return None


def _widths(model):
    """Dict from the paths of kernels to how many output channels they make."""
    names, widths = [], []
    for layer in parts(model):
        for weight in prunable.kernels(layer):
            shape = weight.variable.shape
            widths.append(math.prod(shape[axis] for axis in weight.layout.outputs))
            owner, name = weight.owner.name, weight.variable.name.split("/")[-1]
            path = layer.name if owner == layer.name else f"{layer.name}/{owner}"
            names.append(f"{path}/{name.split(':')[0]}")
    return dict(zip(prunable.numbered(names), widths, strict=True))


def _files(models, quantize, data):
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.tflite" for index in range(len(models))]
        reports = [
            export.to_tflite(model, path, quantize=quantize, representative_data=data)
            for model, path in zip(models, paths, strict=True)
        ]
        latency = export.benchmark(paths)
    return {
        "bytes": tuple(report.bytes for report in reports),
        "gzip_bytes": tuple(report.gzip_bytes for report in reports),
        "latency_ratio": latency.rows[1].ratio,
    }
