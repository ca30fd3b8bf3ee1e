"""Search and freeze under `MirroredStrategy`, on two logical CPUs."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, threading
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
one = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one, one])

import keras
import numpy as np
import smart_tf
from smart_tf import topk
from tests.references import EachBatch, compiled, data, mlp, zeros

solves = []
threshold = topk.threshold


def counting(*args, **kwargs):
    solves.append(threading.get_ident())
    return threshold(*args, **kwargs)


topk.threshold = counting
x, y = data()


def pruned():
    return compiled(smart_tf.prune(mlp(), 0.75, "4x4"), keras.optimizers.SGD(0.1))


def fit(model):
    look = EachBatch(lambda m: [float(v) for v in m.layers[0].search_state.numpy()])
    callback = smart_tf.SmartPruningCallback(search_epochs=1)
    options = {"batch_size": 16, "epochs": 2, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[callback, look], **options)
    return [state[:2] for state in look.seen]


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = pruned()
states = fit(model)
by_replica = [solves.count(thread) for thread in set(solves)]
alone = pruned()
other = fit(alone)
difference = max(
    float(np.abs(a.numpy() - b.numpy()).max())
    for a, b in zip(model.variables, alone.variables, strict=True)
)
print(json.dumps({
    "replicas": strategy.num_replicas_in_sync,
    "solves": by_replica,
    "phases": [p for p, _ in states],
    "same": bool(np.allclose(states, other, atol=1e-4)),
    "updates": [int(layer.pruning_step.numpy()) for layer in model.layers],
    "zeros": zeros(model),
    "stripped": zeros(smart_tf.strip_pruning(model)),
    "difference": difference,
}))
"""


@pytest.fixture(scope="module")
def run():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_replicas_search_and_freeze_with_exact_sparsity(run):
    assert run["replicas"] == 2
    assert run["phases"] == [1.0, 1.0, 1.0, 2.0] + 4 * [2.0]
    assert run["updates"] == [8, 8, 8]
    assert run["zeros"] == run["stripped"] == 0.75


@pytest.mark.slow
def test_two_replicas_take_the_same_course_as_one(run):
    assert run["same"]
    assert run["difference"] < 1e-5


@pytest.mark.slow
def test_each_replica_solves_for_the_threshold_once_a_trace(run):
    assert run["solves"] == [1, 1]
