"""What is in a model file: zeros, patterns and bytes per tensor."""

import dataclasses
import gzip
import io
import json
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
from smart_tf.search import SearchState

_DENSE = Layout(outputs=(-1,), inputs=(-2,))
_TRANSPOSED = Layout(outputs=(-2,), inputs=(-1,))
_DEPTHWISE = Layout(outputs=(-2, -1), inputs=())
_TO_HEADS = Layout(outputs=(-2, -1), inputs=(-3,))
_FROM_HEADS = Layout(outputs=(-1,), inputs=(-3, -2))

# Which of a Keras layer's numbered variables are kernels, and what their axes mean, by
# the end of its `_place`.  All else, such as a bias with two axes, has no layout.
_KERNELS = (
    (r"/(dense|embedding|conv\dd)", {"0": _DENSE}),
    (r"/conv\dd_transpose", {"0": _TRANSPOSED}),
    (r"/depthwise_conv\dd", {"0": _DEPTHWISE}),
    (r"/separable_conv\dd", {"0": _DEPTHWISE, "1": _DENSE}),
    (r"/(simple_rnn|gru|lstm|conv_lstm)_cell", {"0": _DENSE, "1": _DENSE}),
    # The others are attributes, whose classes the files of tf_keras do not tell.
    (r"/(simple_rnn|gru|lstm|conv_lstm\dd)(_\d+)?\.cell", {"0": _DENSE, "1": _DENSE}),
    (r"\.(forward|backward)_layer\.cell", {"0": _DENSE, "1": _DENSE}),
    (r"\._?(query|key|value)_dense", {"0": _TO_HEADS}),
    (r"\._?output_dense", {"0": _FROM_HEADS}),
)

# What Keras saves beside the weights of a model, or of one inside of it.
_STATE = {"optimizer", "metrics"}


@dataclasses.dataclass(frozen=True)
class InspectedTensor:
    """One tensor of a model file.

    Attributes:
        name: Its name in the file.
        shape: Its shape in the file.
        dtype: Its stored type, such as `"int8"`.
        zeros: How many of its numbers are exactly 0.
        patterns: Which patterns these form, out of `"16x8"`, `"1x4"`, `"2:4"` (along
            the inputs) and `"channel"`; empty where the axes are not known: in `.keras`
            files where the layer's class is not told, or does not tell what they mean.
        bytes: What it takes in the file.
        gzip_bytes: What that takes after gzip, which compresses the numbers; the row
            starts and column numbers of a sparse tensor are counted as they are.
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
        ValueError: If the file is of another kind, or is not there, or if its model
            still has pruning wrappers, or was quantized by Keras to other than int8.
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
    index_bytes = weight.index_bytes or 0
    size = len(weight.content) + index_bytes
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
        gzip_bytes=len(gzip.compress(weight.content)) + index_bytes,
        sparse_bytes=sparse,
    )


def _read_keras(path):
    """The weights in a `.keras` file, without building the model."""
    with zipfile.ZipFile(path) as archive:
        if not {"model.weights.h5", "config.json"} <= set(archive.namelist()):
            raise _unknown(path)
        content = archive.read("model.weights.h5")
        _refuse_packed(path, archive.read("config.json"))
    weights = []

    def visit(place, entry):
        *parents, index = place.split("/")
        if isinstance(entry, h5py.Group):
            _refuse_wrapper(path, entry)
        elif "vars" in parents and entry.size > 1 and _STATE.isdisjoint(parents):
            weights.append(_keras_weight(entry, index))

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(visit)
    return weights


def _refuse_packed(path, config):
    """Refuses what Keras quantized, except to int8: one number a weight, zeros at 0."""
    modes = set()

    def note(entry):
        if {"mode", "source_name"} <= set(entry):  # A dtype policy that quantizes.
            modes.add(entry["mode"])
        return entry

    json.loads(config, object_hook=note)
    if modes - {"int8"}:
        raise ValueError(
            "Argument `path` must be a .keras file whose weights are floats, or "
            f"quantized to int8. Received: path={str(path)!r}, quantized to "
            f"{', '.join(sorted(modes - {'int8'}))}, which packs the weights or stores "
            "other numbers among them. Inspect what was saved before `model.quantize`"
        )


def _refuse_wrapper(path, layer):
    """Refuses a pruning wrapper, whose masks and state would count as weights.

    It is known by its search state and its step, beside the layer that it wraps: its
    class is in the file only where it stands in a list.
    """
    if not {"layer", "vars"} <= set(layer):
        return
    variables = [v for v in layer["vars"].values() if isinstance(v, h5py.Dataset)]
    stored = {(variable.shape, variable.dtype.kind) for variable in variables}
    if {(SearchState.initial().shape, "f"), ((), "i")} <= stored:
        raise ValueError(
            "Argument `path` must be a file of a model without pruning wrappers: call "
            "`smart_tf.strip_pruning(model)`, and save what it returns. "
            f"Received: path={str(path)!r}, with a wrapper at {layer.name[1:]!r}"
        )


def _keras_weight(dataset, index):
    variables = dataset.parent
    name = variables.attrs.get("name", variables.parent.name.strip("/"))
    layout = _layouts(variables).get(index)
    if layout and dataset.ndim < max(-axis for axis in layout.outputs + layout.inputs):
        layout = None
    values = dataset[()]
    if dataset.attrs.get("dtype") == "bfloat16":  # HDF5 knows its size only.
        values = values.view(ml_dtypes.bfloat16)
    return WeightTensor.of_array(f"{name}/{index}", values, layout)


def _layouts(variables):
    """The layouts of a layer's kernels by number, as far as its class is known."""
    layer = variables.parent
    places = [_place(layer)]
    if _is_attribute(layer):
        # Keras 3 notes names, too, and makes them of the class if the user does not.
        places.append("/" + variables.attrs.get("name", ""))
    for pattern, layouts in _KERNELS:
        if any(re.search(rf"{pattern}(_\d+)?$", place) for place in places):
            return layouts
    return {}


def _place(layer):
    """Where a layer is in a file, such as `".layers/block.deconv"`.

    After `/` stands the class of an entry of a list; after `.` the name of an
    attribute, that says nothing about the class.
    """
    if layer.name == "/":
        return ""
    mark = "." if _is_attribute(layer) else "/"
    return _place(layer.parent) + mark + layer.name.rpartition("/")[2]


def _is_attribute(layer):
    return "vars" in layer.parent  # Lists have no variables of their own.


def _unknown(path):
    return ValueError(
        "Argument `path` must be a .tflite or a .keras file. "
        f"Received: path={str(path)!r}, which is neither"
    )
