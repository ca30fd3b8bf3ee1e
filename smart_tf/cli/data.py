"""Data on disk, as batches for one model: arrays, image folders, TFDS."""

import contextlib
import dataclasses
import itertools
import pathlib
import warnings
import zipfile

import keras
import numpy as np
import tensorflow as tf

from smart_tf import flavours
from smart_tf.export.optional import require

_COLOURS = {1: "grayscale", 3: "rgb", 4: "rgba"}
_PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_HELD_OUT = ("test", "validation", "val")
_SHUFFLE = 10_000


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a model wants to see.

    Attributes:
        shape: Shape of one input, with None for sizes that are open.
        dtype: Type of the inputs.
        labels: `"integers"` or `"one-hot"` for classes, `"binary"` for numbers from 0
            to 1, `"numbers"` for one for each output, `"any"` for numbers in a shape
            of the loss's own, `None` where labels are not needed.
        outputs: Shape of one output, with None for sizes that are open.
    """

    shape: tuple
    dtype: str
    labels: str | None
    outputs: tuple

    @property
    def units(self):
        """Length of the last axis of the outputs."""
        return self.outputs[-1] if self.outputs else None

    @classmethod
    def of(cls, model, loss=None):
        """From a model and its loss (a name, function or object), where it has one.

        Raises:
            ValueError: If the model does not have one input and one output.
        """
        inputs, outputs = (getattr(model, k, None) or () for k in ("inputs", "outputs"))
        if len(inputs) != 1 or (loss is not None and len(outputs) != 1):
            raise ValueError(
                "Argument `MODEL` must have one input and one output; use the Python "
                f"functions for others. Received: {len(inputs)} inputs and "
                f"{len(outputs)} outputs"
            )
        losses = flavours.of(model).keras.losses
        return cls(
            shape=tuple(inputs[0].shape[1:]),
            dtype=tf.as_dtype(inputs[0].dtype).name,
            labels=None if loss is None else _labels(loss, losses),
            outputs=tuple(outputs[0].shape[1:]),
        )


@dataclasses.dataclass(frozen=True)
class Settings:
    """How data is read.

    Attributes:
        batch_size: Integer.
        held_out: Float in [0, 1), the share that is held out where the data does not
            say itself what to test on; with 0, everything is in both parts.
        scale: Float that inputs are multiplied by.
        seed: Integer, for what is held out and for the order.
    """

    batch_size: int = 32
    held_out: float = 0.2
    scale: float = 1.0
    seed: int = 0


def load(source, expected, settings):
    """Reads data to train and to test on.

    Args:
        source: String: an `.npz` file with `x_train`, `y_train`, `x_test`, `y_test` or
            with `x` and `y`; a folder of images in one folder for each class, or with
            such folders in `train` and `test`; or `tfds:` and the name of a data set.
            Where there is no `test`, `validation` or `val` is taken for it.
        expected: `Expected`.
        settings: `Settings`.

    Returns:
        Pair of `tf.data.Dataset`s of batches of inputs and labels, the first one
        shuffled.

    Raises:
        ValueError: If there is no such data, or it does not fit the model.
        ImportError: If a data set of TFDS is asked for, which is not installed.
    """
    if settings.scale != 1 and not tf.as_dtype(expected.dtype).is_floating:
        raise ValueError(
            "Argument `--rescale` must be left out for a model whose inputs are "
            "integers: the products would be cut to integers as well. "
            f"Received: --rescale={settings.scale:g} for inputs of {expected.dtype}"
        )
    if source.startswith("tfds:"):
        pair = _read_tfds(source.removeprefix("tfds:"), expected, settings)
    elif pathlib.Path(source).is_dir():
        pair = _read_folder(pathlib.Path(source), expected, settings)
    elif zipfile.is_zipfile(source) and source.endswith(".npz"):
        pair = _read_arrays(source, expected, settings)
    else:
        there = pathlib.Path(source).exists()
        raise ValueError(
            "Argument `--data` must be an .npz file, a folder of images in one folder "
            "for each class, or tfds: and the name of a data set. Received: "
            f"--data={source!r}, which is {'another' if there else 'not there'}"
        )

    def prepare(x, y):
        if settings.scale != 1:
            x = tf.cast(x, tf.float32) * settings.scale
        return tf.cast(x, expected.dtype), y

    return tuple(data.map(prepare).prefetch(tf.data.AUTOTUNE) for data in pair)


@contextlib.contextmanager
def broken_pictures_named(source):
    """Says which picture of a folder it is that cannot be read.

    Args:
        source: As for `load`.

    Raises:
        ValueError: If the block fails over a picture that cannot be decoded.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        broken = next(_broken_pictures(source), None)
        if broken is None:
            raise
        raise ValueError(
            "Argument `--data` must be a folder whose pictures can be decoded. "
            f"Received: {str(broken)!r}, which cannot"
        ) from error


