"""Other libraries get what all methods get, and their weights are measured here."""

import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks.accuracy import config, tables
from benchmarks.accuracy.rivals import harness, protocol
from benchmarks.accuracy.rivals.registry import PQuant, Tfmot
from benchmarks.accuracy.study import study
from benchmarks.accuracy.training import Trainer, accuracy, build, fit_dense
from examples.datasets import Dataset

TOML = """
entrants = ["dense", "smart", "tfmot", "pquant", "pquant_mended"]
margin = 0.0
seeds = { final = [1, 2], more = [] }
search = { rates = 3, more_trials = 0 }
training = { batch_size = 8, dense_epochs = 4, epochs = 4, search_share = 0.5 }
[data.toy]
source = "toy"
images = 96
[networks.residual]
make = "small_resnet"
widths = [8, 12]
dense_rate = 1e-2
rates = [1e-3, 1e-1]
[networks.vit]
make = "small_vit"
patch = 4
width = 16
depth = 1
dense_rate = 1e-2
rates = [1e-3, 1e-1]
[networks.depthwise]
make = "small_mobilenet"
dense_rate = 1e-2
rates = [1e-3, 1e-1]
[methods.tfmot]
[methods.pquant]
[methods.pquant_mended]
method = "pquant"
settings = { share_out = true }
[[cells]]
data = "toy"
network = ["residual", "depthwise"]
structure = ["unstructured", "4x4"]
sparsity = 0.8
[[cells]]
data = "toy"
network = "vit"
structure = "2:4"
"""

needs_pquant = pytest.mark.skipif(
    not PQuant.python.exists(), reason="PQuantML is not installed (make pquant)"
)


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(TOML)
    return config.load(path)


