"""Models that are saved at any phase train on as if they had never stopped."""

import os
import pathlib
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

import smart_tf
from tests.tf_keras import tiny

sparsity = tfmot.sparsity.keras
ROOT = pathlib.Path(__file__).parents[2]
PHASES = {1: "dense", 3: "searching", 5: "frozen"}  # By the epochs done, of 6.
FORMATS = ["model.keras", "model.h5", "checkpoint"]
FILES = ["model.keras", "model.h5", "saved_model"]


def callback():
    # Dense for 2 epochs, searching for 2, and frozen for 2.
    return smart_tf.SmartPruningCallback(pretrain_epochs=2, search_epochs=2)


def new_model():
    model = tiny.sequential()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        shape = layer.kernel.shape
        layer.set_weights([rng.normal(size=shape) / np.sqrt(shape[0]), layer.bias])
    decay = tf_keras.optimizers.schedules.CosineDecay(1e-2, 24)
    optimizer = tf_keras.optimizers.AdamW(decay, clipnorm=1.0)
    return tiny.compiled(smart_tf.prune(model, 0.5, "4x4"), optimizer)


class SaveEverywhere(tf_keras.callbacks.Callback):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 in PHASES:
            assert smart_tf.report(self.model).phase == PHASES[epoch + 1]
            save(self.model, self.folder / str(epoch + 1))


def save(model, folder):
    folder.mkdir()
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.save_weights(folder / "checkpoint")
    if folder.name == "3":
        model.save(folder / "saved_model")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model that was never stopped, and what it saved on its way."""
    folder = tmp_path_factory.mktemp("saved")
    model = new_model()
    tiny.fit(model, 6, [callback(), SaveEverywhere(folder)])
    return model, folder


def restored(path):
    if path.name != "checkpoint":
        return tf_keras.models.load_model(path)
    # A checkpoint has the optimizer in it, so that this must be there already.
    model = new_model()
    model.optimizer = smart_tf.Pruner(model).wrap_optimizer(model.optimizer)
    model.load_weights(path)
    return model


def combinations():
    for epochs in PHASES:
        for name in FORMATS:
            slow = epochs != 3 and name != "model.keras"
            yield pytest.param(epochs, name, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("epochs,name", combinations())
def test_training_goes_on_as_if_never_stopped(run, epochs, name):
    straight, folder = run
    model = restored(folder / str(epochs) / name)
    assert smart_tf.report(model).phase == PHASES[epochs]
    tiny.fit(model, 6, [callback()], initial_epoch=epochs)
    for a, b in zip(straight.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert smart_tf.report(model).to_dict() == smart_tf.report(straight).to_dict()


@pytest.mark.parametrize(
    "name", [*(pytest.param(f, marks=pytest.mark.slow) for f in FILES[:2]), FILES[2]]
)
def test_the_schedule_is_saved_too(run, name):
    """tf_keras restores no optimizer from a SavedModel: there it starts anew."""
    straight, folder = run
    model = tf_keras.models.load_model(folder / "3" / name)
    schedules = {layer.schedule for layer in tiny.wrappers(model)}
    assert schedules == {tiny.wrappers(straight)[0].schedule}
    assert {int(layer.pruning_step) for layer in tiny.wrappers(model)} == {12}
    assert type(model.optimizer) is type(straight.optimizer)
    assert int(model.optimizer.iterations) == (0 if name == "saved_model" else 12)
    # Without any arguments it goes on with that schedule.
    tiny.fit(model, 4, [smart_tf.SmartPruningCallback()], initial_epoch=3)
    report = smart_tf.report(model)
    assert report.phase == "frozen"
    assert report.sparsity == tiny.sparsity(model) == 0.5


def test_weights_alone_carry_the_masks(run):
    straight, folder = run
    straight.save_weights(folder / "only.weights.h5")
    model = new_model()
    model.load_weights(folder / "only.weights.h5")
    x = tiny.inputs_for(model)
    np.testing.assert_array_equal(model(x), straight(x))
    for a, b in zip(straight.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.set_weights(straight.get_weights())
    np.testing.assert_array_equal(model(x), straight(x))


def test_served_model_computes_what_the_pruned_one_does(run):
    """A SavedModel's own graph, without Keras: the soft masks are in it."""
    _, folder = run
    path = folder / "3" / "saved_model"
    x = tiny.inputs_for(tiny.sequential())
    served = tf.saved_model.load(path).signatures["serving_default"]
    (outputs,) = served(tf.constant(x)).values()
    wanted = tf_keras.models.load_model(path)(x)
    np.testing.assert_allclose(outputs, wanted, atol=1e-5)
    plain = sparsity.strip_pruning(tf_keras.models.load_model(path))
    assert not np.allclose(outputs, plain(x), atol=1e-2)  # Dense: not frozen yet.


