"""N:M sparsity: patterns within small groups along the input axis."""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from smart_tf.structures.base import Structure, is_count
from smart_tf.structures.views import canonical, kernel_view, reshape


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
    keeps_scale: ClassVar[bool] = False  # The groups have shares of their own.

    def __post_init__(self):
        if not (is_count(self.keep) and is_count(self.of) and self.keep <= self.of):
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
        lines = tf.transpose(canonical(weights, layout, tf), order)
        lines = tf.reshape(lines, (-1, sum(sizes)))
        parts = tf.split(lines, sizes, axis=1) if len(sizes) > 1 else [lines]
        width = [self.of if size >= self.of else size for size in sizes]
        return [
            (reshape(part, (-1, w)), -(-self.keep * w // self.of))
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
        return kernel_view(tf.transpose(lines, np.argsort(order)), shape, layout)

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
