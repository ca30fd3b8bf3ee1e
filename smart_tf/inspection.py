"""What is in a model file: zeros, patterns and bytes per tensor."""

import dataclasses
import gzip
import io
import os
import re
import zipfile

import h5py
import ml_dtypes
import numpy as np
from rich.table import Table

from smart_tf.export.patterns import held_patterns
from smart_tf.export.sparse_format import encoded_bytes
from smart_tf.export.tensors import WeightTensor, read_weights
from smart_tf.layouts import Layout
from smart_tf.printing import render

# What the axes of a Keras kernel mean, by the path of its layer in the file: that is
# made of class names, not of the user's names.  The last rule is for all others.
_KERAS_LAYOUTS = (
    (r"depthwise_conv\dd", Layout(outputs=(-2, -1), inputs=())),
    (r"conv\dd_transpose", Layout(outputs=(-2,), inputs=(-1,))),
    (r"attention.*/(query|key|value)_dense", Layout(outputs=(-2, -1), inputs=(-3,))),
    (r"attention.*/output_dense", Layout(outputs=(-1,), inputs=(-3, -2))),
    (r"", Layout(outputs=(-1,), inputs=(-2,))),
)


@dataclasses.dataclass(frozen=True)
class InspectedTensor:
    """One tensor of a model file.

    Attributes:
        name: Its name in the file.
        shape: Its shape in the file.
        dtype: Its stored type, such as `"int8"`.
        zeros: How many of its numbers are exactly 0.
        patterns: Which patterns these form, out of `"16x8"`, `"1x4"`, `"2:4"` (along
            the inputs) and `"channel"`; empty where the axes are not known.
        bytes: What it takes in the file.
        gzip_bytes: What that takes after gzip.
        sparse_bytes: What it takes, or would take, in a format that leaves out blocks
            of zeros (see `smart_tf.export.sparse_format.encoded_bytes`); `None` where
            it has no inputs and outputs.
    """

    name: str
    shape: tuple
    dtype: str
    zeros: int
    patterns: tuple
    bytes: int
    gzip_bytes: int
    sparse_bytes: int | None

    @property
    def size(self):
        """How many numbers it holds."""
        return int(np.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What `inspect_file` found; prints as a table.

    Attributes:
        path: The file.
        bytes: Its size.
        gzip_bytes: Its size after gzip.
        tensors: A list of `InspectedTensor`.
    """

    path: str
    bytes: int
    gzip_bytes: int
    tensors: list

    @property
    def zero_fraction(self):
        """The share of exact zeros among all the numbers in the table."""
        size = sum(tensor.size for tensor in self.tensors)
        return sum(tensor.zeros for tensor in self.tensors) / max(size, 1)

    def to_dict(self):
        """The report as plain numbers, strings, lists and dicts."""
        return dataclasses.asdict(self) | {
            "tensors": [
                dataclasses.asdict(tensor)
                | {"shape": list(tensor.shape), "patterns": list(tensor.patterns)}
                for tensor in self.tensors
            ],
            "zero_fraction": self.zero_fraction,
        }

    def table(self):
        """The tensors as a `rich` table."""
        table = Table(title=self.path)
        table.add_column("tensor", overflow="ellipsis", no_wrap=True, max_width=32)
        table.add_column("shape", no_wrap=True)
        table.add_column("type")
        table.add_column("zeros", justify="right")
        table.add_column("patterns")
        for heading in ("bytes", "gzipped", "sparse"):
            table.add_column(heading, justify="right")
        for tensor in self.tensors:
            sparse = tensor.sparse_bytes
            table.add_row(
                tensor.name,
                "x".join(map(str, tensor.shape)),
                tensor.dtype,
                f"{tensor.zeros / tensor.size:.1%}",
                " ".join(tensor.patterns),
                f"{tensor.bytes:,}",
                f"{tensor.gzip_bytes:,}",
                "" if sparse is None else f"{sparse:,}",
            )
        return table

    def __str__(self):
        summary = (
            f"{self.bytes:,} bytes, {self.gzip_bytes:,} gzipped; "
            f"{self.zero_fraction:.1%} zeros"
        )
        return render(self.table(), summary, width=120)


def inspect_file(path):
    """Reports the zeros in a model file, whichever tool made it.

    Args:
        path: A `.tflite` file, or a `.keras` file of Keras 3 or tf_keras. It is not
            run, and needs no custom classes.

    Returns:
        `FileReport`.

    Raises:
        ValueError: If the file is of another kind, or is not there.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"Argument `path` must be a file. Received: path={str(path)!r}"
        )
    with open(path, "rb") as file:
        content = file.read()
    if content[4:8] == b"TFL3":
        weights = read_weights(path)
    elif zipfile.is_zipfile(path):
        weights = _read_keras(path)
    else:
        raise _unknown(path)
    return FileReport(
        path=str(path),
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content)),
        tensors=[_inspect(weight) for weight in weights],
    )


def _inspect(weight):
    rounded = weight.dtype.startswith(("int", "uint"))
    known = weight.layout is not None
    size = len(weight.content) + (weight.index_bytes or 0)
    sparse = None
    if weight.index_bytes is not None:
        sparse = size
    elif known and weight.layout.inputs:
        item_bytes = len(weight.content) / weight.zeros.size
        sparse = encoded_bytes(weight.zeros, weight.layout, item_bytes)
    return InspectedTensor(
        name=weight.name,
        shape=tuple(weight.shape),
        dtype=weight.dtype,
        zeros=int(np.count_nonzero(weight.zeros)),
        patterns=held_patterns(weight.zeros, weight.layout, rounded) if known else (),
        bytes=size,
        gzip_bytes=len(gzip.compress(weight.content)),
        sparse_bytes=sparse,
    )


def _read_keras(path):
    """The weights in a `.keras` file, without building the model."""
    with zipfile.ZipFile(path) as archive:
        if "model.weights.h5" not in archive.namelist():
            raise _unknown(path)
        content = archive.read("model.weights.h5")
    weights = []

    def visit(place, dataset):
        model_weight = isinstance(dataset, h5py.Dataset) and "/vars/" in f"/{place}"
        if model_weight and dataset.size > 1 and not place.startswith("optimizer"):
            weights.append(_keras_weight(place, dataset))

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(visit)
    return weights


def _keras_weight(place, dataset):
    layer, _, index = place.rpartition("/vars/")
    name = dataset.parent.attrs.get("name", layer)
    layout = None
    if dataset.ndim > 1:
        layout = next(k for pattern, k in _KERAS_LAYOUTS if re.search(pattern, layer))
        wanted = max(-axis for axis in layout.outputs + layout.inputs)
        layout = layout if dataset.ndim >= wanted else _KERAS_LAYOUTS[-1][1]
    values = dataset[()]
    if dataset.attrs.get("dtype") == "bfloat16":  # HDF5 knows its size only.
        values = values.view(ml_dtypes.bfloat16)
    return WeightTensor.of_array(f"{name}/{index}", values, layout)


def _unknown(path):
    return ValueError(
        "Argument `path` must be a .tflite or a .keras file. "
        f"Received: path={str(path)!r}, which is neither"
    )
