"""Timing exported files against each other."""

import dataclasses
import os
import pathlib
import time

import numpy as np
from rich.table import Table

from smart_tf.export import onnx, openvino
from smart_tf.export.runtime import Interpreter
from smart_tf.printing import render


@dataclasses.dataclass(frozen=True)
class LatencyRow:
    """The time that one run of a file takes.

    Attributes:
        path: The file.
        bytes: Its size, with that of the weights beside an OpenVINO model.
        median: The median over the rounds, in seconds.
        spread: The distance between the quartiles, in seconds.
        ratio: The median of time over the first file's time in the same round:
            0.5 is twice as fast.
    """

    path: str
    bytes: int
    median: float
    spread: float
    ratio: float

    @property
    def median_ms(self):
        """The median in milliseconds."""
        return self.median * 1e3


@dataclasses.dataclass(frozen=True)
class LatencyReport:
    """What `benchmark` measured; prints as a table."""

    rows: tuple
    threads: int
    rounds: int

    def to_dict(self):
        """The report as plain numbers, strings, lists and dicts."""
        return dataclasses.asdict(self) | {
            "rows": [dataclasses.asdict(row) for row in self.rows]
        }

    def table(self):
        """The rows as a `rich` table."""
        title = f"{self.rounds} interleaved rounds, {self.threads} thread(s)"
        table = Table(title=title)
        table.add_column("file", overflow="fold")
        for heading in ("bytes", "median", "spread", "time ratio", "speed-up"):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(
                row.path,
                f"{row.bytes:,}",
                f"{row.median_ms:.3f} ms",
                f"{row.spread * 1e3:.3f} ms",
                f"{row.ratio:.2f}",
                f"{1 / row.ratio:.2f}x",
            )
        return table

    def __str__(self):
        return render(self.table())


def benchmark(paths, threads=1, rounds=30, round_seconds=0.01):
    """Time exported files against each other on this machine's CPU.

    The files take turns, so that whatever else the machine does hits all of them.

    Args:
        paths: One path, or a list of them; ratios are to the first.  `.tflite` files
            run in LiteRT's interpreter, `.onnx` files in ONNX Runtime, `.xml` files in
            OpenVINO.
        threads: How many threads a runtime may use.
        rounds: How many turns every file gets.
        round_seconds: How long a turn lasts; short models run many times in it.

    Returns:
        A `LatencyReport`.
    """
    paths = paths if isinstance(paths, list | tuple) else [paths]
    for name, value in (("threads", threads), ("rounds", rounds)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"Argument `{name}` must be a positive integer. Received: {value!r}"
            )
    if not paths:
        raise ValueError("Argument `paths` must not be empty.")
    runs = [_prepare(path, threads) for path in paths]
    repeats = [_repeats(run, round_seconds) for run in runs]
    seconds = np.zeros((rounds, len(paths)))
    for turn in range(rounds):
        for offset in range(len(paths)):
            # Nobody is always the first, or always after the same one.
            i = (turn + offset) % len(paths)
            seconds[turn, i] = _time(runs[i], repeats[i])
    quartiles = np.percentile(seconds, [25, 75], axis=0)
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    rows = tuple(
        LatencyRow(
            path=os.fspath(path),
            bytes=_size(path),
            median=float(np.median(seconds[:, i])),
            spread=float(quartiles[1, i] - quartiles[0, i]),
            ratio=float(ratios[i]),
        )
        for i, path in enumerate(paths)
    )
    return LatencyReport(rows, threads, rounds)


def _prepare(path, threads):
    """A callable that runs a file once, on made-up inputs."""
    suffix = pathlib.Path(path).suffix
    if suffix not in _RUNTIMES or not os.path.isfile(path):
        raise ValueError(
            f"Argument `paths` must hold files in {', '.join(_RUNTIMES)}. "
            f"Received: {os.fspath(path)!r}"
        )
    return _RUNTIMES[suffix](path, threads)


def _prepare_tflite(path, threads):
    interpreter = Interpreter(path, threads)
    interpreter.fill_random()
    return interpreter.invoke


_RUNTIMES = {
    ".tflite": _prepare_tflite,
    ".onnx": onnx.prepare,
    ".xml": openvino.prepare,
}


def _size(path):
    """Bytes of a file, and of the weights that OpenVINO has beside it."""
    files = [pathlib.Path(path)]
    if files[0].suffix == ".xml":
        files.append(files[0].with_suffix(".bin"))
    return sum(file.stat().st_size for file in files)


def _repeats(run, round_seconds):
    """Warm up, and find how many runs fill a round."""
    _time(run, 3)
    return max(1, int(round_seconds / _time(run, 3)))


def _time(run, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats
