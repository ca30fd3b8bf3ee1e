"""What the axes of a kernel mean."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layout:
    """The roles of a kernel's axes.

    Axes that are neither outputs nor inputs are kernel positions (the height and width
    of a convolution). Several axes of one role are merged in the order given, into one
    axis of the *canonical view*; its axes stand in the kernel's own order, so that the
    view is a plain reshape wherever the merged axes are neighbours.

    >>> Layout(outputs=(1, 2), inputs=(0,)).canonical_shape((64, 4, 16))
    (64, 64)

    Args:
        outputs: Axes that number the output channels. May be negative, or empty.
        inputs: Axes that are summed over. May be negative, or empty.

    Raises:
        ValueError: If an axis is named twice.
    """

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]

    def __post_init__(self):
        for role in ("outputs", "inputs"):
            value = getattr(self, role)
            axes = (value,) if isinstance(value, int) else tuple(map(int, value))
            object.__setattr__(self, role, axes)
        named = self.outputs + self.inputs
        if len(set(named)) != len(named):
            raise ValueError(
                "Arguments `outputs` and `inputs` must name each axis at most once. "
                f"Received: outputs={self.outputs}, inputs={self.inputs}"
            )

    def groups(self, rank):
        """Lists the kernel axes behind each canonical axis.

        Args:
            rank: Number of axes of the kernel.

        Returns:
            A list of pairs `(role, axes)` in canonical order, where `role` is
            `"output"`, `"input"` or `"position"` and `axes` a tuple of kernel axes.

        Raises:
            ValueError: If a kernel of this rank does not have the axes of the layout.
        """
        outputs = tuple(self._positive(axis, rank) for axis in self.outputs)
        inputs = tuple(self._positive(axis, rank) for axis in self.inputs)
        named = outputs + inputs
        if len(set(named)) != len(named):
            raise ValueError(f"{self} names an axis of a rank {rank} kernel twice.")
        groups = [("position", (a,)) for a in range(rank) if a not in named]
        groups += [("output", outputs)] if outputs else []
        groups += [("input", inputs)] if inputs else []
        return sorted(groups, key=lambda group: min(group[1]))

    def _positive(self, axis, rank):
        if not -rank <= axis < rank:
            raise ValueError(f"{self} does not fit a kernel of rank {rank}.")
        return axis % rank

    def roles(self, rank):
        """Returns the role of each canonical axis, as in `groups`."""
        return tuple(role for role, _ in self.groups(rank))

    def permutation(self, rank):
        """Returns the transposition to do before merging, or `None` for none."""
        order = tuple(axis for _, axes in self.groups(rank) for axis in axes)
        return None if order == tuple(range(rank)) else order

    def canonical_shape(self, shape):
        """Returns the shape of the canonical view of a kernel of shape `shape`."""
        sizes = []
        for _, axes in self.groups(len(shape)):
            size = 1
            for axis in axes:
                size *= int(shape[axis])
            sizes.append(size)
        return tuple(sizes)
