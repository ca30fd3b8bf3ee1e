"""One run, and the file that has a line for each."""

import dataclasses
import json
import threading


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a run's outcome hangs on.

    Attributes:
        stage: `"tune"` or `"final"`; only the latter reads the test split.
        data: Dict, which images.
        network: Dict, which network.
        training: Dict, what all methods have in common.
        pruning: Dict: structure, sparsity and budget; None for the dense network.
        method: String, as the tables call it.
        base: String, what `smart_tf.prune` calls it, a rival, or `"dense"`.
        settings: Dict of the method's own.
        rate: Float, peak learning rate of the weights.
        seed: Integer.
    """

    stage: str
    data: dict
    network: dict
    training: dict
    pruning: dict | None
    method: str
    base: str
    settings: dict
    rate: float
    seed: int

    @property
    def key(self):
        """String that two runs share only if they are the same."""
        return _key(dataclasses.asdict(self))

    @property
    def steps(self):
        """The number of batches that it is trained on."""
        training = self.training
        return training["epochs"] * (self.data["images"] // training["batch_size"])

    def __str__(self):
        pruning = self.pruning or {}
        shown = [self.data["name"], self.network["name"], pruning.get("structure")]
        shown += [pruning.get("sparsity"), self.method, f"rate {self.rate:g}"]
        shown += [f"{k} {v}" for k, v in self.settings.items()]
        shown += [self.stage, f"seed {self.seed}"]
        return ", ".join(str(part) for part in shown if part is not None)


class Log:
    """The lines of a file, found by the run that they are about.

    A line that was cut short by a kill is dropped.

    Args:
        path: `pathlib.Path`; need not exist.
    """

    def __init__(self, path):
        self._path = path
        self._lines = {}
        self._lock = threading.Lock()
        if path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                with path.open("r+b") as file:
                    file.truncate(len(whole))
            for line in map(json.loads, whole.splitlines()):
                self._lines[_key(line)] = line

    def find(self, run):
        """The line of a run, or None."""
        return self._lines.get(run.key)

    def add(self, run, outcome):
        """Writes the line of a run down.

        Args:
            run: `Run`.
            outcome: Dict, what came out.

        Returns:
            Dict, the line.
        """
        line = {**dataclasses.asdict(run), **outcome}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._lines[run.key] = line
        return line

    def __iter__(self):
        return iter(self._lines.values())


def _key(line):
    fields = {field.name: line[field.name] for field in dataclasses.fields(Run)}
    return json.dumps(fields, sort_keys=True)


def resuming(log, train):
    """A function from a `Run` to its line, which trains only what has none.

    Args:
        log: `Log`.
        train: Function from a `Run` to a dict of what came out.
    """

    def execute(run):
        return log.find(run) or log.add(run, train(run))

    return execute
