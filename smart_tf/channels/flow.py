"""How the channels of a model depend on each other, gathered call by call."""

import collections
import dataclasses
from typing import Any

import numpy as np

STAYS = 0
"""Id of the channel that is never removed; whatever joins it stays as well."""


@dataclasses.dataclass(eq=False)
class Maker:
    """Weights that make channels: with their slices at zero, the channels are zero.

    Attributes:
        layer: The layer.
        weights: List of `(variable, axis, ids)`: the slices along the axis are the
            channels `ids`.
        is_norm: Whether it scales and shifts what another one made.
        is_normalised: Whether all that reads it normalises: a factor in front of a
            `BatchNormalization` is cancelled by it, so a search cannot feel it there.
        is_live: Whether its zeros are read as zeros somewhere. Those of a gate
            come out of its sigmoid as something else.
        rounds: Whether a round number of channels runs faster. Heads are few.
    """

    layer: Any
    weights: list
    is_norm: bool = False
    is_normalised: bool | None = None
    is_live: bool = False
    rounds: bool = True


@dataclasses.dataclass(eq=False)
class Axis:
    """An axis of a variable that gets narrower with the channels along it."""

    layer: Any
    variable: Any
    axis: int
    ids: np.ndarray


@dataclasses.dataclass(eq=False)
class Product:
    """Multiplications of one call: `repeats` for each entry of a variable.

    Attributes:
        variable: The variable, or None for products of channels with each other.
        repeats: Integer, or None where a size of the input is unknown.
        ids: Channels that are multiplied where there is no variable, else None.
    """

    variable: Any
    repeats: int | None
    ids: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class Fold:
    """Constants that removed inputs had added, and the bias that takes their place."""

    bias: Any
    ids: np.ndarray
    terms: np.ndarray


class Flow:
    """What rules say about the calls of a model, and what follows from it.

    A rule (see `smart_tf.channels.register_rule`) describes one call with the
    methods of this class: `new` channels that a layer `makes`, channels that it
    `reads` or `carries` with a weight, `join`s or `close`s.

    Args:
        zeroed: Optional dict from `id(variable)` to the value that shall be assumed
            for it.
    """

    def __init__(self, zeroed=None):
        self._zeroed = zeroed or {}
        self.axes = {}
        self.makers = []
        self.products = []
        self.folds = []
        self.resized = {}
        self.reasons = {}
        self.inputs = {}
        self._parent = [STAYS]
        self._needed = []
        self._reads = collections.Counter()

    # Channels

    def new(self, count):
        """int64 array of the ids of new channels, each independent of the others."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def join(self, one, other):
        """Two arrays of ids, broadcast against each other, become the same channels."""
        pairs = np.stack([a.ravel() for a in np.broadcast_arrays(one, other)])
        for a, b in np.unique(pairs, axis=1).T:
            low, high = sorted((self._find(a), self._find(b)))
            if low != high:
                self._parent[high] = low
                if low == STAYS:
                    self.reasons.setdefault(high, "tied to channels that stay")

    def close(self, signal, reason):
        """Nothing that a signal carries can be removed, for a short reason."""
        for channel in {self._find(c) for c in np.unique(signal.ids)} - {STAYS}:
            self.reasons[channel] = reason
            self._parent[channel] = STAYS

    def _find(self, channel):
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return int(channel)

    # Weights

    def value(self, variable, default=None):
        """float64 array, the value of a variable; `default` if it is None."""
        if variable is None:
            return default
        value = self._zeroed.get(id(variable))
        return np.asarray(variable, np.float64) if value is None else value

    def carries(self, layer, variable, axis, ids):
        """A variable has the channels `ids` along one of its axes."""
        axis %= len(variable.shape)
        if len(ids) != variable.shape[axis]:
            raise ValueError(
                f"Axis {axis} of weight '{variable.name}' has {variable.shape[axis]} "
                f"entries, but {len(ids)} channels were named for it."
            )
        key = id(variable), axis
        if key in self.axes:  # a layer that is called once more
            self.join(self.axes[key].ids, ids)
        else:
            self.axes[key] = Axis(layer, variable, axis, np.array(ids))

    def makes(self, layer, weights, is_norm=False):
        """The `Maker` of channels.

        Args:
            layer: The layer.
            weights: List of `(variable, axis, ids)`; the variable may be None.
            is_norm: Whether it scales and shifts what another layer made.
        """
        weights = [(v, a % len(v.shape), ids) for v, a, ids in weights if v is not None]
        for variable, axis, ids in weights:
            self.carries(layer, variable, axis, ids)
        for maker in self.makers:
            if weights and maker.weights and maker.weights[0][0] is weights[0][0]:
                return maker  # a layer that is called once more
        maker = Maker(layer, weights, is_norm)
        self.makers.append(maker)
        return maker

    def reads(self, layer, kernel, axis, ids, constant, matrix, bias=None):
        """A weight multiplies channels and sums over them.

        Args:
            layer: The layer.
            kernel: Its variable.
            axis: The axis that is summed over.
            ids: int64 array, the channels along the axis.
            constant: float array, their values where they are constant, else NaN.
            matrix: float array `(positions, len(ids), outputs)`, the kernel's values.
            bias: The variable that can take what constants add, or None.
        """
        self.carries(layer, kernel, axis, ids)
        self._reads[id(bias)] += 1
        used = (matrix != 0).any(axis=(0, 2))
        free = constant == 0.0 if bias is None else np.isfinite(constant)
        folded = used & free & (constant != 0.0)
        if folded.any():
            terms = constant[folded, None] * matrix.sum(axis=0)[folded]
            self.folds.append(Fold(bias, ids[folded], terms))
        self.needs(ids[used & ~free])

    def needs(self, ids):
        """What carries information, or a constant that nothing else can bring."""
        self._needed.append(np.unique(ids))

    def multiplies(self, variable, repeats, ids=None):
        """A call multiplies with every entry of a variable (or with each of the
        channels `ids`) `repeats` times."""
        self.products.append(Product(variable, repeats, ids))

    def resize(self, layer, **settings):
        """How the config of a layer follows the channels that are left.

        Args:
            layer: The layer.
            **settings: From a key of its `get_config()` to a function of `count`,
                which itself tells how many of an array of ids are left.
        """
        self.resized.setdefault(id(layer), {}).update(settings)

    def entered(self, model, signals):
        """A model, nested ones included, is given signals as its inputs."""
        known = self.inputs.setdefault(id(model), signals)
        for one, other in zip(known, signals, strict=True):
            if one is not other:
                self.join(one.ids, other.ids)

    # Results

    def roots(self):
        """int64 array: for every id, the channel that it was joined into."""
        return np.array([self._find(c) for c in range(len(self._parent))])

    def needed(self, roots):
        """Boolean array over the ids: what cannot go without a difference.

        A layer that is called twice gets other constants each time, which one bias
        cannot stand for.
        """
        twice = [f for f in self.folds if self._reads[id(f.bias)] > 1]
        self.folds = [f for f in self.folds if self._reads[id(f.bias)] == 1]
        needed = np.zeros(len(roots), bool)
        needed[STAYS] = True
        for ids in [*self._needed, *(fold.ids for fold in twice)]:
            needed[roots[ids]] = True
        return needed[roots]
