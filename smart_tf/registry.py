"""Classes that saved models know by name: a user's beside those of the package."""

import inspect
import itertools


def register(known, name, made):
    """Adds a class to those that are known by name.

    A class of one's own may be defined anew, as a notebook does with every run.

    Args:
        known: Dict from names to classes, or to functions that make an object.
        name: String.
        made: The class or function.

    Raises:
        ValueError: If the name is that of a class of smart_tf, and this is none.
    """
    if _is_built_in(known.get(name)) and not _is_built_in(made):
        raise ValueError(
            f"Class `{made.__name__}` must be given another name: {name!r} is one of "
            "smart_tf's own, by which models that were saved are loaded. "
            f"Received: {made!r}"
        )
    known[name] = made


def _is_built_in(made):
    return getattr(made, "__module__", "").startswith("smart_tf.")


def check_settings(one, argument):
    """Raises a `TypeError` unless a dataclass knows all settings of an object.

    Only fields are saved with a model. A subclass that is not decorated may change what
    its methods do, but has no settings of its own.

    Args:
        one: The object.
        argument: String, what it was given as.
    """
    undecorated = itertools.takewhile(
        lambda cls: "__dataclass_fields__" not in vars(cls), type(one).__mro__
    )
    # Without any dataclass among them, the last one is `object`, with its `__init__`.
    if any("__init__" in vars(c) or inspect.get_annotations(c) for c in undecorated):
        raise TypeError(
            f"Argument `{argument}` must be of a dataclass whose fields are all its "
            "settings, or they would not be saved with the model: decorate the class "
            "with `@dataclasses.dataclass(frozen=True)`, and leave out `__init__`. "
            f"Received an object of {type(one)!r}"
        )


def build(config, make, argument):
    """What the `"config"` of a config dict describes.

    Args:
        config: Dict with `"class_name"`, and `"config"` where there are settings.
        make: Function from a dict of settings to an object.
        argument: String, what the config was given as.

    Raises:
        ValueError: If these are not the settings of that class.
    """
    try:
        return make(config.get("config") or {})
    except TypeError as error:
        raise ValueError(
            f"Argument `{argument}` must be a config dict with settings that "
            f"'{config['class_name']}' has: {error}. Received: {argument}={config!r}"
        ) from error
