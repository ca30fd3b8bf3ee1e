"""What every structure answers, and the simplest of them."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from smart_tf.registry import register
from smart_tf.structures.views import canonical

STRUCTURES = {}
"""The classes of structures by name, those of users as well."""


class Structure:
    """Base class of the structures: every weight is a block of its own.

    Subclasses are frozen dataclasses, equal and hashable by value; the name of the
    class is what a saved model knows them by, and must not be that of a structure of
    this package. In all methods `shape` is the shape of a kernel, `weights` a tensor or
    variable of that shape, and `layout` the `Layout` of its axes.

    A subclass whose grid has other axes than the kernel or its canonical view
    (`Layout.canonical_shape`) has to override `oihw` as well: `MaskHistory` and the
    plots of masks need it.

    Raises:
        ValueError: When a subclass is defined, if its name is taken.
    """

    # Whether the blocks of all layers are ranked in one list.
    is_global: ClassVar[bool] = True
    # Whether a kernel may be scaled as a whole to make up for soft masks.
    keeps_scale: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        register(STRUCTURES, cls.__name__, cls)

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
        check_reduction(reduction)
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

    def oihw(self, mask, shape, layout):
        """Sorts the axes of a mask as the names of blocks do, on the host.

        Args:
            mask: An array of `grid_shape`.
            shape: Shape of the kernel.
            layout: The `Layout` of its axes.

        Returns:
            The same values, `(outputs, inputs, height, width)`. An axis that the kernel
            does not have is 1; of more than two positions, the first are merged.

        Raises:
            NotImplementedError: If the grid does not have the axes of the kernel.
        """
        mask, shape = np.asarray(mask), tuple(shape)
        if mask.shape == shape:
            mask = canonical(mask, layout, np)
        roles = layout.roles(len(shape))
        if mask.ndim != len(roles):
            raise NotImplementedError(
                f"Structure `{type(self).__name__}` must override `oihw`, which sorts "
                f"the axes of its masks. Its grid of shape {mask.shape} does not have "
                f"the axes {roles} of the kernel."
            )
        axes = {"output": [], "input": [], "position": []}
        for axis, role in enumerate(roles):
            axes[role].append(axis)
        outputs, inputs, positions = (
            math.prod(mask.shape[axis] for axis in found) for found in axes.values()
        )
        width = mask.shape[axes["position"][-1]] if axes["position"] else 1
        mask = mask.transpose(sum(axes.values(), []))
        return mask.reshape(outputs, inputs, positions // width, width)

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


def is_count(value):
    """Whether a value is a positive integer."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_integer and value >= 1


def check_reduction(reduction):
    """Raises a `ValueError` unless a reduction of scores is known."""
    if reduction not in ("rms", "mean", "max", "sum"):
        raise ValueError(
            "Argument `reduction` must be 'rms', 'mean', 'max' or 'sum'. "
            f"Received: reduction={reduction!r}"
        )