@pytest.mark.slow
def test_saving_an_untrained_model_does_not_warn_of_training(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*nothing drives.*")
        new_model().save(tmp_path / "saved_model")
    model = tf_keras.models.load_model(tmp_path / "saved_model")
    with pytest.warns(UserWarning, match="nothing drives"):
        tiny.fit(model, 1)


@pytest.mark.slow
def test_backup_and_restore_resumes_a_run_that_was_cut_off(run, tmp_path):
    straight, _ = run

    class CutOff(tf_keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    def backup():
        return tf_keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    with pytest.raises(KeyboardInterrupt):
        tiny.fit(new_model(), 6, [callback(), backup(), CutOff()])
    model = new_model()
    history = tiny.fit(model, 6, [callback(), backup()])
    assert history.epoch == [3, 4, 5]
    for a, b in zip(straight.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


LOAD = """
    import sys
    import numpy as np
    import tf_keras
    {imports}
    for path in sys.argv[2:]:
        model = tf_keras.models.load_model(path)
        np.save(path + ".npy", model(np.load(sys.argv[1])))
    {then}
"""


@pytest.mark.slow
def test_stripped_models_are_plain_ones_to_a_process_without_us(run, tmp_path):
    _, folder = run
    final = smart_tf.strip_pruning(tf_keras.models.load_model(folder / "5/model.keras"))
    names = [w.name for w in final.weights]
    assert names == [w.name for w in tiny.sequential().weights]
    x = tiny.inputs_for(final)
    paths = [tmp_path / name for name in FILES]
    for path in paths:
        final.save(path)
    np.save(tmp_path / "x.npy", x)
    then = 'assert not [m for m in sys.modules if m.startswith("smart_tf")]'
    code = LOAD.format(imports="", then=then)
    assert in_fresh_process(code, tmp_path / "x.npy", *paths) == ""
    for path in paths:
        np.testing.assert_allclose(np.load(f"{path}.npy"), final(x), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import smart_tf.flavours.tf_keras",
        "import tensorflow_model_optimization, smart_tf",
    ],
)
def test_a_fresh_process_loads_our_files(run, imports):
    straight, folder = run
    x = tiny.inputs_for(straight)
    np.save(folder / "x.npy", x)
    paths = [folder / "3" / name for name in FILES]
    wanted = tf_keras.models.load_model(paths[0])(x)
    code = LOAD.format(imports=imports, then="")
    assert in_fresh_process(code, folder / "x.npy", *paths) == ""
    for path in paths:
        np.testing.assert_allclose(np.load(f"{path}.npy"), wanted, atol=1e-6)


@pytest.mark.slow
def test_import_alone_touches_neither_tfmot_nor_tf_keras(run):
    """And still: a model is pruned, and a saved one loads as soon as we are told."""
    code = """
        import os, sys
        import smart_tf
        assert not {"tensorflow_model_optimization", "tf_keras"} & set(sys.modules)
        assert "TF_USE_LEGACY_KERAS" not in os.environ
        import tf_keras
        for path in sys.argv[1:]:
            try:
                tf_keras.models.load_model(path)
            except (TypeError, ValueError) as error:
                assert "PrunableLayer" in str(error), error
            else:
                raise AssertionError("Loads by itself: simplify the README.")
        import smart_tf.flavours.tf_keras
        for path in sys.argv[1:]:
            assert tf_keras.models.load_model(path).layers[0].weight_masks
        layer = tf_keras.layers.Dense(8, name="one")
        model = tf_keras.Sequential([tf_keras.Input((8,)), layer])
        pruned = smart_tf.prune(model, 0.5, "4x4")
        final = sys.modules["tensorflow_model_optimization"].sparsity.keras
        assert final.strip_pruning(pruned).layers == [layer]
    """
    folder = run[1] / "3"
    assert in_fresh_process(code, folder / "model.keras", folder / "model.h5") == ""


def in_fresh_process(code, *arguments):
    """Runs it, and returns what it says if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.stderr if done.returncode else ""
