"""The advice for chips, and the measurements that it stands on."""

import json
from pathlib import Path

import pytest

import smart_tf
from smart_tf import export, targets
from tests.pruned_models import convnet, images

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "export.jsonl"
NAMES = (
    *("cpu-tflite", "ethos-u55-128", "ethos-u65", "ethos-u85"),
    *("nvidia-2:4", "flash-size"),
)


def measured():
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {(r["pattern"], r["route"]): r for r in rows if "route" in r}


def test_all_names_are_known_and_others_are_named():
    assert set(targets.TARGETS) == set(NAMES)
    with pytest.raises(ValueError, match="`name` must be one of cpu-tflite, ethos-u55"):
        targets.get("ethos-u99")


@pytest.mark.parametrize("name", NAMES)
def test_every_gain_is_in_the_committed_results(name):
    rows = measured()
    target = targets.get(name)
    assert target.gains or "not measured" in target.evidence
    for gain in target.gains:
        pruned, dense = rows[gain.pattern, gain.route], rows["dense", gain.route]
        ratio = pruned[gain.measure]
        if gain.measure != "latency_ratio":
            ratio /= dense[gain.measure]
        assert gain.ratio == pytest.approx(ratio, abs=0.005)
        assert 0 < gain.ratio < 1
        assert f"x {gain.ratio:.2f}" in str(target)


def test_the_advised_structure_is_the_best_of_its_kind_where_it_is_said_to_be():
    rows = measured()
    cycles = {p: row["cycles"] for (p, r), row in rows.items() if r == "ethos-u85-512"}
    assert min("2:4", "16x8 50%", "16x8 70%", key=cycles.get) == "2:4"
    assert str(targets.get("ethos-u85").structure) == "2:4"
    int8 = {p: row for (p, r), row in rows.items() if r == "tflite int8"}
    patterns = ("unstructured 70%", "1x4 70%", "16x8 70%", "channels 70% cut")
    fastest = min(patterns, key=lambda pattern: int8[pattern]["latency_ratio"])
    assert fastest == "channels 70% cut"
    assert str(targets.get("cpu-tflite").structure) == "channel"


def test_prune_takes_the_structure_of_a_target():
    model = convnet()
    pruned = smart_tf.prune(
        model, sparsity=0.5, structure=targets.get("ethos-u85").structure
    )
    assert smart_tf.report(pruned).structure == "2:4"


def test_the_routes_of_the_targets(tmp_path):
    cpu = targets.get("cpu-tflite").export(convnet(), tmp_path / "a.tflite", images())
    assert (cpu.target, cpu.quantize) == ("TFLite", "int8")
    pytest.importorskip("ethosu.vela")
    u55 = targets.get("ethos-u55-128").export(
        convnet(), tmp_path / "b.tflite", images()
    )
    assert u55.accelerator == "ethos-u55-128"
    assert u55.path == str(tmp_path / "b_vela.tflite")
    assert {"b.tflite", "b_vela.tflite"} <= {path.name for path in tmp_path.iterdir()}
    onnx = pytest.importorskip("onnx")
    report = targets.get("nvidia-2:4").export(convnet(), tmp_path / "c.onnx")
    assert report.target == "ONNX"
    onnx.checker.check_model(str(tmp_path / "c.onnx"))
    with pytest.raises(ValueError, match="`representative_data` must be given"):
        targets.get("flash-size").export(convnet(), tmp_path / "d.tflite")


def test_a_compiler_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def fail(*args):
        raise export.ExportError("no Vela")

    monkeypatch.setattr(targets, "compile_for_ethos_u", fail)
    with pytest.raises(export.ExportError, match="no Vela"):
        targets.get("ethos-u85").export(convnet(), tmp_path / "a.tflite", images())
    assert not list(tmp_path.iterdir())


def test_ethos_u_targets_name_accelerators_that_vela_knows():
    for name in NAMES:
        accelerator = targets.get(name).accelerator
        assert accelerator in (None, *export.ACCELERATORS)
