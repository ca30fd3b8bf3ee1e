"""Which patterns the zeros of a tensor form."""

import numpy as np

from smart_tf import structures

PATTERNS = ("16x8", "1x4", "2:4", "channel")
"""What `held_patterns` looks for, as `smart_tf.structures.get` knows it."""

ROUNDING = 0.1
"""The share of a quantized tensor's surviving weights that may be zero by rounding."""


def held_patterns(zeros, layout, rounded=False):
    """Name the patterns that the zeros of a tensor form.

    Blocks and channels hold where the zeros are whole blocks; of a tensor that was
    rounded, one in ten of the weights in between may be zero as well.  N:M holds where
    every group has enough zeros.  A pattern that asks nothing of a tensor, since its
    axes are too short for it, is not named.

    Args:
        zeros: Boolean array.
        layout: The `Layout` of its axes.
        rounded: Whether the tensor is quantized to integers.

    Returns:
        A tuple of names out of `PATTERNS`.
    """
    return tuple(p for p in PATTERNS if _holds(zeros, layout, p, rounded))


def in_whole_blocks(zeros, layout, pattern):
    """Count the weights in blocks that are nothing but zeros.

    Args:
        zeros: Boolean array.
        layout: The `Layout` of its axes.
        pattern: A structure with blocks, or its name: `"16x8"`, `"channel"`, ...

    Returns:
        Integer.
    """
    structure = structures.get(pattern)
    occupied = structure.scores(~zeros, layout, reduction="max")
    return int(structure.costs(zeros.shape, layout)[occupied == 0].sum())


def _holds(zeros, layout, pattern, rounded):
    structure = structures.get(pattern)
    if not zeros.any() or structure.supports(zeros.shape, layout) is not None:
        return False
    if isinstance(structure, structures.NM):
        groups = [(m.numpy(), n) for m, n in structure.to_groups(~zeros, layout)]
        demanding = any(matrix.shape[1] > keep for matrix, keep in groups)
        return demanding and all((m.sum(1) <= keep).all() for m, keep in groups)
    if structure.costs(zeros.shape, layout).max() == 1:
        return False
    blocks = in_whole_blocks(zeros, layout, structure)
    stray = np.count_nonzero(zeros) - blocks
    allowed = ROUNDING * (zeros.size - blocks) if rounded else 0
    return blocks > 0 and stray <= min(allowed, blocks)
