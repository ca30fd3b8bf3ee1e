"""Two folders of files: what a rival is to do, and what it did.

Only numpy is needed here, since the programs of the rivals run with other packages.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

PROBED = 64
"""On how many training images both sides compare the logits of their networks."""


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a rival is told.

    Attributes:
        make: String, the function in `examples.networks`.
        options: Dict of its further arguments.
        input_shape: Shape of one image.
        classes: Integer.
        pruning: Dict: structure, sparsity and budget.
        settings: Dict of the method's own.
        rate: Float, peak learning rate of the weights.
        seed: Integer.
        epochs: Integer.
        search_steps: Integer, how many of the batches are for the search.
        weights: Dict from the paths of Keras 3 variables to float32 arrays.
        x: Training images, float32 `(count, height, width, channels)`.
        y: Their labels, integers `(count,)`.
        order: Integers `(batches, size)`, the images of each batch.
    """

    make: str
    options: dict
    input_shape: list
    classes: int
    pruning: dict
    settings: dict
    rate: float
    seed: int
    epochs: int
    search_steps: int
    weights: dict
    x: np.ndarray
    y: np.ndarray
    order: np.ndarray

    def build(self, networks):
        """The untrained network.

        Args:
            networks: The module `examples.networks`, in the rival's flavour of Keras.
        """
        return getattr(networks, self.make)(
            tuple(self.input_shape), self.classes, **self.options
        )

    @property
    def probe(self):
        """The images for which `Outcome` has logits."""
        return self.x[:PROBED]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a rival hands back.

    Attributes:
        weights: Dict of arrays, with the names and shapes of `Job.weights`.
        before: Logits of `Job.probe` before the training, float32 `(count, classes)`.
        after: The same afterwards, of the network without any masks.
        versions: Dict from the names of packages to their versions.
    """

    weights: dict
    before: np.ndarray
    after: np.ndarray
    versions: dict


def write(folder, content):
    """Writes a `Job` or an `Outcome`.

    Args:
        folder: `pathlib.Path`, made if need be.
        content: The object.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = {f.name: getattr(content, f.name) for f in dataclasses.fields(content)}
    arrays = {k: fields.pop(k) for k, v in [*fields.items()] if _is_array(v)}
    np.savez(folder / "weights.npz", **fields.pop("weights"))
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "fields.json").write_text(json.dumps(fields))


def read(folder, kind):
    """Reads what `write` wrote.

    Args:
        folder: `pathlib.Path`.
        kind: `Job` or `Outcome`.
    """
    fields = json.loads((folder / "fields.json").read_text())
    with np.load(folder / "arrays.npz") as arrays:
        fields |= arrays
    with np.load(folder / "weights.npz") as weights:
        return kind(weights=dict(weights), **fields)


def serve(train):
    """The `main` of a rival's program: reads the job, does it, writes the outcome.

    The command line names the folder of the job and the one of the outcome.

    Args:
        train: Function from a `Job` to an `Outcome`.
    """
    job, outcome = map(Path, sys.argv[1:])
    write(outcome, train(read(job, Job)))


def _is_array(value):
    return isinstance(value, np.ndarray)