def _broken_pictures(source):
    for path in sorted(pathlib.Path(source).rglob("*")):
        if path.suffix.lower() in _PICTURES:
            try:
                tf.io.decode_image(path.read_bytes(), expand_animations=False)
            except tf.errors.InvalidArgumentError:
                yield path


def _labels(loss, losses):
    """What labels a loss takes; `losses` is the module that knows it by its name."""
    (loss,) = keras.tree.flatten(loss)  # It may be in a list or a dict.
    loss = losses.get(loss)
    name = getattr(loss, "__name__", type(loss).__name__).replace("_", "").lower()
    starts = {
        "sparse": "integers",
        "categoricalgeneralized": "integers",
        "categorical": "one-hot",
        "binary": "binary",
        "circle": "any",
        "ctc": "any",
    }
    return next((k for start, k in starts.items() if name.startswith(start)), "numbers")


def _read_arrays(path, expected, settings):
    with np.load(path, allow_pickle=False) as file:
        kinds = ("x", "y") if expected.labels else ("x",)
        if {f"{kind}_train" for kind in kinds} <= set(file):
            held = next((name for name in _HELD_OUT if f"x_{name}" in file), None)
            splits = ("_train", held and f"_{held}")
        else:
            splits = ("", None)
        missing = [k + s for s in splits if s is not None for k in kinds]
        missing = [name for name in missing if name not in file]
        if missing:
            raise ValueError(
                "Argument `--data` must hold the arrays x_train, y_train, x_test, "
                f"y_test, or x, y. Received: {path!r} with {', '.join(file) or 'none'}"
            )
        train, test = (s if s is None else _arrays(file, s, expected) for s in splits)
        unread = set(file) - {k + s for s in splits if s is not None for k in "xy"}
        if unread:
            names = ", ".join(sorted(unread))
            warnings.warn(f"Of {path!r} nothing reads: {names}", stacklevel=2)
    if test is None:
        train, test = _split(*train, settings)
    train = tf.data.Dataset.from_tensor_slices(train)
    train = train.shuffle(len(train), seed=settings.seed)
    test = tf.data.Dataset.from_tensor_slices(test)
    return train.batch(settings.batch_size), test.batch(settings.batch_size)


