"""What a quantized model costs on an FPGA: adders, as da4ml would wire them."""

import dataclasses

import numpy as np
from rich.table import Table

from smart_tf.export.optional import require
from smart_tf.export.report import ExportError
from smart_tf.export.tensors import read_weights
from smart_tf.printing import render


@dataclasses.dataclass(frozen=True)
class AdderRow:
    """One weight matrix, multiplied without multipliers.

    Attributes:
        name: The tensor's name in the file.
        shape: `(inputs, outputs)`; a convolution's kernel positions count as inputs.
        zeros: How many of its numbers are exactly 0.
        adders: da4ml's cost: full adders, roughly the look-up tables of an FPGA.
    """

    name: str
    shape: tuple
    zeros: int
    adders: float


@dataclasses.dataclass(frozen=True)
class AdderReport:
    """What `fpga_adders` found; prints as a table.

    Attributes:
        path: The file.
        rows: An `AdderRow` per matrix.
        left_out: Names of the tensors that were not reckoned, with the reason.
    """

    path: str
    rows: tuple
    left_out: dict

    @property
    def adders(self):
        """The adders of all matrices together."""
        return sum(row.adders for row in self.rows)

    def to_dict(self):
        """The report as plain numbers, strings, lists and dicts."""
        rows = [dataclasses.asdict(r) | {"shape": list(r.shape)} for r in self.rows]
        return dataclasses.asdict(self) | {"rows": rows, "adders": self.adders}

    def table(self):
        """The rows as a `rich` table."""
        table = Table(title=self.path)
        table.add_column("tensor", overflow="ellipsis", no_wrap=True, max_width=40)
        for heading in ("inputs x outputs", "zeros", "adders"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            share = row.zeros / np.prod(row.shape)
            shape = "x".join(map(str, row.shape))
            table.add_row(row.name, shape, f"{share:.1%}", f"{row.adders:,.0f}")
        return table

    def __str__(self):
        left_out = [f"left out: {name} ({why})" for name, why in self.left_out.items()]
        return render(self.table(), f"{self.adders:,.0f} adders", *left_out)


def fpga_adders(tflite_path, max_weights=4096):
    """Reckons the adders that the weights of an int8 model need on an FPGA.

    Needs the extra `fpga`.  In distributed arithmetic a matrix of constants is a tree
    of adders, and a zero is a branch that is not there.

    Args:
        tflite_path: An int8 `.tflite` file.
        max_weights: Larger matrices are left out: the search for common terms takes
            minutes from some ten thousand weights on.

    Returns:
        An `AdderReport`.

    Raises:
        ImportError: If the extra is not installed.
        ValueError: If the file has no int8 matrices, or is no `.tflite` file.
        ExportError: If da4ml's adders do not compute the matrix.
    """
    cmvm = require("da4ml.cmvm", "fpga")
    rows, left_out = [], {}
    for weight in read_weights(tflite_path):
        if weight.dtype != "int8" or weight.layout is None:
            continue
        if not weight.layout.inputs:
            left_out[weight.name] = "the kernel has no input axis"
        elif weight.zeros.size > max_weights:
            left_out[weight.name] = f"{weight.zeros.size:,} weights"
        else:
            rows.append(_reckon(cmvm, weight))
    if not rows and not left_out:
        raise ValueError(
            "Argument `tflite_path` must be a file with int8 weights: export it with "
            "`to_tflite(model, path, quantize='int8', representative_data=...)`. "
            f"Received: {str(tflite_path)!r}"
        )
    return AdderReport(str(tflite_path), tuple(rows), left_out)


def _reckon(cmvm, weight):
    # Outputs are the first axis of what has inputs in a .tflite file.
    outputs = weight.shape[0]
    numbers = np.frombuffer(weight.content, np.int8).reshape(outputs, -1)
    # da4ml reads a transposed view as if it were not transposed.
    matrix = np.ascontiguousarray(numbers.T, np.float32)
    circuit = cmvm.solve(matrix)
    if not np.array_equal(circuit.kernel, matrix):
        raise ExportError(f"da4ml's adders do not compute the matrix of {weight.name}")
    zeros = int(np.count_nonzero(weight.zeros))
    return AdderRow(weight.name, matrix.shape, zeros, float(circuit.cost))
