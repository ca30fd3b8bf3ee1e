"""Tables as plain text, wherever they are printed: a terminal, a file, a notebook."""

import io

from rich.console import Console


def render(*parts, width=100):
    """Prints tables and lines of text into one string.

    Args:
        *parts: What `rich` can print; strings are taken as they are.
        width: Integer, columns of a line.

    Returns:
        String without colours and without spaces at the ends of lines.
    """
    # In a notebook `rich` would write HTML elsewhere, and colours if it is told to.
    # Names of files and layers are no markup: those in titles heed the console only.
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        force_jupyter=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for part in parts:
        console.print(part)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines)
