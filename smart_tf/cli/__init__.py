"""The command `smart-tf`: the library's functions for model files and data on disk.

`models` and `data` read what the user has, `commands` call the library, and `parser`
turns arguments into options, results into text or JSON, and errors into exit codes.
"""

from smart_tf.cli.parser import main

__all__ = ["main"]
