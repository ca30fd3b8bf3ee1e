"""What pays on which chip: structure, rounding, export route, and the gain to expect.

```python
target = smart_tf.targets.get("ethos-u85")
pruned = smart_tf.prune(model, sparsity=0.5, structure=target.structure)
...
print(target.export(smart_tf.strip_pruning(pruned), "model.tflite", x_train[:500]))
```
"""

import dataclasses
import pathlib

from smart_tf import structures
from smart_tf.export import compile_for_ethos_u, to_onnx, to_tflite
from smart_tf.export.staging import staged


@dataclasses.dataclass(frozen=True)
class Gain:
    """One measured gain.

    Attributes:
        measure: What gets smaller: `"cycles"`, `"encoded_weight_bytes"`, `"bytes"`,
            `"gzip_bytes"` or `"latency_ratio"`.
        pattern: The pruning that was measured, as the results name it: `"16x8 70%"`.
        route: The export that was measured, likewise.
        ratio: Of the pruned to the dense model; 0.5 is half.
    """

    measure: str
    pattern: str
    route: str
    ratio: float

    def __str__(self):
        name = self.measure.removesuffix("_ratio").replace("_", " ")
        return f"{self.pattern}: {name} x {self.ratio:.2f} ({self.route})"


@dataclasses.dataclass(frozen=True)
class Target:
    """Advice for one kind of chip; prints as a few lines.

    Attributes:
        name: What `get` finds it by.
        chip: What it is good for.
        structure: The `Structure` to prune in.
        round_to: Channels that stay should number a multiple of this; 1 where it does
            not matter.
        quantize: How to store the numbers, as in `to_tflite`; `None` for float32.
        accelerator: What Vela compiles for, or `None`.
        advice: What else to know.
        gains: `Gain`s, measured on a small trained network; empty where nothing could
            be measured.
        evidence: Where the gains come from.
    """

    name: str
    chip: str
    structure: structures.Structure
    round_to: int
    quantize: str | None
    accelerator: str | None
    advice: str
    gains: tuple
    evidence: str

    def export(self, model, path, representative_data=None):
        """Takes a model along the route of this target.

        Args:
            model: A Keras 3 or tf_keras model, stripped of pruning wrappers.
            path: The file to write; for an Ethos-U the compiled file goes beside it,
                with `_vela` added to its name.
            representative_data: As in `to_tflite`; needed where `quantize` is `"int8"`.

        Returns:
            An `ExportReport`, or for an Ethos-U an `EthosUReport`.

        Raises:
            ImportError: If the route needs an extra that is not installed.
            ValueError: If an argument is wrong, or nothing can be written at `path`.
            ExportError: If the model does not convert, or the file fails a check.
        """
        if self.name == "nvidia-2:4":
            return to_onnx(model, path, representative_data)
        if self.accelerator is None:
            return to_tflite(model, path, self.quantize, representative_data)
        with staged(path) as staging:  # Both files or none.
            to_tflite(model, staging, self.quantize, representative_data)
            report = compile_for_ethos_u(staging, self.accelerator)
        compiled = pathlib.Path(path).with_name(pathlib.Path(report.path).name)
        return dataclasses.replace(report, path=str(compiled))

    def __str__(self):
        rounding = f", channels in multiples of {self.round_to}"
        lines = [
            f"{self.name}: {self.chip}",
            f"  structure {self.structure}{rounding if self.round_to > 1 else ''}",
            f"  stored as {self.quantize or 'float32'}",
            f"  {self.advice}",
            *(f"  {gain}" for gain in self.gains),
            f"  evidence: {self.evidence}",
        ]
        return "\n".join(lines)


def get(name):
    """Finds the advice for a chip.

    Args:
        name: `"cpu-tflite"`, `"ethos-u55-128"`, `"ethos-u65"`, `"ethos-u85"`,
            `"nvidia-2:4"` or `"flash-size"`.

    Returns:
        A `Target`.

    Raises:
        ValueError: If there is none.
    """
    if name not in TARGETS:
        raise ValueError(
            f"Argument `name` must be one of {', '.join(TARGETS)}. "
            f"Received: name={name!r}"
        )
    return TARGETS[name]


_RESULTS = "benchmarks/results/export.md"
_ESTIMATED = f"estimated by Arm's Vela; {_RESULTS}"

