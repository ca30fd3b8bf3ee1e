"""Processes that do runs side by side, each on its share of the processor's cores."""

import concurrent.futures
import multiprocessing
import os

import tensorflow as tf

from benchmarks.accuracy.training import Trainer

_AT_ONCE = 64
"""How many runs may be waiting for a process."""


class Workers:
    """Trains in processes of their own, as many at once as asked for.

    Small networks keep one core busy and hardly a second one: two runs on a core each
    are done sooner than two runs one after the other.

    Args:
        jobs: Integer >= 1, how many processes. The cores are shared out evenly.
        checkpoints: `pathlib.Path`, the folder of the dense checkpoints.
    """

    def __init__(self, jobs, checkpoints):
        threads = max(1, (os.cpu_count() or 1) // jobs)
        self._processes = concurrent.futures.ProcessPoolExecutor(
            jobs,
            # TensorFlow does not survive a fork.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(threads, checkpoints),
        )
        self._waiting = concurrent.futures.ThreadPoolExecutor(_AT_ONCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._waiting.shutdown(cancel_futures=True)
        self._processes.shutdown(cancel_futures=True)

    def train(self, run):
        """Dict of what came out of a `Run`, once a process was free to do it."""
        return self._processes.submit(_train, run).result()

    def map(self, function, *items):
        """As the built-in `map`, with the calls side by side."""
        return self._waiting.map(function, *items)


_trainer = None


def _start(threads, checkpoints):
    global _trainer
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    _trainer = Trainer(checkpoints)


def _train(run):
    return _trainer(run)
