"""What `fit` tells of the search: in its logs, in TensorBoard, and at the freeze."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import smart_tf
from tests.references import EachEpoch, compiled, data, greedy_topk, kernels, mlp

X, Y = data()
KEYS = {"temperature", "sparsity", "soft_sparsity", "mask_gap", "mask_flips"}


def pruned(structure="4x4", sparsity=0.75, method="smart"):
    model = smart_tf.prune(mlp(), sparsity, structure, method)
    return compiled(model, keras.optimizers.SGD(0.5))


def fit(model, *callbacks, epochs=5, verbose=0):
    """4 updates in an epoch."""
    settings = {"batch_size": 16, "shuffle": False, "verbose": verbose}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **settings)


def callback(**kwargs):
    """1 epoch of pre-training, 2 of search; 1 or more of fine-tuning follow."""
    return smart_tf.SmartPruningCallback(pretrain_epochs=1, search_epochs=2, **kwargs)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The logs of a run, its CSV and TensorBoard files, and what masks hang on."""
    folder = tmp_path_factory.mktemp("logs")
    look = EachEpoch(
        lambda m: (
            [k.weight_masks[0].logits.numpy() for k in m.layers],
            m.layers[0].search_state.numpy(),
        )
    )
    file = keras.callbacks.CSVLogger(folder / "log.csv")
    model = pruned()
    start = [k.weight_masks[0].logits.numpy() for k in model.layers]
    # In so short a search, logits that start cool are the ones that change places.
    driver = callback(log_dir=folder / "board", initial_temperature=0.5)
    logs = fit(model, driver, file, look).history
    return model, logs, folder, start, look.seen


def hard(logits):
    return np.concatenate(greedy_topk(logits, 0.25 * 36))


def soft(logits, state):
    _, temperature, a, s, *_ = state.astype(np.float64)
    logits = np.concatenate([g.ravel() for g in logits])
    return 1 / (1 + np.exp(-((logits - a) / temperature - s)))