_CPU = Target(
    name="cpu-tflite",
    chip="CPUs that run .tflite files",
    structure=structures.Channel(),
    round_to=8,
    quantize="int8",
    accelerator=None,
    advice="Only channels that are cut out make it faster (`smart_tf.shrink`); zeros "
    "that stay in the file are multiplied like other numbers.",
    gains=(
        Gain("latency_ratio", "channels 70% cut", "tflite int8", 0.629),
        Gain("latency_ratio", "channels 70% cut", "tflite float32", 0.534),
        Gain("bytes", "channels 70% cut", "tflite int8", 0.344),
    ),
    evidence=_RESULTS,
)
_U55 = Target(
    name="ethos-u55-128",
    chip="Arm Ethos-U55, 128 MACs a cycle",
    structure=structures.Block((16, 8)),
    round_to=16,
    quantize="int8",
    accelerator="ethos-u55-128",
    advice="Weights are stored compressed and fetched as such: zeros of any pattern "
    "save flash, and time where fetching takes longer than computing. MACs stay: "
    "channels that are cut out (`smart_tf.shrink`) save those as well.",
    gains=(
        Gain("cycles", "channels 70% cut", "ethos-u55-128", 0.422),
        Gain("cycles", "16x8 50%", "ethos-u55-128", 0.685),
        Gain("cycles", "16x8 70%", "ethos-u55-128", 0.498),
        Gain("encoded_weight_bytes", "16x8 70%", "ethos-u55-128", 0.411),
    ),
    evidence=_ESTIMATED,
)
_U65 = Target(
    name="ethos-u65",
    chip="Arm Ethos-U65, 512 MACs a cycle",
    structure=structures.Block((16, 8)),
    round_to=16,
    quantize="int8",
    accelerator="ethos-u65-512",
    advice="As for the Ethos-U55, from DRAM: what blocks gain is the fetching.",
    gains=(
        Gain("cycles", "16x8 50%", "ethos-u65-512", 0.711),
        Gain("cycles", "16x8 70%", "ethos-u65-512", 0.5952),
        Gain("encoded_weight_bytes", "16x8 70%", "ethos-u65-512", 0.411),
    ),
    evidence=_ESTIMATED,
)
_U85 = Target(
    name="ethos-u85",
    chip="Arm Ethos-U85, 512 MACs a cycle",
    structure=structures.NM(2, 4),
    round_to=16,
    quantize="int8",
    accelerator="ethos-u85-512",
    advice="The NPU skips the zeros of 2:4 along the inputs; those of other patterns "
    "save the fetching of weights only. Channels that are cut out (`smart_tf.shrink`) "
    "save about as much when as many weights go.",
    gains=(
        Gain("cycles", "2:4", "ethos-u85-512", 0.665),
        Gain("cycles", "channels 50% cut", "ethos-u85-512", 0.650),
        Gain("encoded_weight_bytes", "2:4", "ethos-u85-512", 0.607),
    ),
    evidence=_ESTIMATED,
)
_NVIDIA = Target(
    name="nvidia-2:4",
    chip="NVIDIA GPUs with sparse tensor cores",
    structure=structures.NM(2, 4),
    round_to=1,
    quantize=None,
    accelerator=None,
    advice="The ONNX file holds the pattern along the inputs, as sparse tensor cores "
    "want it; TensorRT makes use of it when it is built with sparse weights.",
    gains=(),
    evidence="not measured: NVIDIA states at most twice the arithmetic",
)
_FLASH = Target(
    name="flash-size",
    chip="anything that downloads or unpacks a compressed file",
    structure=structures.Unstructured(),
    round_to=1,
    quantize="int8",
    accelerator=None,
    advice="Compress the file: zeros in any pattern shrink. Single weights leave the "
    "search the most freedom; blocks of zeros compress best.",
    gains=(
        Gain("gzip_bytes", "unstructured 70%", "tflite int8", 0.531),
        Gain("gzip_bytes", "unstructured 90%", "tflite int8", 0.243),
        Gain("gzip_bytes", "16x8 70%", "tflite int8", 0.378),
    ),
    evidence=_RESULTS,
)

TARGETS = {t.name: t for t in (_CPU, _U55, _U65, _U85, _NVIDIA, _FLASH)}
"""All targets, by name."""
