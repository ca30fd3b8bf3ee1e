"""Channels that can only be removed together, and the layers that they run through."""

import dataclasses
import io
import math

import numpy as np
from rich.console import Console
from rich.table import Table

from smart_tf.channels.flow import STAYS
from smart_tf.channels.graph import trace
from smart_tf.cut_costs import CutCosts


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
        axis: The axis along which the channels lie.
        channels: int64 array, the channel of each slice; -1 where it always stays.
        in_search: Whether a factor on it is felt while the masks are searched.
        is_kernel: Whether its magnitudes tell what a channel is worth.
    """

    layer: object
    variable: object
    axis: int
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
                size of the model's inputs is unknown.
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
        fixed = float((channels < 0).sum())
        group_of = np.repeat(
            np.arange(len(self.groups)), [len(g.channels) for g in self.groups]
        )
        groups, entries = np.unique(
            group_of[channels[channels >= 0]], return_counts=True
        )
        counts = [
            entry / len(self.groups[group].channels)
            for group, entry in zip(groups, entries, strict=True)
        ]
        return fixed, tuple(zip(groups.tolist(), counts, strict=True))

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
        console = Console(file=io.StringIO(), width=110)
        console.print(self.__rich__())
        return console.file.getvalue()


def _counted(flow, kind):
    """`(variable, repeats, ids)` of everything that a kind of cost counts."""
    if kind == "macs":
        for product in flow.products:
            if product.repeats is None:
                raise ValueError(
                    "Argument `budget` must be 'weights' or 'params' for a model whose "
                    "inputs have unknown sizes: MACs depend on them. Received: "
                    "budget='macs'"
                )
            yield product.variable, product.repeats, product.ids
    elif kind in ("weights", "params"):
        kernels = {id(p.variable) for p in flow.products if p.variable is not None}
        seen = set()
        for axis in flow.axes.values():
            variable = axis.variable
            if id(variable) not in seen and (
                kind == "params" or id(variable) in kernels
            ):
                seen.add(id(variable))
                yield variable, 1, None
    else:
        raise ValueError(
            "Argument `budget` must be 'weights', 'params' or 'macs'. "
            f"Received: budget={kind!r}"
        )


def find_groups(model, round_to=1, accepts=None):
    """The groups of channels of a model that must go together.

    Example:

    >>> print(smart_tf.channels.find_groups(model))

    Args:
        model: Built Functional or Sequential model of Keras 3 or tf_keras.
        round_to: Integer >= 1, widths that are cut stay multiples of it.
        accepts: Optional function from a layer to whether its channels may go.

    Returns:
        `ChannelGroups`.

    Raises:
        ValueError: If the model has no graph of layers.
    """
    flow = trace(model)
    roots = flow.roots()
    free = _free(model, flow, roots, accepts or (lambda layer: True))
    groups, index = _grouped(flow, roots, free, round_to)
    slices = _slices(flow, index)
    return ChannelGroups(groups, slices, _reasons(flow, roots, index), flow, index)


def _free(model, flow, roots, accepts):
    """Boolean over ids: channels that zeros in their makers make removable.

    Tried out on the model itself, with every second channel at zero.
    """
    made = np.zeros(len(roots), bool)
    for maker in flow.makers:
        for variable, _, ids in maker.weights:
            if maker.is_live and getattr(variable, "trainable", True):
                made[roots[ids]] = True
    for maker in flow.makers:
        for _, _, ids in maker.weights:
            if not (maker.layer.trainable and accepts(maker.layer)):
                made[roots[ids]] = False
    made[STAYS] = False
    free = made[roots]
    for parity in (0, 1):
        chosen = _every_second(flow, roots, free, parity)
        rest = trace(model, _zeroed(flow, chosen))
        free &= ~(chosen & rest.needed(rest.roots()))
    return free


def _every_second(flow, roots, free, parity):
    """Boolean over ids: free channels at even or odd places of their makers."""
    chosen = np.zeros(len(roots), bool)
    for maker in flow.makers:
        for _, _, ids in maker.weights:
            different = np.unique(roots[ids])
            chosen[different[parity::2]] = True
    return chosen[roots] & free


def _zeroed(flow, chosen):
    """Dict from `id(variable)` to its value with the chosen channels at zero."""
    zeroed = {}
    for maker in filter(lambda maker: maker.is_live, flow.makers):
        for variable, axis, ids in maker.weights:
            value = zeroed.get(id(variable))
            value = np.array(variable, np.float64) if value is None else value
            np.moveaxis(value, axis, 0)[chosen[ids]] = 0.0
            zeroed[id(variable)] = value
    return zeroed


def _grouped(flow, roots, free, round_to):
    """The groups, and int64 over ids: the number of each channel, or -1."""
    members = {}
    for number, axis in enumerate(flow.axes.values()):
        ids, counts = np.unique(roots[axis.ids], return_counts=True)
        for channel, count in zip(ids, counts, strict=True):
            if free[channel]:
                members.setdefault(int(channel), []).append((number, int(count)))
    alike = {}
    for channel in sorted(members):
        alike.setdefault(tuple(members[channel]), []).append(channel)
    alike = {key: found for key, found in alike.items() if len(found) > 1}
    index = np.full(len(roots), -1)
    groups, start, axes = [], 0, list(flow.axes.values())
    makers = {(id(v), axis) for m in flow.makers for v, axis, _ in m.weights}
    whole = {id(v) for m in flow.makers if not m.rounds for v, _, _ in m.weights}
    for key, found in alike.items():
        channels = np.arange(start, start + len(found))
        index[found] = channels
        start += len(found)
        through = [axes[number] for number, _ in key]
        made = [a for a in through if (id(a.variable), a.axis) in makers]
        often = min(count for number, count in key if axes[number] in made)
        unit = _unit(round_to, often, len(found))
        if any(id(axis.variable) in whole for axis in made):
            unit = 1
        read = [_weight_name(a) for a in through if a not in made]
        groups.append(
            ChannelGroup(
                channels,
                unit,
                tuple(_weight_name(a) for a in made),
                tuple(read),
            )
        )
    return groups, index[roots]


def _unit(round_to, often, size):
    """In what steps to cut a group whose channels come `often` times on an axis.

    A group that is too small to be cut well in such steps takes finer ones.
    """
    unit = round_to // math.gcd(round_to, often)
    while unit > 1 and size < 4 * unit:
        unit //= 2
    return unit


def _slices(flow, index):
    slices = []
    for maker in filter(lambda maker: maker.is_live, flow.makers):
        for variable, axis, ids in maker.weights:
            channels = index[ids]
            if (channels >= 0).any():
                slices.append(
                    MadeSlices(
                        maker.layer,
                        variable,
                        axis,
                        channels,
                        in_search=not maker.is_normalised,
                        is_kernel=not maker.is_norm and len(variable.shape) > 1,
                    )
                )
    return slices


def _reasons(flow, roots, index):
    """Why the channels of a kernel stay."""
    reasons = {}
    for maker in flow.makers:
        variable, _, ids = maker.weights[0]
        if maker.is_norm or (index[ids] >= 0).any():
            continue
        found = [flow.reasons[c] for c in np.unique(ids) if c in flow.reasons]
        name = f"{maker.layer.name}/{_short(variable)}"
        reasons[name] = found[0] if found else "tied to channels that stay"
    return reasons


def _weight_name(axis):
    return f"{axis.layer.name}/{_short(axis.variable)}"


def _short(variable):
    return variable.name.split("/")[-1].split(":")[0]