def test_every_epoch_has_the_same_keys(course):
    _, logs, folder, *_ = course
    with open(folder / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and KEYS <= set(rows[0])
    for key in KEYS:
        assert [float(row[key]) for row in rows] == logs[key]


def test_before_the_search_the_gap_is_all_that_will_go(course):
    _, logs, *_ = course
    assert logs["soft_sparsity"][0] == 0.0
    assert logs["mask_gap"][0] == logs["sparsity"][0] == 0.75
    assert logs["temperature"][0] == 0.5  # its first value


def test_in_the_search_the_gap_is_between_soft_and_hard_masks(course):
    _, logs, _, _, seen = course
    logits, state = seen[1]
    gap = np.abs(soft(logits, state) - hard(logits)).mean()  # blocks of equal size
    assert logs["mask_gap"][1] == pytest.approx(gap, rel=1e-4) and gap > 0.01
    gone = 1 - soft(logits, state).mean()
    assert logs["soft_sparsity"][1] == pytest.approx(gone, rel=1e-4)


def test_flips_are_counted_from_epoch_to_epoch(course):
    _, logs, _, start, seen = course
    decided = [hard(start), *(hard(logits) for logits, _ in seen)]
    flips = [(a != b).mean() for a, b in zip(decided, decided[1:], strict=False)]
    assert logs["mask_flips"] == pytest.approx(flips)
    assert flips[1] > 0


def test_after_the_freeze_nothing_moves(course):
    _, logs, *_ = course
    assert logs["mask_gap"][2:] == [0.0, 0.0, 0.0]
    assert logs["mask_flips"][3:] == [0.0, 0.0]
    assert logs["soft_sparsity"][2:] == logs["sparsity"][2:] == [0.75, 0.75, 0.75]


def test_the_progress_bar_shows_them(capsys):
    fit(pruned(), callback(), epochs=4, verbose=2)
    lines = [k for k in capsys.readouterr().out.splitlines() if "mask_gap: " in k]
    assert len(lines) == 4
    assert all(f"{key}: " in lines[0] for key in KEYS)


@pytest.mark.parametrize("method", ["magnitude", "pdp", "pas", "awg", "acdc"])
def test_every_method_has_them(method):
    logs = fit(pruned(method=method), callback(), epochs=4).history
    assert all(np.isfinite(logs[key]).all() for key in KEYS)
    assert logs["mask_gap"][0] == pytest.approx(0.75)
    assert logs["mask_gap"][2:] == [0.0, 0.0]
    assert logs["mask_flips"][3:] == [0.0]


def test_flips_of_nm_groups_are_those_of_their_magnitudes():
    look = EachEpoch(lambda m: [k.copy() for k in kernels(m).values()])
    logs = fit(pruned("2:4", None), callback(), look, epochs=4).history

    def decided(kernel):
        """The 2 largest of every 4 along the inputs."""
        groups = np.abs(kernel).reshape(-1, 4, kernel.shape[1])
        return groups >= np.sort(groups, axis=1)[:, 2:3]

    first, second = look.seen[:2]  # before the freeze
    flips = [decided(a) != decided(b) for a, b in zip(first, second, strict=True)]
    expected = np.concatenate([f.ravel() for f in flips]).mean()
    assert logs["mask_flips"][1] == pytest.approx(expected) and expected > 0
    assert logs["soft_sparsity"][1] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("structure", ["5x7", smart_tf.Channel(round_to=1)], ids=str)
def test_the_gap_counts_weights(structure):
    """Of ragged blocks, and of channels that run through several layers."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width) for width in (16, 10, 4)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model = smart_tf.prune(model, 0.5, structure)
    metrics = smart_tf.Pruner(model).metrics()
    report = smart_tf.report(model)
    assert metrics["mask_gap"] == pytest.approx(report.sparsity)
    kept, blocks = (
        sum(getattr(k, name) for k in report.kernels)
        for name in ("blocks_kept", "blocks")
    )
    assert 1 - kept / blocks != pytest.approx(report.sparsity)  # not of equal weight


# ---- The facts at the freeze


def test_a_verbose_fit_tells_of_the_freeze_once(capsys):
    model = pruned()
    fit(model, callback(), verbose=2)
    lines = capsys.readouterr().out.splitlines()
    (title,) = [i for i, line in enumerate(lines) if "masks frozen" in line]
    assert "after update 12 " in lines[title]
    epochs = [i for i, line in enumerate(lines) if line.startswith("Epoch")]
    assert epochs[2] < title < epochs[3]  # after the epoch of the freeze
    panel = "\n".join(lines[title : epochs[3]])
    emptied = max(smart_tf.report(model).kernels, key=lambda k: k.sparsity)
    for fact in ("75.00% of 576", "9 of 36", f"{emptied.name} {emptied.sparsity:.1%}"):
        assert fact in panel
    fit(model, callback(), verbose=2)
    assert "masks frozen" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "verbose, of_fit, told", [(None, 0, 0), (True, 0, 1), (False, 2, 0), (0, 2, 0)]
)
def test_it_is_as_silent_as_one_wishes(verbose, of_fit, told, capsys):
    run = smart_tf.SmartPruningCallback(search_epochs=1, verbose=verbose)
    fit(pruned(), run, epochs=1, verbose=of_fit)
    assert capsys.readouterr().out.count("masks frozen") == told


def test_the_gap_at_the_freeze_is_that_of_the_last_soft_masks():
    model = pruned()
    pruner = smart_tf.Pruner(model, smart_tf.TemperatureSchedule(0, 2, 1.0, 0.5))
    pruner.start()
    for _ in range(2):
        model(X, training=True)
        for layer in pruner.layers:
            layer.pruning_step.assign_add(1)
        before = pruner.metrics()["mask_gap"]
        frozen = pruner.step()
    assert frozen and pruner.frozen_after == 2
    assert pruner.gap_at_freeze == before > 0.1
    assert pruner.metrics()["mask_gap"] == 0.0
    assert not pruner.step()


# ---- TensorBoard


@pytest.fixture(scope="module")
def board(course):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (course[2] / "board").iterdir()
    assert folder.name == "pruning"
    board = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    board.Reload()
    return board


def values(board, tag):
    return [tf.make_ndarray(e.tensor_proto) for e in board.Tensors(tag)]


def test_tensorboard_gets_the_logs_and_the_sparsity_of_every_kernel(course, board):
    model, logs, *_ = course
    for key in KEYS:
        np.testing.assert_allclose(
            values(board, f"pruning/{key}"), logs[key], rtol=1e-6
        )
        assert [e.step for e in board.Tensors(f"pruning/{key}")] == [0, 1, 2, 3, 4]
    for kernel in smart_tf.report(model).kernels:
        written = values(board, f"{kernel.name}/sparsity")
        assert len(written) == 5
        assert written[-1] == pytest.approx(kernel.sparsity)


def test_tensorboard_gets_masks_logits_and_maps(course, board):
    model, _, _, _, seen = course
    for index, kernel in enumerate(smart_tf.report(model).kernels):
        mask = model.layers[index].weight_masks[0].mask.numpy()
        *_, edges = values(board, f"{kernel.name}/logits")
        logits = seen[-1][0][index]
        assert edges[:, 2].sum() == logits.size
        assert edges[0, 0] == pytest.approx(logits.min())
        _, searching, *_, frozen = values(board, f"{kernel.name}/mask")
        assert searching[:, 2].sum() == frozen[:, 2].sum() == mask.size
        assert frozen[-1, 2] == mask.sum()
        width, height, *images = values(board, f"{kernel.name}/map")[-1]
        image = tf.io.decode_png(images[0]).numpy()[:, :, 0]
        assert (int(height), int(width)) == image.shape
        np.testing.assert_array_equal(image, 255 * mask.T)  # outputs x inputs


def test_large_maps_are_scaled_down():
    from smart_tf.summaries import _image

    picture = np.repeat(np.repeat(np.eye(2), 1000, axis=0), 600, axis=1)
    image = _image(picture).numpy()
    assert image.shape == (1, 512, 512, 1)
    np.testing.assert_array_equal(image[0, ::511, ::511, 0], np.eye(2))


def test_a_refused_run_leaves_no_files(tmp_path):
    run = smart_tf.SmartPruningCallback(search_epochs=9, log_dir=tmp_path / "board")
    with pytest.raises(ValueError, match="too short"):
        fit(pruned(), run, epochs=2)
    assert not (tmp_path / "board").exists()
    with pytest.raises(TypeError, match="`log_dir` must be the path"):
        smart_tf.SmartPruningCallback(log_dir=3)


@pytest.mark.parametrize("method", ["smart", "magnitude", "awg", "2:4"])
def test_a_run_that_diverges_can_be_ended_in_peace(method, tmp_path):
    structure = method if ":" in method else "4x4"
    sparsity = None if ":" in method else 0.75
    method = "smart" if ":" in method else method
    model = smart_tf.prune(mlp(), sparsity, structure, method)
    model = compiled(model, keras.optimizers.SGD(1e30))
    driver = smart_tf.SmartPruningCallback(log_dir=tmp_path)
    with pytest.warns(UserWarning, match="in the middle of the search"):
        logs = fit(model, driver, keras.callbacks.TerminateOnNaN()).history
    assert len(logs["loss"]) == 1 and np.isnan(logs["sparsity"]).all()
    with pytest.raises(ValueError, match="diverged.*at update [12].* lower learning"):
        smart_tf.strip_pruning(model)


def test_a_run_that_diverges_says_so_at_the_freeze():
    model = compiled(smart_tf.prune(mlp(), 0.75, "4x4"), keras.optimizers.SGD(1e30))
    with pytest.raises(ValueError, match="diverged.*at update 8"):
        fit(model, smart_tf.SmartPruningCallback(), epochs=4)
