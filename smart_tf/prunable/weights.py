"""A prunable weight, and the layer that holds it."""

import dataclasses
from typing import Any

from smart_tf.layouts import Layout

_FLAVOURS = ("keras.", "tf_keras.")


@dataclasses.dataclass(frozen=True)
class PrunableWeight:
    """A prunable variable, and where it is held.

    Args:
        owner: The (possibly nested) layer that holds the variable.
        attribute: Name under which `owner` holds the variable itself, so that
            `getattr(owner, attribute)` is one of the objects in `owner.variables`.
        layout: The `Layout` of the variable.
    """

    owner: Any
    attribute: str
    layout: Layout

    @property
    def variable(self):
        """The variable that is held now."""
        return getattr(self.owner, self.attribute)

    @property
    def name(self):
        """A readable path, such as `"encoder/dense/kernel"`."""
        variable = self.variable
        name = (getattr(variable, "path", None) or variable.name).partition(":")[0]
        return name if "/" in name else f"{self.owner.name}/{name}"


class _Item:
    """One entry of a list or dict of variables, that reads and sets as `item`.

    The raw storage is written, because the tracking containers of TensorFlow refuse
    to save a checkpoint once one of their entries was replaced.
    """

    def __init__(self, owner, attribute, key):
        self.name = f"{owner.name}/{attribute}/{key}"
        self._at = (owner, attribute, key)

    @property
    def item(self):
        return self._storage()[self._at[2]]

    @item.setter
    def item(self, value):
        self._storage()[self._at[2]] = value

    def _storage(self):
        held = getattr(*self._at[:2])
        return getattr(held, "_storage", getattr(held, "__wrapped__", held))


def holder(layer, variable):
    """Finds the `(owner, attribute)` that holds a variable of the layer.

    Raises:
        ValueError: If neither the layer nor one inside of it holds the variable.
    """
    layers = list(layer._flatten_layers())
    for owner in layers:
        for attribute, value in vars(owner).items():
            if value is variable:
                return owner, attribute
    for owner in layers:
        for attribute, value in vars(owner).items():
            if attribute.startswith("_") or not isinstance(value, (list, dict)):
                continue
            keys = value if isinstance(value, dict) else range(len(value))
            for key in keys:
                if value[key] is variable:
                    return _Item(owner, attribute, key), "item"
    raise ValueError(
        f"The prunable weights of layer {layer.name!r} must be held by an attribute of "
        f"it or of a layer inside of it. Received: {variable.name!r}"
    )


def held_as(layer, name):
    """Returns the attribute that holds what is known as `name`, and its value.

    Keras 3 holds `kernel` as `_kernel`, behind a property that adds LoRA terms.
    """
    attributes = vars(layer)
    attribute = f"_{name}" if f"_{name}" in attributes else name
    return attribute, attributes.get(attribute)


def is_keras(cls):
    """Whether a class is one of Keras itself, of either flavour."""
    return cls.__module__.startswith(_FLAVOURS)


def is_variable(value):
    """Whether a value is a variable of either flavour."""
    return hasattr(value, "assign") and hasattr(value, "shape")
