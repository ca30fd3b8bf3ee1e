"""Structures whose blocks are tiles of a kernel: blocks and whole channels."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
import tensorflow as tf

from smart_tf.structures.base import Structure, check_reduction, is_count
from smart_tf.structures.tiling import gather_sum, plan_tiles, stretch
from smart_tf.structures.views import canonical, kernel_view, reshape


class _Tiles(Structure):
    """Base of the structures whose blocks are tiles of the canonical view."""

    def _tile(self, dims, roles):
        """Returns the tile's size along each canonical axis, unclipped."""
        raise NotImplementedError

    def _sizes(self, shape, layout):
        """Returns the canonical shape, and the size of a tile along its axes."""
        dims = layout.canonical_shape(shape)
        tile = self._tile(dims, layout.roles(len(shape)))
        return dims, tuple(max(1, min(s, d)) for s, d in zip(tile, dims, strict=True))

    def grid_shape(self, shape, layout):
        """Returns the number of blocks along each canonical axis."""
        dims, sizes = self._sizes(shape, layout)
        return tuple(-(-d // s) for d, s in zip(dims, sizes, strict=True))

    def costs(self, shape, layout):
        dims, sizes = self._sizes(shape, layout)
        edges = [
            np.minimum(size, dim - np.arange(0, dim, size, dtype="float64"))
            for dim, size in zip(dims, sizes, strict=True)
        ]
        return functools.reduce(np.multiply.outer, edges, np.float64(1.0))

    def scores(self, weights, layout, reduction="rms"):
        check_reduction(reduction)
        weights = np.asarray(weights)
        dims, sizes = self._sizes(weights.shape, layout)
        values = np.abs(canonical(weights, layout, np).astype("float64"))
        values = np.square(values) if reduction == "rms" else values
        combine = np.maximum if reduction == "max" else np.add
        for axis, (dim, size) in enumerate(zip(dims, sizes, strict=True)):
            if size > 1:
                values = combine.reduceat(values, range(0, dim, size), axis=axis)
        if reduction in ("rms", "mean"):
            values = values / self.costs(weights.shape, layout)
        return np.sqrt(values) if reduction == "rms" else values

    def expand(self, mask, shape, layout):
        mask, plan = self._prepare(mask, shape, layout)
        return kernel_view(tf.broadcast_to(mask, plan.full), shape, layout)

    def apply(self, weights, mask, layout):
        weights = tf.convert_to_tensor(weights)
        shape = tuple(weights.shape)
        if layout.permutation(len(shape)) is not None:
            # Transposing the mask alone is cheaper than the kernel back and forth.
            return weights * tf.cast(self.expand(mask, shape, layout), weights.dtype)
        mask, plan = self._prepare(mask, shape, layout)
        tiles = reshape(weights, plan.full) * tf.cast(mask, weights.dtype)
        return reshape(tiles, shape)

    def reduce_sum(self, values, layout):
        values = tf.convert_to_tensor(values)
        shape = tuple(values.shape)
        plan = plan_tiles(*self._sizes(shape, layout))
        values = reshape(canonical(values, layout, tf), plan.full)
        for axis in reversed(range(len(plan.full))):  # Faster than all axes at once.
            if plan.mask[axis] != plan.full[axis]:
                values = tf.reduce_sum(values, axis, keepdims=True)
        values = reshape(values, plan.stretched_grid)
        for axis, size, _ in plan.stretched:
            values = gather_sum(values, axis, size)
        return values

    def _prepare(self, mask, shape, layout):
        """Returns the mask in the shape that broadcasts onto `plan.full`."""
        plan = plan_tiles(*self._sizes(shape, layout))
        mask = self._on_grid(mask, shape, layout)
        for axis, size, dim in plan.stretched:
            mask = stretch(mask, axis, size, dim)
        return reshape(mask, plan.mask), plan


@dataclasses.dataclass(frozen=True)
class Block(_Tiles):
    """Tiles of equal size, smaller at the far edges of a kernel.

    >>> Block((16, 8)).grid_shape((3, 3, 64, 32), Layout(outputs=(3,), inputs=(2,)))
    (3, 3, 8, 2)

    Args:
        shape: Sizes `(outputs, inputs, *positions)`: output channels, input channels,
            and then the kernel positions in order. Positions left out count as 1. An
            axis that a kernel does not have is passed over.

    Raises:
        ValueError: If `shape` is not two or more positive integers.
    """

    shape: tuple[int, ...] = (16, 8)

    def __post_init__(self):
        sizes = self.shape if isinstance(self.shape, (tuple, list)) else ()
        if len(sizes) < 2 or not all(map(is_count, sizes)):
            raise ValueError(
                "Argument `shape` must be two or more positive integers: (outputs, "
                f"inputs, *positions). Received: shape={self.shape!r}"
            )
        object.__setattr__(self, "shape", tuple(map(int, sizes)))

    def __str__(self):
        return "x".join(map(str, self.shape))

    def _tile(self, dims, roles):
        positions = iter(self.shape[2:])
        named = {"output": self.shape[0], "input": self.shape[1]}
        return tuple(named[r] if r in named else next(positions, 1) for r in roles)


@dataclasses.dataclass(frozen=True)
class Channel(_Tiles):
    """Whole output channels: all inputs and positions of one output of a kernel.

    Args:
        coupled: Whether `smart_tf.prune` searches for channels as they can be cut:
            the same ones in all layers that they run through (residual connections,
            normalisations, depthwise convolutions), with one logit for all of them.
            False is the form of the SMART paper, on the kernels of single layers.
            Learned masks then act behind the `BatchNormalization` that alone follows
            a kernel in a Functional or Sequential model, and prune its channel too:
            it would cancel a factor in front of it.
        round_to: Integer >= 1, the widths of coupled layers are left at multiples
            of it, since odd widths run slower. Layers with fewer than three times as
            many channels are cut in finer steps.

    Raises:
        ValueError: If `round_to` is not a positive integer.
    """

    keeps_scale: ClassVar[bool] = False

    coupled: bool = True
    round_to: int = 8

    def __post_init__(self):
        if not is_count(self.round_to):
            raise ValueError(
                "Argument `round_to` must be a positive integer. "
                f"Received: round_to={self.round_to!r}"
            )

    def __str__(self):
        return "channel"

    def supports(self, shape, layout):
        if not layout.outputs:
            return "the kernel has no output axis"
        return super().supports(shape, layout)

    def _tile(self, dims, roles):
        return tuple(
            1 if role == "output" else dim
            for role, dim in zip(roles, dims, strict=True)
        )
