"""Hands a run to a rival's program, and checks what comes back."""

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import smart_tf
from benchmarks.accuracy.config import architecture, make_method
from benchmarks.accuracy.recipe import batch_order
from benchmarks.accuracy.rivals import protocol
from benchmarks.accuracy.rivals.registry import ROOT

TOLERANCE = 1e-3
"""By how much logits of the two sides may differ, as a share of the largest."""


def prune_elsewhere(model, run, data):
    """Does in another process what a run says, from the weights of a model.

    Args:
        model: Keras 3 network with the weights of the dense checkpoint. It gets those
            of the outcome.
        run: `Run` of a rival.
        data: `Dataset`; only the training split is handed on.

    Returns:
        The model, and a dict of what is known of the pruning.

    Raises:
        RuntimeError: If the rival's program is not to be had, or fails.
        ValueError: If the rival had another network than this one.
    """
    rival = make_method(run.base, run.settings)
    job = make_job(model, run, data)
    outcome = execute(rival, job)
    _compare(rival, "before", logits(model, job.probe), outcome.before)
    for variable in model.weights:
        variable.assign(outcome.weights[variable.path])
    _compare(rival, "after", logits(model, job.probe), outcome.after)
    report = smart_tf.report(model)
    return model, {
        "sparsity": report.sparsity,
        "layers": {kernel.name: round(kernel.sparsity, 5) for kernel in report.kernels},
        "rival_versions": outcome.versions,
    }


def make_job(model, run, data):
    """The `protocol.Job` of a run, from the weights of a model."""
    make, options = architecture(run.network)
    epochs, size = run.training["epochs"], run.training["batch_size"]
    order = batch_order(len(data.x_train), epochs, size, [run.seed, 1])
    return protocol.Job(
        make=make,
        options=options,
        input_shape=list(data.input_shape),
        classes=data.classes,
        pruning=run.pruning,
        settings=vars(make_method(run.base, run.settings)),
        rate=run.rate,
        seed=run.seed,
        epochs=epochs,
        search_steps=round(len(order) * run.training["search_share"]),
        weights={variable.path: variable.numpy() for variable in model.weights},
        x=data.x_train,
        y=data.y_train,
        order=order,
    )


def execute(rival, job):
    """Runs a rival's program in a process of its own.

    Args:
        rival: `registry.Rival`.
        job: `protocol.Job`.

    Returns:
        `protocol.Outcome`.

    Raises:
        RuntimeError: If there is no Python for it, or it fails.
    """
    rival.check()
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "job"), Path(folder, "outcome")
        protocol.write(given, job)
        done = subprocess.run(
            [rival.python, "-m", rival.module, given, made],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{rival.module} failed:\n{done.stderr[-4000:]}")
        return protocol.read(made, protocol.Outcome)


def logits(model, x):
    """Float32 array `(count, classes)`."""
    return model.predict(x, verbose=0)


def _compare(rival, when, ours, theirs):
    worst = float(np.max(np.abs(ours - theirs)) / max(1.0, np.max(np.abs(ours))))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"The network of {rival.module} must give the logits of ours {when} the "
            f"training, to {TOLERANCE}. Received: a difference of {worst:.2g}"
        )