@pytest.fixture
def data():
    """Images with a bright quarter, which says the class."""
    rng = np.random.default_rng(0)
    parts = []
    for count in (96, 32, 32):
        labels = np.arange(count, dtype="int32") % 4
        images = rng.random((count, 8, 8, 1), "float32") / 2
        for image, label in zip(images, labels, strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[row : row + 4, column : column + 4] += 0.3
        parts += [images, labels]
    return Dataset("toy", *parts)


def run_of(toy, name, network, structure="unstructured", **changes):
    (cell,) = (
        c for c in toy.cells if c.network == network and c.structure == structure
    )
    cell = dataclasses.replace(cell, **changes)
    entrant = {e.name: e for e in toy.entrants}[name]
    return toy.run("final", cell, entrant, 0.01, None, 1)


def kernels(weights):
    return {k: w for k, w in weights.items() if k.endswith("/kernel")}


def zeros(weights):
    parts = kernels(weights).values()
    return sum((w == 0).sum() for w in parts) / sum(w.size for w in parts)


# The protocol.


class Closed(Dataset):
    """Data whose validation and test splits nobody may look at."""

    def __getattribute__(self, name):
        assert not name.endswith(("_val", "_test")), name
        return super().__getattribute__(name)


def test_a_job_is_read_as_it_was_written_and_holds_the_training_split_only(
    toy, data, tmp_path
):
    closed = Closed(*vars(data).values())
    run = run_of(toy, "tfmot", "residual")
    job = harness.make_job(build(run.network, data), run, closed)
    assert job.order.shape == (48, 8) and job.search_steps == 24
    protocol.write(tmp_path / "job", job)
    read = protocol.read(tmp_path / "job", protocol.Job)
    for field in dataclasses.fields(protocol.Job):
        np.testing.assert_equal(getattr(read, field.name), getattr(job, field.name))
    assert read.settings == {"updates": 20, "power": 3}
    assert read.x is not job.x


def answering(change):
    """An `execute` whose rival zeroes all kernels; `change` falsifies its outcome."""

    def execute(rival, job):
        model = build({"make": job.make, **job.options}, job_data(job))
        for variable in model.weights:
            variable.assign(job.weights[variable.path])
        before = harness.logits(model, job.probe)
        for variable in model.weights:
            if variable.path.endswith("/kernel"):
                variable.assign(0 * variable)
        after = harness.logits(model, job.probe)
        weights = {v.path: v.numpy() for v in model.weights}
        return change(protocol.Outcome(weights, before, after, {"fake": "1"}))

    return execute


def job_data(job):
    return Dataset("toy", job.x, job.y, *[None] * 4)


@pytest.mark.slow
def test_what_comes_back_is_measured_here(toy, data, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "execute", answering(lambda outcome: outcome))
    line = Trainer(tmp_path, load=lambda **_: data)(run_of(toy, "tfmot", "residual"))
    assert line["sparsity"] == 1.0 and set(line["layers"].values()) == {1.0}
    assert line["accuracy_test"] == 0.25  # one class for all
    assert line["rival_versions"] == {"fake": "1"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rival_with_another_network_is_refused(toy, data, monkeypatch, when):
    def off(outcome):
        return dataclasses.replace(outcome, **{when: getattr(outcome, when) + 0.1})

    monkeypatch.setattr(harness, "execute", answering(off))
    run = run_of(toy, "tfmot", "residual")
    with pytest.raises(ValueError, match=f"logits of ours {when} the training"):
        harness.prune_elsewhere(build(run.network, data), run, data)


def test_a_program_that_fails_says_why(toy, data):
    run = run_of(toy, "tfmot", "residual")
    job = harness.make_job(build(run.network, data), run, data)

    class Missing(Tfmot):
        module = "benchmarks.accuracy.rivals.nobody"

    with pytest.raises(RuntimeError, match="No module named .*nobody"):
        harness.execute(Missing(), job)


def test_what_is_not_installed_is_named_before_anything_is_run(toy, monkeypatch):
    monkeypatch.setattr(PQuant, "python", Path("nowhere/python"))
    toy.check_rivals([c for c in toy.cells if c.structure == "2:4"])  # not needed there
    with pytest.raises(RuntimeError, match="nowhere/python.*`make pquant`"):
        toy.check_rivals(toy.cells)


# What the tables say.


def test_a_dash_in_the_overview_has_its_reason_beneath(toy):
    def execute(run):
        share = {"accuracy_val": 0.5, "accuracy_test": 0.5, "checkpoint": "c"}
        return {**share, "sparsity": 0.5}

    results = [study(toy, cell, execute) for cell in toy.cells]
    header, _, *rows = tables.overview(results).splitlines()
    assert header == "| cell | dense | smart | tfmot | pquant | pquant_mended |"
    assert rows[:8] == [
        "| toy residual: unstructured 80% | 50.00 | **50.00** | 50.00 | 50.00 "
        "| 50.00 |",
        "| toy residual: 4x4 80% | 50.00 | **50.00** | - (1) | - (2) | - (2) |",
        "| toy depthwise: unstructured 80% | 50.00 | **50.00** | - (3) | - (4) "
        "| - (4) |",
        "| toy depthwise: 4x4 80% | 50.00 | **50.00** | - (1) | - (2) | - (2) |",
        "| toy vit: 2:4 | 50.00 | **50.00** | 50.00 | - (2) | - (2) |",
        "",
        rows[6],
        "2. pquant, pquant_mended: of its PDP only the pruning of single weights is "
        "compared",
    ]
    assert re.match(r"1\. tfmot: it prunes no channels, and blocks in Dense", rows[6])


# The real ones, each in a process of its own.


@pytest.fixture
def dense(toy, data, tmp_path):
    """A function from a run to the network with the weights of its checkpoint."""

    def load(run):
        trainer = Trainer(tmp_path / "dense", load=lambda **_: data)
        keras.utils.set_random_seed(run.seed)
        model = build(run.network, data)
        model.load_weights(trainer._checkpoint(run, data))
        return model

    return load


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tfmot", *(pytest.param(n, marks=needs_pquant) for n in ("pquant",))]
)
def test_each_layer_has_the_sparsity_that_was_asked_for(
    toy, data, dense, name, monkeypatch
):
    seen, real = [], harness.execute

    def watched(rival, job):
        seen[:] = job, real(rival, job)
        return seen[1]

    monkeypatch.setattr(harness, "execute", watched)
    run = run_of(toy, name, "residual")
    start = dense(run)
    model, known = harness.prune_elsewhere(dense(run), run, data)
    job, outcome = seen
    # The same checkpoint gives the same logits and the same accuracy.
    ours = harness.logits(start, job.probe)
    np.testing.assert_allclose(outcome.before, ours, atol=1e-4)
    labels = data.y_train[: protocol.PROBED]
    right = np.mean(outcome.before.argmax(-1) == labels)
    assert right == accuracy(start, job.probe, labels) and right > 0.5
    # Zeros by numpy: of each kernel, to one weight.
    for path, kernel in kernels(outcome.weights).items():
        gone = (kernel == 0).sum()
        assert abs(gone - 0.8 * kernel.size) <= 1, path
        assert (kernel != job.weights[path])[kernel != 0].any()  # and it was trained
    assert known["sparsity"] == pytest.approx(zeros(outcome.weights))


@pytest.mark.slow
def test_tfmot_prunes_two_of_four_inputs_in_attention_too(toy, data, dense):
    run = run_of(toy, "tfmot", "vit", "2:4")
    model, known = harness.prune_elsewhere(dense(run), run, data)
    assert known["layers"].pop("patches/kernel") == 0  # it has one input
    assert set(known["layers"].values()) == {0.5}
    for variable in model.weights:
        if not variable.path.endswith("/kernel") or "patches" in variable.path:
            continue
        kernel = variable.numpy()
        if "attention_output" in variable.path:
            kernel = kernel.reshape(-1, kernel.shape[-1])
        groups = kernel.reshape(len(kernel) // 4, 4, -1)
        assert ((groups == 0).sum(1) == 2).all(), variable.path


@pytest.mark.slow
def test_tfmot_that_prunes_nothing_is_the_dense_training(toy, data, dense):
    """The same optimizer, rates, batches and epochs give the same weights."""
    run = run_of(toy, "tfmot", "residual", sparsity=0.0)
    run = dataclasses.replace(run, training={**run.training, "epochs": 1})
    theirs, known = harness.prune_elsewhere(dense(run), run, data)
    assert known["sparsity"] == 0
    start = dense(run)
    ours, _ = fit_dense(dense(run), run, data)
    trios = zip(theirs.weights, ours.weights, start.weights, strict=True)
    for variables in trios:
        their, our, before = (variable.numpy() for variable in variables)
        # Moving variances have n - 1 in tf_keras; n is 8 * 2 * 2 here, or more.
        allowed = our / 31 if "variance" in variables[0].path else 1e-5
        assert (np.abs(their - our) <= allowed).all()
        assert np.abs(our - before).max() > 1e-3


@pytest.mark.slow
@needs_pquant
def test_mended_pquant_shares_the_sparsity_out_by_magnitude(toy, data, dense):
    run = run_of(toy, "pquant_mended", "residual")
    model = dense(run)
    start = kernels({v.path: v.numpy() for v in model.weights})
    model, known = harness.prune_elsewhere(model, run, data)
    every = np.sort(np.concatenate([np.abs(w).ravel() for w in start.values()]))
    threshold = every[int(0.8 * every.size)]
    for path, kernel in start.items():
        below = np.mean(np.abs(kernel) < threshold)
        assert known["layers"][path] == pytest.approx(below, abs=2 / kernel.size)
    assert known["sparsity"] == pytest.approx(0.8, abs=0.005)
