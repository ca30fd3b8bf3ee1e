"""Structures: how the weights of a kernel are cut into blocks that go together.

A structure works on the *canonical view* of a kernel (see `smart_tf.layouts.Layout`)
and turns it into a grid with one entry per block. Masks, scores and costs all have the
shape of that grid.
"""

import re

from smart_tf.registry import build, check_settings
from smart_tf.structures.base import STRUCTURES, Structure, Unstructured
from smart_tf.structures.nm import NM
from smart_tf.structures.tiles import Block, Channel

__all__ = [
    "NM",
    "Block",
    "Channel",
    "Structure",
    "Unstructured",
    "deserialize",
    "get",
    "serialize",
]


def get(identifier):
    """Resolves a structure.

    Args:
        identifier: A `Structure`, a config dict `{"class_name": ..., "config": ...}`,
            or a string: `"unstructured"`, `"16x8"` (outputs x inputs), `"16x8x3x3"`
            (x height x width), `"channel"` or `"2:4"` (2 of 4 are kept).

    Returns:
        A `Structure`.

    Raises:
        ValueError: If the string or dict names no structure, or the dict has settings
            that it does not know.
        TypeError: If the identifier is of another type, or a structure whose settings
            are not all fields of a dataclass.
    """
    if isinstance(identifier, Structure):
        check_settings(identifier, "structure")
        return identifier
    if isinstance(identifier, dict):
        return deserialize(identifier)
    if not isinstance(identifier, str):
        raise TypeError(_rejection(identifier))
    name = identifier.strip().lower()
    for structure in (Unstructured(), Channel()):
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


def deserialize(config):
    """Builds a structure from its config dict.

    Args:
        config: The result of `serialize`.

    Returns:
        A `Structure`.

    Raises:
        ValueError: If its class is unknown, or has no such settings: a structure of
            one's own must be defined before a model that was pruned with it is loaded.
    """
    if not isinstance(config, dict) or config.get("class_name") not in STRUCTURES:
        raise ValueError(_rejection(config))
    return build(config, STRUCTURES[config["class_name"]].from_config, "structure")


def _rejection(identifier):
    return (
        "Argument `structure` must be 'unstructured', 'OxI' or 'OxIxHxW' (such as "
        "'16x8'), 'channel', 'N:M' with N <= M (such as '2:4'), a config dict, or a "
        f"`Structure`. Received: structure={identifier!r}"
    )
