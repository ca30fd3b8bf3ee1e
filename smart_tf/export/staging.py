"""Files that appear whole or not at all."""

import contextlib
import gzip
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def staged(path, folder=False, argument="path"):
    """Write somewhere else first: what the block made moves to `path` if it succeeds.

    Everything that is beside the yielded path moves along (the weights of an OpenVINO
    model are a file of their own); the file at `path` itself comes last, so that
    whoever waits for it finds the others.  They replace what is beside an earlier file
    at `path`, and nothing else.

    Args:
        path: The file to make, in a folder that exists.
        folder: Whether a SavedModel's folder is made.  It replaces another SavedModel,
            and nothing else.
        argument: What the caller's caller knows the path as.

    Yields:
        A `pathlib.Path` of the same name, in an empty folder on the same disk.

    Raises:
        ValueError: If nothing can be written there, before the block runs; or if a file
            that is not of an earlier one at `path` is in the way, before any is moved.
    """
    path = pathlib.Path(path)
    if os.path.exists(path) and not os.path.isfile(
        path / "saved_model.pb" if folder else path
    ):
        raise ValueError(_not_writable(argument, path, "something else is there"))
    try:
        scratch = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ValueError(_not_writable(argument, path, error.strerror)) from error
    scratch = pathlib.Path(scratch)
    try:
        yield scratch / path.name
        _check_beside(path, scratch, argument)
        for made in sorted(scratch.iterdir(), key=lambda made: made.name == path.name):
            _move(made, path.parent / made.name, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sizes(path):
    """Bytes, and bytes after gzip, of everything in the folder that `path` is in."""
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    contents = [file.read_bytes() for file in files]
    packed = sum(len(gzip.compress(content, compresslevel=9)) for content in contents)
    return sum(map(len, contents)), packed


def _check_beside(path, scratch, argument):
    if path.exists():
        return
    for made in scratch.iterdir():
        place = path.parent / made.name
        if place.exists():
            raise ValueError(
                f"Argument `{argument}` must have a name whose other files are not "
                f"there yet: move {str(place)!r} away. "
                f"Received: {argument}={str(path)!r}"
            )


def _move(made, place, scratch):
    if not place.is_dir():
        os.replace(made, place)
        return
    # `os.replace` takes no folder that holds something.
    previous = scratch / ".previous"
    place.rename(previous)
    try:
        os.replace(made, place)
    except OSError:
        previous.rename(place)
        raise


def _not_writable(argument, path, reason):
    return (
        f"Argument `{argument}` must be a file in a folder that exists and can be "
        f"written to. Received: {argument}={str(path)!r} ({reason})"
    )
