"""The built distribution, and what importing the library does to a process."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")

# Runs in a fresh process; says what importing has done to it.
IMPORT = """
import json, os, sys
import smart_tf
print(json.dumps({
    "file": smart_tf.__file__,
    "version": smart_tf.__version__,
    "loaded": sorted({name.split(".")[0] for name in sys.modules}),
    "legacy": os.environ.get("TF_USE_LEGACY_KERAS"),
}))
"""


def imported(folder):
    """Import the `smart_tf` that lies in `folder`, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert pathlib.Path(result["file"]).is_relative_to(folder)
    return result


def assert_no_side_effects(result):
    assert "keras" in result["loaded"]
    assert not {"tf_keras", "tensorflow_model_optimization"} & set(result["loaded"])
    assert result["legacy"] is None


def test_import_leaves_tf_keras_alone():
    assert_no_side_effects(imported(ROOT))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """sdist and wheel, built from a copy so that the work tree stays clean."""
    folder = tmp_path_factory.mktemp("packaging")
    source = shutil.copytree(ROOT, folder / "source", ignore=IGNORED)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder / "dist", source],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return folder / "dist"


@pytest.mark.slow
def test_wheel_holds_the_whole_package_and_nothing_else(dist):
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("smart_tf/**/*.py")}
    assert modules <= names
    tops = {name.split("/")[0] for name in names}
    version = imported(ROOT)["version"]
    assert tops == {"smart_tf", f"smart_tf-{version}.dist-info"}
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.slow
def test_sdist_holds_what_building_needs(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "LICENSE", "smart_tf/__init__.py"} <= names


@pytest.mark.slow
def test_installed_wheel_imports_without_side_effects(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet"]
        + ["--target", tmp_path, wheel],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert_no_side_effects(imported(tmp_path))