def _arrays(file, split, expected):
    """Inputs and labels of one split, checked."""
    x = file[f"x{split}"]
    y = file[f"y{split}"] if expected.labels else np.zeros(len(x))
    if not _fits(x.shape[1:], expected.shape):
        raise ValueError(
            f"Array `x{split}` must have the shape {(None, *expected.shape)} that the "
            f"model takes. Received: shape {x.shape}"
        )
    if len(x) != len(y) or not len(x):
        raise ValueError(
            f"Arrays `x{split}` and `y{split}` must be equally long, and not empty. "
            f"Received: {len(x)} and {len(y)}"
        )
    for name, array in ((f"x{split}", x), (f"y{split}", y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"Array `{name}` must be finite. Received: NaN or infinity in it"
            )
    if expected.labels:
        _check_labels(f"y{split}", y, expected)
    return x, y


def _check_labels(name, y, expected):
    """Raise unless labels are of the kind, shape and range that the loss takes."""
    outputs, last = expected.outputs, (expected.units or np.inf) - 1
    what, kinds, shape, low, high = {
        "integers": (f"integers from 0 to {last}", "iu", outputs[:-1], 0, last),
        "one-hot": ("one-hot labels", "biuf", outputs, 0, 1),
        "binary": ("numbers from 0 to 1", "biuf", outputs, 0, 1),
        "numbers": ("numbers", "biuf", outputs, -np.inf, np.inf),
        "any": ("numbers", "biuf", y.shape[1:], -np.inf, np.inf),
    }[expected.labels]
    numbers = y.dtype.kind in "biuf" and y.size
    if (
        not numbers
        or y.dtype.kind not in kinds
        or not _fits_but_for_one(y.shape[1:], shape)
        or not low <= y.min() <= y.max() <= high
    ):
        span = f" from {y.min()} to {y.max()}" if numbers else ""
        raise ValueError(
            f"Array `{name}` must hold {what} in the shape {(None, *shape)}, as the "
            f"model's loss takes them. Received: {y.dtype}{span} in the shape {y.shape}"
        )


def _fits_but_for_one(shape, expected):
    """Whether a shape fits, but for a last axis of 1, which Keras adds or removes."""
    both = [{k, k[:-1]} if k[-1:] == (1,) else {k} for k in (shape, expected)]
    return any(_fits(*pair) for pair in itertools.product(*both))


def _fits(shape, expected):
    """Whether a shape is one with sizes that may be open."""
    return len(shape) == len(expected) and all(
        size in (None, found) for size, found in zip(expected, shape, strict=True)
    )


def _split(x, y, settings):
    if not settings.held_out:
        return (x, y), (x, y)
    order = np.random.default_rng(settings.seed).permutation(len(x))
    held = round(settings.held_out * len(x))
    if not 0 < held < len(x):
        raise ValueError(
            "Argument `--held-out` must leave something to train on and something to "
            f"test on. Received: --held-out={settings.held_out} of {len(x)} examples"
        )
    test, train = order[:held], order[held:]
    return (x[train], y[train]), (x[test], y[test])


def _read_folder(folder, expected, settings):
    size = expected.shape
    if len(size) != 3 or None in size or size[2] not in _COLOURS:
        raise ValueError(
            "Argument `--data` must be an .npz file or a TFDS name for a model that "
            "does not take images (height, width, 1, 3 or 4 colours) of a fixed size. "
            f"Received: --data={str(folder)!r}, a folder, for inputs of shape {size}"
        )
    options = {
        "label_mode": "categorical" if expected.labels == "one-hot" else "int",
        "color_mode": _COLOURS[size[2]],
        "image_size": size[:2],
        "batch_size": settings.batch_size,
        "seed": settings.seed,
    }
    read = keras.utils.image_dataset_from_directory
    held = next((name for name in _HELD_OUT if (folder / name).is_dir()), None)
    if held and (folder / "train").is_dir():
        train = read(folder / "train", **options)
        test = read(folder / held, shuffle=False, **options)
    elif settings.held_out:
        share = {"validation_split": settings.held_out, "subset": "both"}
        train, test = read(folder, **share, **options)
    else:
        train = test = read(folder, **options)
    wanted = len(train.class_names)
    if expected.labels in ("integers", "one-hot"):
        wanted = expected.units
    elif expected.labels == "binary":
        wanted = 2
    if train.class_names != test.class_names or len(train.class_names) != wanted:
        raise ValueError(
            f"Argument `--data` must have the same {wanted} classes to train and to "
            f"test on, one for each output of the model. Received: {train.class_names} "
            f"and {test.class_names}"
        )
    return train, test


def _read_tfds(name, expected, settings):
    builder = require("tensorflow_datasets", "tfds").builder(name)
    builder.download_and_prepare()
    held = next((split for split in _HELD_OUT if split in builder.info.splits), None)
    percent = round(100 * (1 - settings.held_out))
    splits = [f"train[:{percent}%]", f"train[{percent}%:]"]
    if held or not settings.held_out:
        splits = ["train", held or "train"]

    def fit(x, y):
        if len(expected.shape) == 3 and x.shape != expected.shape:
            x = tf.image.resize(x, expected.shape[:2])
        return x, tf.one_hot(y, expected.units) if expected.labels == "one-hot" else y

    train, test = (
        builder.as_dataset(split=split, as_supervised=True, shuffle_files=i == 0).map(
            fit
        )
        for i, split in enumerate(splits)
    )
    train = train.shuffle(_SHUFFLE, seed=settings.seed)
    return train.batch(settings.batch_size), test.batch(settings.batch_size)
