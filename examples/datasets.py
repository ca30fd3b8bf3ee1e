"""Small image data sets for the examples, with or without internet access."""

import dataclasses
import gzip
import pathlib

import keras
import numpy as np

DEBIAN_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package `dataset-fashion-mnist` puts its files."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images as float32 arrays `(count, height, width, channels)` with values in
    [0, 1], and labels as integers."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def input_shape(self):
        """The shape of one image."""
        return self.x_train.shape[1:]

    @property
    def classes(self):
        """How many classes there are."""
        return int(self.y_train.max()) + 1


def load_fashion_mnist(limit=None, validation=5000, folder=DEBIAN_FOLDER):
    """Fashion-MNIST, from disk or from the internet; handwritten digits without both.

    Args:
        limit: How many training images to use; `None` for all.
        validation: How many of the 60,000 training images to hold out.  The choice
            is always the same.
        folder: Where to look for the four `.gz` files.

    Returns:
        A `Dataset` of images of shape `(28, 28, 1)` in 10 classes; its name says
        which data it is.
    """
    folder = pathlib.Path(folder)
    if (folder / "train-images-idx3-ubyte.gz").is_file():
        arrays = _read_folder(folder)
    else:
        try:
            (x, y), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
            arrays = x, y, x_test, y_test
        except Exception as error:  # Keras raises a bare Exception without internet.
            print(
                f"Fashion-MNIST is neither in {folder} nor to be had from the internet "
                f"({error}): using scikit-learn's handwritten digits instead."
            )
            return _load_digits(limit)
    return _split("fashion_mnist", *arrays, limit, validation)


def _read_folder(folder):
    def read(name, header):
        content = gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes())
        return np.frombuffer(content, np.uint8, offset=header)

    return (
        read("train-images-idx3", 16).reshape(-1, 28, 28),
        read("train-labels-idx1", 8),
        read("t10k-images-idx3", 16).reshape(-1, 28, 28),
        read("t10k-labels-idx1", 8),
    )


def _load_digits(limit):
    """1,797 digits of 8x8 pixels, each pixel three times as large, with a margin."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.repeat(3, axis=1).repeat(3, axis=2) * (255 / 16)
    images = np.pad(images, [(0, 0), (2, 2), (2, 2)])
    test = 360
    return _split(
        "digits",
        images[:-test],
        digits.target[:-test],
        images[-test:],
        digits.target[-test:],
        limit,
        validation=200,
    )


def _split(name, x, y, x_test, y_test, limit, validation):
    order = np.random.default_rng(0).permutation(len(x))
    held, kept = order[:validation], order[validation:][:limit]
    return Dataset(
        name,
        *(_images(x[kept]), _labels(y[kept])),
        *(_images(x[held]), _labels(y[held])),
        *(_images(x_test), _labels(y_test)),
    )


def _images(pixels):
    return (pixels[..., None] / 255).astype("float32")


def _labels(labels):
    return labels.astype("int32")
