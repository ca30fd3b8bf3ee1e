"""What an export reports, and how it prints."""

import dataclasses

from rich.table import Table

from smart_tf.printing import render


class ExportError(RuntimeError):
    """A model that did not survive its conversion; no file was left behind."""


@dataclasses.dataclass(frozen=True)
class TensorRow:
    """One weight tensor of an exported file.

    Attributes:
        name: The tensor's name in the file.
        shape: Its shape in the file.
        dtype: Its stored type.
        zero_fraction: The share of exact zeros.
        source: The pruned Keras weight whose zeros it keeps, or `""`.
        patterns: Which patterns these zeros form in the Keras weight's layout, out of
            `"16x8"`, `"1x4"`, `"2:4"` and `"channel"`.
    """

    name: str
    shape: tuple
    dtype: str
    zero_fraction: float
    source: str = ""
    patterns: tuple = ()


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What an export wrote; prints as a table.

    Attributes:
        path: The file, or for a SavedModel the folder.
        quantize: How it was quantized, or `None`.
        bytes: The size of the file, and of the files that belong to it.
        gzip_bytes: Its size after gzip, as an app store or firmware image ships it.
        tensors: A `TensorRow` per weight tensor.
        lost: The pruned Keras weights whose zeros are not in the file.
        max_difference: The largest absolute difference between an output of the
            file and of the Keras model.
        relative_difference: The largest one as a share of the largest value of the
            output that it is in.
        samples: On how many inputs they were compared.
        target: What kind of file it is, such as `"TFLite"` or `"ONNX"`.
        float_operators: Where it was to be int8, the operators that compute in floats
            all the same, since LiteRT has no others for them.
    """

    path: str
    quantize: str | None
    bytes: int
    gzip_bytes: int
    tensors: tuple
    lost: tuple
    max_difference: float
    relative_difference: float
    samples: int
    target: str
    float_operators: tuple = ()

    @property
    def zero_fraction(self):
        """The share of exact zeros among all the numbers in the table."""
        sizes = [_size(row.shape) for row in self.tensors]
        zeros = [
            size * row.zero_fraction
            for size, row in zip(sizes, self.tensors, strict=True)
        ]
        return sum(zeros) / max(sum(sizes), 1)

    @property
    def pattern_kept(self):
        """Whether every zero of the Keras model's kernels is a zero in the file."""
        return not self.lost

    def to_dict(self):
        """The report as plain numbers, strings, lists and dicts."""
        result = dataclasses.asdict(self)
        result["tensors"] = [
            {**row, "shape": list(row["shape"]), "patterns": list(row["patterns"])}
            for row in result["tensors"]
        ]
        result["lost"] = list(self.lost)
        result["float_operators"] = list(self.float_operators)
        result["zero_fraction"] = self.zero_fraction
        result["pattern_kept"] = self.pattern_kept
        return result

    def table(self):
        """The per-tensor rows as a `rich` table."""
        kind = f"{self.target}, {self.quantize or 'float32'}"
        table = Table(title=f"{self.path} ({kind})")
        table.add_column("tensor", overflow="ellipsis", no_wrap=True, max_width=40)
        table.add_column("shape", no_wrap=True)
        table.add_column("type")
        table.add_column("zeros", justify="right")
        table.add_column("patterns")
        for row in self.tensors:
            shape = "x".join(map(str, row.shape))
            name = row.source or row.name
            zeros, patterns = f"{row.zero_fraction:.1%}", " ".join(row.patterns)
            table.add_row(name, shape, row.dtype, zeros, patterns)
        return table

    def summary(self):
        """Sizes and differences, a line each."""
        kept = "all kept" if self.pattern_kept else f"LOST in {', '.join(self.lost)}"
        lines = [
            f"{self.bytes:,} bytes, {self.gzip_bytes:,} gzipped; "
            f"{self.zero_fraction:.1%} zeros",
            f"zeros of the pruned weights: {kept}",
        ]
        if self.samples:
            lines.insert(
                1,
                f"largest difference to the Keras model: {self.max_difference:.3g} "
                f"({self.relative_difference:.3g} of the largest output, "
                f"{self.samples} samples)",
            )
        if self.float_operators:
            lines.append(f"NOT int8: {', '.join(self.float_operators)}")
        return "\n".join(lines)

    def __str__(self):
        return render(self.table(), self.summary())


def _size(shape):
    size = 1
    for length in shape:
        size *= length
    return size
