"""What is known of a tensor in a model: which channel each entry is, and its value."""

import dataclasses

import numpy as np


@dataclasses.dataclass(eq=False)
class Signal:
    """A tensor between two layers, as channel removal sees it.

    Every entry belongs to a channel, so that whatever moves entries around
    (`Flatten`, `Concatenate`, `Permute`) is carried out on the array of their ids.
    Along axes on which nothing varies the arrays have size 1.

    Attributes:
        shape: Shape without the batch; None where a size is unknown.
        ids: int64 array, the channel of each entry. 0 is the channel that stays.
        constant: float64 array of the same shape: the value, if an entry has the
            same for all inputs, else NaN.
        makers: Tuple of the `flow.Maker`s whose zeros make the entries zero.
        source: The maker, if this is its very output.
    """

    shape: tuple
    ids: np.ndarray
    constant: np.ndarray
    makers: tuple = ()
    source: object = None

    @property
    def rank(self):
        """Number of axes, the batch not counted."""
        return len(self.shape)

    def vector(self, axis=-1):
        """`(ids, constant)` along an axis, or None if other axes matter too."""
        axis %= self.rank
        if any(n != 1 for a, n in enumerate(self.ids.shape) if a != axis):
            return None
        size = self.shape[axis]
        if size is None:
            return None
        return tuple(
            np.broadcast_to(np.ravel(array), (size,))
            for array in (self.ids, self.constant)
        )

    def moved(self, shape, move):
        """The signal whose entries come out of `move(array)`, an index function."""
        return Signal(shape, *compact(move(self.ids), move(self.constant)), self.makers)


def fixed(shape):
    """A signal of which nothing is known and nothing can be removed."""
    ones = (1,) * len(shape)
    return Signal(tuple(shape), np.zeros(ones, np.int64), np.full(ones, np.nan))


def on_axis(shape, axis, ids, constant, makers=(), source=None):
    """A signal that varies along one axis."""
    view = [1] * len(shape)
    view[axis] = -1
    return Signal(
        tuple(shape), ids.reshape(view), constant.reshape(view), makers, source
    )


def compact(ids, constant):
    """The two arrays with size 1 along all axes on which neither varies."""
    for axis in range(ids.ndim):
        first = np.take(ids, [0], axis), np.take(constant, [0], axis)
        if all(
            np.array_equal(array, np.broadcast_to(one, array.shape), equal_nan=True)
            for array, one in zip((ids, constant), first, strict=True)
        ):
            ids, constant = first
    return ids, constant
