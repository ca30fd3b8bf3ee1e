"""Packages that only some targets need."""

import importlib


def require(module, extra):
    """Import an optional package.

    Args:
        module: Its importable name.
        extra: The extra of smart-tf that installs it.

    Returns:
        The module.

    Raises:
        ImportError: If it is not there; the text says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs the package `{module}`, which cannot be imported ({error}): "
            f"pip install 'smart-tf[{extra}]'"
        ) from error
