"""How a mask over tiles is spread over the weights in as few operations as possible."""

import dataclasses
import functools
import math

import tensorflow as tf

# TensorFlow multiplies and broadcasts no more axes than these (after merging).
_MAX_BROADCAST_AXES = 5


@dataclasses.dataclass(frozen=True)
class Plan:
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
def plan_tiles(dims, sizes):
    """The `Plan` for a canonical shape and tiles of these sizes, tuples of integers."""
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
    return Plan(
        full=tuple(length for length, _ in runs),
        mask=tuple(1 if inside else length for length, inside in runs),
        stretched_grid=tuple(grid),
        stretched=tuple((axis, sizes[axis], dims[axis]) for axis in sorted(stretched)),
    )


def stretch(mask, axis, size, dim):
    """Repeats each entry along an axis `size` times, and crops the axis to `dim`."""
    shape = tuple(mask.shape)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])

    @tf.custom_gradient  # TensorFlow's own, through the crop, takes three times longer.
    def repeat(mask):
        mask = tf.reshape(mask, (before, shape[axis], 1, after))
        mask = tf.broadcast_to(mask, (before, shape[axis], size, after))
        mask = tf.reshape(mask, (before, shape[axis] * size, after))[:, :dim]
        mask = tf.reshape(mask, (*shape[:axis], dim, *shape[axis + 1 :]))
        return mask, lambda upstream: gather_sum(upstream, axis, size)

    return repeat(mask)


def gather_sum(values, axis, size):
    """Sums runs of `size` along an axis (the adjoint of `_stretch`)."""
    shape = tuple(values.shape)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    count = -(-shape[axis] // size)
    values = tf.reshape(values, (before, shape[axis], after))
    values = tf.pad(values, ((0, 0), (0, count * size - shape[axis]), (0, 0)))
    values = tf.reshape(values, (before, count, size, after))
    values = tf.reduce_sum(values, axis=2)
    return tf.reshape(values, (*shape[:axis], count, *shape[axis + 1 :]))
