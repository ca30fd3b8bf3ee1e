"""Structures: how the weights of a kernel are cut into blocks that go together.

A structure works on the *canonical view* of a kernel (see `smart_tf.layouts.Layout`)
and turns it into a grid with one entry per block. Masks, scores and costs all have the
shape of that grid.
"""

import dataclasses
import functools
import math
import re
from typing import ClassVar

import numpy as np
import tensorflow as tf

# TensorFlow multiplies and broadcasts no more axes than these (after merging).
_MAX_BROADCAST_AXES = 5


class Structure:
    """Base class of the structures: every weight is a block of its own.

    Subclasses are frozen dataclasses, equal and hashable by value. In all methods
    `shape` is the shape of a kernel, `weights` a tensor or variable of that shape, and
    `layout` the `Layout` of its axes.
    """

    # Whether the blocks of all layers are ranked in one list.
    is_global: ClassVar[bool] = True

    def get_config(self):
        """Returns the arguments of the structure, ready for JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_config(cls, config):
        """Builds a structure from the result of `get_config`."""
        return cls(**config)

    def supports(self, shape, layout):
        """Says why the structure cannot cut a kernel.

        Returns:
            A short reason, or `None` if it can.
        """
        layout.groups(len(shape))
        return "the kernel is empty" if 0 in tuple(shape) else None

    def grid_shape(self, shape, layout):
        """Returns the shape of the grid of blocks: here that of the kernel itself."""
        return tuple(map(int, shape))

    def costs(self, shape, layout):
        """Counts the weights in each block.

        Returns:
            A float64 array of `grid_shape`, whose sum is the size of the kernel.
        """
        return np.ones(self.grid_shape(shape, layout))

    def scores(self, weights, layout, reduction="rms"):
        """Summarises the magnitudes in each block, on the host.

        Args:
            weights: The kernel.
            layout: The `Layout` of its axes.
            reduction: `"rms"`, `"mean"`, `"max"` or `"sum"` of the magnitudes. Blocks
                at a ragged edge average over the weights that they do have.

        Returns:
            A float64 array of `grid_shape`.

        Raises:
            ValueError: If the reduction is unknown.
        """
        _check_reduction(reduction)
        return np.abs(np.asarray(weights).astype("float64"))

    def expand(self, mask, shape, layout):
        """Spreads a mask over blocks onto the weights.

        Args:
            mask: A tensor or array of `grid_shape`, or the same values in a row.
            shape: Shape of the kernel.
            layout: The `Layout` of its axes.

        Returns:
            A tensor of the kernel's shape and the mask's dtype.
        """
        return self._on_grid(mask, shape, layout)

    def apply(self, weights, mask, layout):
        """Multiplies each block by its mask: `w ⊙ f` in eq. 3 of the SMART paper.

        Equal to `weights * expand(mask)`, and differentiable in both, but spares the
        expanded mask wherever the blocks fit evenly.

        Args:
            weights: The kernel.
            mask: A tensor or array of `grid_shape`, or the same values in a row.
            layout: The `Layout` of the kernel's axes.

        Returns:
            A tensor of the kernel's shape and dtype.

        Reference:
            - [Zhu et al., 2024](https://arxiv.org/abs/2403.19969)
        """
        weights = tf.convert_to_tensor(weights)
        mask = tf.cast(self._on_grid(mask, weights.shape, layout), weights.dtype)
        return weights * mask

    def reduce_sum(self, values, layout):
        """Sums a weight-shaped tensor over each block (the adjoint of `expand`).

        Returns:
            A tensor of `grid_shape` and the dtype of `values`.
        """
        return tf.convert_to_tensor(values)

    def _on_grid(self, mask, shape, layout):
        """Checks the shape of a mask and returns it as a tensor of `grid_shape`."""
        mask, grid = tf.convert_to_tensor(mask), self.grid_shape(shape, layout)
        if tuple(mask.shape) == grid:
            return mask
        if tuple(mask.shape) != (math.prod(grid),):
            raise ValueError(
                f"Argument `mask` must have shape {grid} or ({math.prod(grid)},). "
                f"Received: mask.shape={tuple(mask.shape)}"
            )
        return tf.reshape(mask, grid)


@dataclasses.dataclass(frozen=True)
class Unstructured(Structure):
    """Single weights."""

    def __str__(self):
        return "unstructured"


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
        _check_reduction(reduction)
        weights = np.asarray(weights)
        dims, sizes = self._sizes(weights.shape, layout)
        values = np.abs(_canonical(weights, layout, np).astype("float64"))
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
        return _kernel_view(tf.broadcast_to(mask, plan.full), shape, layout)

    def apply(self, weights, mask, layout):
        weights = tf.convert_to_tensor(weights)
        shape = tuple(weights.shape)
        if layout.permutation(len(shape)) is not None:
            # Transposing the mask alone is cheaper than the kernel back and forth.
            return weights * tf.cast(self.expand(mask, shape, layout), weights.dtype)
        mask, plan = self._prepare(mask, shape, layout)
        tiles = _reshape(weights, plan.full) * tf.cast(mask, weights.dtype)
        return _reshape(tiles, shape)

    def reduce_sum(self, values, layout):
        values = tf.convert_to_tensor(values)
        shape = tuple(values.shape)
        plan = _plan(*self._sizes(shape, layout))
        values = _reshape(_canonical(values, layout, tf), plan.full)
        for axis in reversed(range(len(plan.full))):  # Faster than all axes at once.
            if plan.mask[axis] != plan.full[axis]:
                values = tf.reduce_sum(values, axis, keepdims=True)
        values = _reshape(values, plan.stretched_grid)
        for axis, size, _ in plan.stretched:
            values = _gather_sum(values, axis, size)
        return values

    def _prepare(self, mask, shape, layout):
        """Returns the mask in the shape that broadcasts onto `plan.full`."""
        plan = _plan(*self._sizes(shape, layout))
        mask = self._on_grid(mask, shape, layout)
        for axis, size, dim in plan.stretched:
            mask = _stretch(mask, axis, size, dim)
        return _reshape(mask, plan.mask), plan


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
        if len(sizes) < 2 or not all(map(_is_count, sizes)):
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
    """Whole output channels: all inputs and positions of one output.

    Args:
        coupled: Whether channels that have to go together (summed by a residual
            connection, or fed to the same layer) share a mask. The blocks of a single
            kernel do not depend on it.
    """

    coupled: bool = True

    def __str__(self):
        return "channel" if self.coupled else "uncoupled-channel"

    def supports(self, shape, layout):
        if not layout.outputs:
            return "the kernel has no output axis"
        return super().supports(shape, layout)

    def _tile(self, dims, roles):
        return tuple(
            1 if role == "output" else dim
            for role, dim in zip(roles, dims, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class NM(Structure):
    """N of M consecutive weights along the input axis are kept, everywhere.

    A group that is shorter than M, at the end of an input axis that M does not divide,
    keeps the share of its length, rounded up.

    Args:
        keep: N, how many weights of a group stay.
        of: M, how many weights make a group.

    Raises:
        ValueError: If not `1 <= keep <= of`.

    Reference:
        - [Zhu et al., 2024](https://arxiv.org/abs/2403.19969), appendix F
    """

    keep: int = 2
    of: int = 4
    is_global: ClassVar[bool] = False

    def __post_init__(self):
        if not (_is_count(self.keep) and _is_count(self.of) and self.keep <= self.of):
            raise ValueError(
                "Arguments `keep` and `of` must be integers, 1 <= keep <= of. "
                f"Received: keep={self.keep!r}, of={self.of!r}"
            )

    def __str__(self):
        return f"{self.keep}:{self.of}"

    def supports(self, shape, layout):
        if not layout.inputs:
            return "the kernel has no input axis"
        return super().supports(shape, layout)

    def to_groups(self, weights, layout):
        """Lines up the groups of a kernel as the rows of matrices.

        Args:
            weights: The kernel.
            layout: The `Layout` of its axes.

        Returns:
            A list of pairs `(matrix, keep)`: the full groups, `(rows, of)`, if there
            are any, and the short ones, if there are any; `keep` of each row stay.

        Raises:
            ValueError: If the kernel has no input axis.
        """
        weights = tf.convert_to_tensor(weights)
        order, sizes = self._split(weights.shape, layout)
        lines = tf.transpose(_canonical(weights, layout, tf), order)
        lines = tf.reshape(lines, (-1, sum(sizes)))
        parts = tf.split(lines, sizes, axis=1) if len(sizes) > 1 else [lines]
        width = [self.of if size >= self.of else size for size in sizes]
        return [
            (_reshape(part, (-1, w)), -(-self.keep * w // self.of))
            for part, w in zip(parts, width, strict=True)
        ]

    def from_groups(self, matrices, shape, layout):
        """Puts the rows of matrices back in their places: undoes `to_groups`.

        Args:
            matrices: Matrices of the shapes that `to_groups` returned.
            shape: Shape of the kernel.
            layout: The `Layout` of its axes.

        Returns:
            A tensor of shape `shape`.

        Raises:
            ValueError: If the kernel has no input axis.
        """
        order, sizes = self._split(shape, layout)
        parts = [tf.reshape(m, (-1, s)) for m, s in zip(matrices, sizes, strict=True)]
        lines = tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]
        dims = layout.canonical_shape(shape)
        lines = tf.reshape(lines, [dims[axis] for axis in order])
        return _kernel_view(tf.transpose(lines, np.argsort(order)), shape, layout)

    def hard_mask(self, weights, layout):
        """Marks the `keep` largest weights of each group, on the host.

        Of equal magnitudes, those that come first along the input axis stay.

        Returns:
            A boolean array of the kernel's shape.

        Raises:
            ValueError: If the kernel has no input axis.
        """
        weights = np.asarray(weights).astype("float64")
        masks = []
        for matrix, keep in self.to_groups(weights, layout):
            best = np.argsort(-np.abs(matrix.numpy()), axis=1, kind="stable")[:, :keep]
            mask = np.zeros(matrix.shape, bool)
            np.put_along_axis(mask, best, True, axis=1)
            masks.append(mask)
        return self.from_groups(masks, weights.shape, layout).numpy()

    def _split(self, shape, layout):
        """Plans the cut into groups.

        Returns:
            The order of the canonical axes that puts the input axis last, and how much
            of that axis lies in full groups and in a short one (without zeros).
        """
        if not layout.inputs:
            raise ValueError(f"Structure {self} needs a kernel with an input axis.")
        roles = layout.roles(len(shape))
        axis = roles.index("input")
        length = layout.canonical_shape(shape)[axis]
        short = length % self.of
        order = [a for a in range(len(roles)) if a != axis] + [axis]
        return order, [size for size in (length - short, short) if size]


def get(identifier):
    """Resolves a structure.

    Args:
        identifier: A `Structure`, a config dict `{"class_name": ..., "config": ...}`,
            or a string: `"unstructured"`, `"16x8"` (outputs x inputs), `"16x8x3x3"`
            (x height x width), `"channel"` or `"2:4"` (2 of 4 are kept).

    Returns:
        A `Structure`.

    Raises:
        ValueError: If the string or dict names no structure.
        TypeError: If the identifier is of another type.
    """
    if isinstance(identifier, Structure):
        return identifier
    if isinstance(identifier, dict):
        return deserialize(identifier)
    if not isinstance(identifier, str):
        raise TypeError(_rejection(identifier))
    name = identifier.strip().lower()
    simple = (Unstructured(), Channel(), Channel(coupled=False))
    for structure in simple:
        if name == str(structure):
            return structure
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    try:
        if re.fullmatch(r"\d+(x\d+)+", name):
            return Block(tuple(numbers))
        if re.fullmatch(r"\d+:\d+", name):
            return NM(*numbers)
    except ValueError as error:
        raise ValueError(_rejection(identifier)) from error
    raise ValueError(_rejection(identifier))


def serialize(structure):
    """Returns the config dict of a structure."""
    return {
        "class_name": type(structure).__name__,
        "config": structure.get_config(),
    }


def deserialize(config, custom_objects=None):
    """Builds a structure from its config dict.

    Args:
        config: The result of `serialize`.
        custom_objects: A dict from class names to `Structure` classes.

    Returns:
        A `Structure`.

    Raises:
        ValueError: If the dict names no structure.
    """
    classes = {cls.__name__: cls for cls in (Unstructured, Block, Channel, NM)}
    classes.update(custom_objects or {})
    if not isinstance(config, dict) or config.get("class_name") not in classes:
        raise ValueError(_rejection(config))
    return classes[config["class_name"]].from_config(config.get("config") or {})


def _rejection(identifier):
    return (
        "Argument `structure` must be 'unstructured', 'OxI' or 'OxIxHxW' (such as "
        "'16x8'), 'channel', 'N:M' with N <= M (such as '2:4'), a config dict, or a "
        f"`Structure`. Received: structure={identifier!r}"
    )


def _is_count(value):
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_integer and value >= 1


def _check_reduction(reduction):
    if reduction not in ("rms", "mean", "max", "sum"):
        raise ValueError(
            "Argument `reduction` must be 'rms', 'mean', 'max' or 'sum'. "
            f"Received: reduction={reduction!r}"
        )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How a mask over tiles is broadcast onto the weights in one multiplication.

    `full` is the canonical view with its tiles as axes of their own, neighbours merged;
    `mask` is the same with 1 for the axes inside of a tile. The axes in `stretched`, as
    `(axis, tile, length)`, first have the mask repeated onto each weight, which brings
    it from `grid_shape` to `stretched_grid`.
    """

    full: tuple[int, ...]
    mask: tuple[int, ...]
    stretched_grid: tuple[int, ...]
    stretched: tuple[tuple[int, int, int], ...]


@functools.cache
def _plan(dims, sizes):
    # A ragged axis cannot be cut into tiles by a reshape. Nor can the others be, where
    # that makes too many axes: those that a single tile covers are the last to give up.
    stretched = [a for a, d in enumerate(dims) if d % sizes[a]]
    spare = [a for a in range(len(dims)) if sizes[a] > 1 and a not in stretched]
    spare.sort(key=lambda axis: sizes[axis] < dims[axis])
    plan = _merge(dims, sizes, stretched)
    while len(plan.full) > _MAX_BROADCAST_AXES:
        stretched.append(spare.pop())
        plan = _merge(dims, sizes, stretched)
    return plan


def _merge(dims, sizes, stretched):
    """Builds the plan that stretches the given axes."""
    grid, runs = [], []
    for axis, (dim, size) in enumerate(zip(dims, sizes, strict=True)):
        size = 1 if axis in stretched else size
        grid.append(dim // size)
        for length, inside in ((dim // size, False), (size, True)):
            if length == 1:
                continue
            if runs and runs[-1][1] == inside:
                runs[-1] = (runs[-1][0] * length, inside)
            else:
                runs.append((length, inside))
    return _Plan(
        full=tuple(length for length, _ in runs),
        mask=tuple(1 if inside else length for length, inside in runs),
        stretched_grid=tuple(grid),
        stretched=tuple((axis, sizes[axis], dims[axis]) for axis in sorted(stretched)),
    )


def _stretch(mask, axis, size, dim):
    """Repeats each entry along an axis `size` times, and crops the axis to `dim`."""
    shape = tuple(mask.shape)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])

    @tf.custom_gradient  # TensorFlow's own, through the crop, takes three times longer.
    def repeat(mask):
        mask = tf.reshape(mask, (before, shape[axis], 1, after))
        mask = tf.broadcast_to(mask, (before, shape[axis], size, after))
        mask = tf.reshape(mask, (before, shape[axis] * size, after))[:, :dim]
        mask = tf.reshape(mask, (*shape[:axis], dim, *shape[axis + 1 :]))
        return mask, lambda upstream: _gather_sum(upstream, axis, size)

    return repeat(mask)


def _gather_sum(values, axis, size):
    """Sums runs of `size` along an axis (the adjoint of `_stretch`)."""
    shape = tuple(values.shape)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    count = -(-shape[axis] // size)
    values = tf.reshape(values, (before, shape[axis], after))
    values = tf.pad(values, ((0, 0), (0, count * size - shape[axis]), (0, 0)))
    values = tf.reshape(values, (before, count, size, after))
    values = tf.reduce_sum(values, axis=2)
    return tf.reshape(values, (*shape[:axis], count, *shape[axis + 1 :]))


def _reshape(values, shape):
    return values if tuple(values.shape) == tuple(shape) else tf.reshape(values, shape)


def _canonical(weights, layout, np_or_tf):
    """Returns the canonical view of a kernel, as an array or a tensor."""
    shape = layout.canonical_shape(weights.shape)
    order = layout.permutation(len(weights.shape))
    if order is not None:
        weights = np_or_tf.transpose(weights, order)
    return np_or_tf.reshape(weights, shape)


def _kernel_view(values, shape, layout):
    """Brings a tensor from the canonical view back to the kernel's shape."""
    order = layout.permutation(len(shape))
    if order is None:
        return _reshape(values, shape)
    values = tf.reshape(values, [shape[axis] for axis in order])
    return tf.transpose(values, np.argsort(order))
