"""Channels that can only be removed together, and the layers that they run through."""

import dataclasses
import functools

import numpy as np
from rich.table import Table

from smart_tf.cut_costs import CutCosts
from smart_tf.printing import render


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that run through the same layers, each to be kept or removed alone.

    Attributes:
        channels: int64 array, indices into all channels that can be removed.
        unit: In steps of how many channels the group is cut.
        makers: Tuple of strings, the weights that make the channels.
        readers: Tuple of strings, the other weights that get narrower with them.
    """

    channels: np.ndarray
    unit: int
    makers: tuple
    readers: tuple

    def __str__(self):
        return (
            f"{len(self.channels)} channels made by {', '.join(self.makers)}; "
            f"read by {', '.join(self.readers) or 'nothing'}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class MadeSlices:
    """A weight whose slices are zero where channels are masked.

    Attributes:
        layer: The layer.
        variable: The weight.
        axis: The axis along which the channels lie; None for the outputs of a kernel.
        channels: int64 array, the channel of each slice; -1 where it always stays.
        in_search: Whether a factor on it is felt while the masks are searched.
        is_kernel: Whether its magnitudes tell what a channel is worth.
    """

    layer: object
    variable: object
    axis: int | None
    channels: np.ndarray
    in_search: bool
    is_kernel: bool


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroups:
    """All that can be removed of a model in whole channels. Prints as a table.

    Attributes:
        groups: List of `ChannelGroup`.
        slices: List of `MadeSlices`.
        reasons: Dict from the name of a weight to why its outputs stay.
        flow: The `Flow` behind it.
    """

    groups: list
    slices: list
    reasons: dict
    flow: object
    index: np.ndarray

    def __len__(self):
        return len(self.groups)

    def __iter__(self):
        return iter(self.groups)

    def costs(self, kind):
        """What the model costs when it is cut.

        Args:
            kind: `"weights"` (entries of kernels), `"params"` (of all variables) or
                `"macs"` (multiply-accumulates for one example).

        Returns:
            `CutCosts`.

        Raises:
            ValueError: If `kind` is none of these, or MACs cannot be counted since a
                size of the model's inputs is unknown, or what a layer does.
        """
        return CutCosts(
            tuple(len(group.channels) for group in self.groups),
            tuple(group.unit for group in self.groups),
            *self._widths_and_terms(kind),
        )

    def _widths_and_terms(self, kind):
        rows, terms = {(1.0, ()): 0}, []
        axes = {}
        for axis in self.flow.axes.values():
            axes.setdefault(id(axis.variable), []).append(axis)
        for variable, repeats, ids in _counted(self.flow, kind):
            found = axes.get(id(variable), [])
            named = [axis.ids for axis in found] if ids is None else [ids]
            sizes = list(variable.shape) if variable is not None else []
            for axis in found if ids is None else ():
                sizes[axis.axis] = 1
            numbers = [rows.setdefault(self._width(one), len(rows)) for one in named]
            numbers += [0] * (2 - len(numbers))
            terms.append((float(repeats * np.prod(sizes)), *numbers))
        return tuple(rows), tuple(terms)

    def _width(self, ids):
        """`(fixed, ((group, count), ...))` of an axis with these ids."""
        channels = self.index[ids]
        cut = channels[channels >= 0]
        groups, entries = np.unique(self._group_of[cut], return_counts=True)
        sizes = [len(self.groups[group].channels) for group in groups]
        counts = (entries / sizes).tolist()
        fixed = float(len(ids) - len(cut))
        return fixed, tuple(zip(groups.tolist(), counts, strict=True))

    @functools.cached_property
    def _group_of(self):
        """int64 `(channels,)`: the group of each."""
        sizes = [len(group.channels) for group in self.groups]
        return np.repeat(np.arange(len(sizes)), sizes)

    def __rich__(self):
        table = Table(title="channels that can be removed together")
        for column in ("channels", "made by", "read by"):
            table.add_column(
                column, justify="right" if column == "channels" else "left"
            )
        for group in self.groups:
            table.add_row(
                str(len(group.channels)),
                "\n".join(group.makers),
                "\n".join(group.readers),
            )
        if self.reasons:
            table.caption = "stay: " + "; ".join(
                f"{name} ({reason})" for name, reason in self.reasons.items()
            )
        return table

    def __str__(self):
        return render(self.__rich__(), width=110)


def _counted(flow, kind):
    """`(variable, repeats, ids)` of everything that a kind of cost counts."""
    if kind == "macs":
        for product in flow.products:
            if product.repeats is None:
                variable = product.variable
                name = getattr(variable, "path", getattr(variable, "name", "a weight"))
                raise ValueError(
                    "Argument `budget` must be 'weights' or 'params' for this model: "
                    f"how often '{name}' multiplies is unknown, since its layer cannot "
                    "be followed or the model's inputs have unknown sizes. Received: "
                    "budget='macs'"
                )
            yield product.variable, product.repeats, product.ids
    elif kind in ("weights", "params"):
        counted = flow.variables
        if kind == "weights":
            counted = {id(p.variable): p.variable for p in flow.products}
        for variable in counted.values():
            if variable is not None:
                yield variable, 1, None
    else:
        raise ValueError(
            "Argument `budget` must be 'weights', 'params' or 'macs'. "
            f"Received: budget={kind!r}"
        )
