"""How the channels of a model depend on each other, gathered call by call."""

import collections
import dataclasses
from typing import Any

import numpy as np

from smart_tf.channels import values

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
        readers: List of `(layer, normalises)`, who reads the very output of its layer.
        is_live: Whether its zeros are read as zeros somewhere. Those of a gate
            come out of its sigmoid as something else.
        rounds: Whether a round number of channels runs faster. Heads are few.
    """

    layer: Any
    weights: list
    is_norm: bool = False
    readers: list = dataclasses.field(default_factory=list)
    is_live: bool = False
    rounds: bool = True

    @property
    def is_normalised(self):
        """Whether all that reads it normalises: a factor in front of a
        `BatchNormalization` is cancelled by it, so a search cannot feel it there."""
        return bool(self.readers) and all(normalises for _, normalises in self.readers)


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
    """What constant inputs add to a bias, which can take their place.

    Attributes:
        bias: The variable.
        ids: int64 array `(inputs,)`, the channels.
        constant: float64 array `(inputs,)`, their values; 0 where they vary.
        kernel: float64 array `(inputs, outputs)`, what each is multiplied with.
    """

    bias: Any
    ids: np.ndarray
    constant: np.ndarray
    kernel: np.ndarray

    def added(self, removed):
        """float64 array `(outputs,)`: what the removed channels (boolean) had added."""
        gone = removed[self.ids]
        return self.constant[gone] @ self.kernel[gone]


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
        self.variables = {}
        self.calls = collections.Counter()
        self._maker_of = {}
        self._held = {}
        self._folds = {}
        self.resized = {}
        self._reasons = {}
        self.inputs = {}
        self._parent = [STAYS]
        self._needed = []

    # Channels

    def new(self, count):
        """int64 array of the ids of new channels, each independent of the others."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def join(self, one, other):
        """Two arrays of ids, broadcast against each other, become the same channels."""
        one, other = (a.ravel().tolist() for a in np.broadcast_arrays(one, other))
        for a, b in dict.fromkeys(zip(one, other, strict=True)):
            low, high = sorted((self._find(a), self._find(b)))
            if low == STAYS:
                self._close(high, "it is combined with channels that stay")
            elif low != high:
                self._parent[high] = low
                if high in self._reasons:
                    self._close(low, self._reasons[high])

    def close(self, signal, reason):
        """Nothing that a signal (or an `Axis`) carries can be removed, for a short
        reason."""
        for channel in {self._find(c) for c in np.unique(signal.ids)}:
            self._close(channel, reason)

    def _close(self, channel, reason):
        if channel != STAYS:
            self._reasons.setdefault(channel, reason)

    def reason(self, ids):
        """String, why some of the channels stay, or None if they need not."""
        found = (self._reasons.get(self._find(c)) for c in np.unique(ids))
        return next(filter(None, found), None)

    def _find(self, channel):
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return int(channel)

    # Weights

    def value(self, variable, default=None):
        """Array, the value of a variable; `default` if it is None."""
        if variable is None:
            return default
        value = self._zeroed.get(id(variable))
        return np.asarray(variable) if value is None else value

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

    def holds(self, layer, reason):
        """Nobody knows what a layer does with its weights, or with those of another
        layer that it holds: no channel along them can be removed."""
        for variable in getattr(layer, "weights", ()):
            self._held.setdefault(id(variable), reason)

    def close_held(self):
        """Once all calls are known: what runs along weights that are held stays."""
        for axis in self.axes.values():
            if id(axis.variable) in self._held:
                self.close(axis, self._held[id(axis.variable)])

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
        key = tuple(id(variable) for variable, _, _ in weights)
        if key not in self._maker_of:  # else a layer that is called once more
            self._maker_of[key] = Maker(layer, weights, is_norm)
            if weights:
                self.makers.append(self._maker_of[key])
        return self._maker_of[key]

    def reads(self, layer, kernel, axes, ids, constant, bias=None):
        """A kernel multiplies channels and sums over them; then a bias is added.

        Args:
            layer: The layer.
            kernel: Its variable.
            axes: Tuple, the kernel's axes of inputs (summed over) and of outputs.
            ids: int64 array, the channels of the inputs.
            constant: float64 array, their values where they are constant, else NaN.
            bias: The variable that can take what constants add, or None.

        Returns:
            float64 array, constants of the outputs.
        """
        self.carries(layer, kernel, axes[0], ids)
        matrix = values.matrix(self.value(kernel), *axes)
        summed, used = matrix.sum(axis=0, dtype=np.float64), matrix.any(axis=0)
        read = used.any(axis=1)
        free = constant == 0.0 if bias is None else np.isfinite(constant)
        self.needs(ids[read & ~free])
        if bias is not None:
            self._fold(bias, ids, np.where(read & free, constant, 0.0), summed)
        return values.product(summed, used, constant) + self.value(bias, 0.0)

    def _fold(self, bias, ids, constant, summed):
        """A layer that is called twice can get other constants each time, which one
        bias cannot stand for."""
        fold = self._folds.setdefault(id(bias), Fold(bias, ids, constant, summed))
        differs = fold.constant != constant
        self.needs(ids[differs])
        fold.constant[differs] = 0.0

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

    def met(self, layer):
        """A layer is called."""
        self.calls[id(layer)] += 1
        self.variables.update({id(v): v for v in getattr(layer, "weights", ())})

    def entered(self, model, signals):
        """A model (nested ones included), or a layer, is given signals as inputs."""
        known = self.inputs.setdefault(id(model), signals)
        for one, other in zip(known, signals, strict=True):
            if one.ids.shape == other.ids.shape:
                self.join(one.ids, other.ids)
            else:
                self.close(one, "a layer is called with other shapes, too")
                self.close(other, "a layer is called with other shapes, too")

    # Results

    def roots(self):
        """int64 array: for every id, the channel that it was joined into.

        For all that stay that is `STAYS`.
        """
        roots = np.array([self._find(c) for c in range(len(self._parent))])
        stay = np.zeros(len(roots), bool)
        stay[list(self._reasons)] = True
        return np.where(stay[roots], STAYS, roots)

    def needed(self, roots):
        """Boolean array over the ids: what cannot go without a difference."""
        needed = np.zeros(len(roots), bool)
        needed[STAYS] = True
        for ids in self._needed:
            needed[roots[ids]] = True
        return needed[roots]

    def added(self, variable, removed):
        """What a bias gets for removed channels (boolean over the ids), or None."""
        fold = self._folds.get(id(variable))
        return None if fold is None else fold.added(removed)
