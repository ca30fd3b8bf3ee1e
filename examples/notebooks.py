"""Runs the notebooks of this folder, and stores what they show.

With `SMART_TF_QUICK` in the environment they take a thousand images and an epoch or
two: enough to see that every cell works.
"""

import pathlib
import sys

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent


def execute(source, target=None):
    """Runs a notebook from top to bottom, in the folder that it is written to.

    Args:
        source: Path of an `.ipynb` file.
        target: Path to write it to with its outputs, once all cells are done; default:
            `source`.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails; nothing is written.
    """
    target = pathlib.Path(target or source)
    notebook = nbformat.read(source, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        resources={"metadata": {"path": str(target.parent)}},
        timeout=None,
        record_timing=False,  # times of day differ in every run
        # What C++ libraries log goes to the terminal, and not into the cells.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
    )
    client.execute()
    nbformat.write(notebook, target)


def main():
    for path in sys.argv[1:] or sorted(FOLDER.glob("*.ipynb")):
        print(f"Running {path}", flush=True)
        execute(path)


if __name__ == "__main__":
    main()
