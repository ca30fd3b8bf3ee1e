"""What Vela found out about a model, and how it prints."""

import dataclasses

from rich.table import Table

from smart_tf.printing import render


@dataclasses.dataclass(frozen=True)
class LayerCycles:
    """One operator on the NPU.

    Attributes:
        name: The name of its output in the `.tflite` file.
        operator: TensorFlow Lite's name of the operator.
        cycles: Estimated cycles.
        macs: Multiplications that it stands for, zeros included.
    """

    name: str
    operator: str
    cycles: int
    macs: int


@dataclasses.dataclass(frozen=True)
class EthosUReport:
    """How a model runs on an Ethos-U, by Vela's estimates; prints as a table.

    Attributes:
        path: The compiled file.
        accelerator: For what it was compiled, such as `"ethos-u55-128"`.
        system_config: Clock, bandwidths and latencies that were assumed, by name.
        memory_mode: Where weights and activations were assumed to be, by name.
        cycles: Clock cycles of one inference.
        npu_cycles: Those of them in which the NPU computes, if it never waited.
        inferences_per_second: At the clock of the system configuration.
        sram_bytes: On-chip memory in use.
        dram_bytes: Off-chip memory in use.
        flash_bytes: Flash in use, on chip and off.
        original_weight_bytes: The weights as the `.tflite` file has them.
        encoded_weight_bytes: The weights as the NPU reads them: compressed, so that
            zeros cost next to nothing.
        macs: Multiplications of one inference, zeros included.
        cpu_operators: The operators that are left to the CPU, and not in the cycles.
        layers: A `LayerCycles` for each operator on the NPU.
        dense: The dense model's `EthosUReport`, if it was given.
    """

    path: str
    accelerator: str
    system_config: str
    memory_mode: str
    cycles: int
    npu_cycles: int
    inferences_per_second: float
    sram_bytes: int
    dram_bytes: int
    flash_bytes: int
    original_weight_bytes: int
    encoded_weight_bytes: int
    macs: int
    cpu_operators: tuple
    layers: tuple
    dense: "EthosUReport | None" = None

    @property
    def speed_up(self):
        """How many times faster than the dense model; `None` without one."""
        return None if self.dense is None else self.dense.cycles / self.cycles

    @property
    def weight_ratio(self):
        """Encoded bytes over those of the dense model; `None` without one, or where
        that has no weights on the NPU."""
        if self.dense is None or not self.dense.encoded_weight_bytes:
            return None
        return self.encoded_weight_bytes / self.dense.encoded_weight_bytes

    def beside(self, dense):
        """The same report, with the dense model's put beside it."""
        return dataclasses.replace(self, dense=dense)

    def to_dict(self):
        """The report as plain numbers, strings, lists and dicts."""
        return dataclasses.asdict(self) | {
            "cpu_operators": list(self.cpu_operators),
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "dense": self.dense and self.dense.to_dict(),
            "speed_up": self.speed_up,
            "weight_ratio": self.weight_ratio,
        }

    def table(self):
        """The figures as a `rich` table, beside the dense model's."""
        table = Table(title=f"{self.path}\n{self.accelerator}, {self.system_config}")
        table.add_column("")
        columns = [self] if self.dense is None else [self, self.dense]
        for heading in ("this model", "dense", "ratio")[: 2 * len(columns) - 1]:
            table.add_column(heading, justify="right")
        for title, key in _ROWS:
            values = [getattr(column, key) for column in columns]
            cells = [f"{value:,.0f}" for value in values]
            if len(values) == 2:
                cells.append(f"{values[0] / values[1]:.2f}" if values[1] else "")
            table.add_row(title, *cells)
        return table

    def summary(self):
        """What runs where, in one line."""
        left = ", ".join(self.cpu_operators) or "nothing"
        return f"{len(self.layers)} operators on the NPU; left to the CPU: {left}"

    def __str__(self):
        return render(self.table(), self.summary())


_ROWS = (
    ("cycles", "cycles"),
    ("inferences per second", "inferences_per_second"),
    ("SRAM, bytes", "sram_bytes"),
    ("DRAM, bytes", "dram_bytes"),
    ("flash, bytes", "flash_bytes"),
    ("weights, bytes", "original_weight_bytes"),
    ("weights encoded, bytes", "encoded_weight_bytes"),
    ("MACs", "macs"),
)
