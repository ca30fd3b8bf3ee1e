"""One pytest run, two processes: Keras 3 here, tf_keras in a child.

Importing tfmot switches the whole process to tf_keras, so `tests/tf_keras` must not
share one with the Keras 3 tests.  When a run covers both, the folder is left out of
this process's collection, a child pytest runs it at the same time, and the child's
reports are replayed here: one list of failures, one summary line, one exit status.
`pytest tests/tf_keras` on its own runs in this process as usual.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from hypothesis import settings

# A run that decides about a change tries the same examples every time.
settings.register_profile("repeatable", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("repeatable")

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

TF_KERAS = pathlib.Path(__file__).parent / "tf_keras"
REPORTS = "SMART_TF_TEST_REPORTS"  # In the child: the file that it reports to.
CHILD_ARGUMENTS = pytest.StashKey()  # What this process leaves to a child.


def pytest_configure(config):
    if path := os.environ.get(REPORTS):
        config.pluginmanager.register(_Reporter(config, path))
        config.stash[CHILD_ARGUMENTS] = []
    else:
        _split_arguments(config)


def _split_arguments(config):
    """Decide what the child runs, and take it away from this process."""
    base = config.invocation_params.dir
    paths = {arg: (base / arg.split("::")[0]).resolve() for arg in config.args}
    inside = [arg for arg, path in paths.items() if path.is_relative_to(TF_KERAS)]
    if len(inside) == len(paths):  # Nothing but tf_keras: no second process.
        config.stash[CHILD_ARGUMENTS] = []
        return
    above = any(TF_KERAS.is_relative_to(path) for path in paths.values())
    config.stash[CHILD_ARGUMENTS] = [str(TF_KERAS)] if above else inside
    config.args = [arg for arg in config.args if arg not in inside]


def pytest_ignore_collect(collection_path, config):
    mine = not collection_path.is_relative_to(TF_KERAS)
    return None if mine or not config.stash[CHILD_ARGUMENTS] else True


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    config = session.config
    arguments = config.stash[CHILD_ARGUMENTS]
    if not arguments or config.option.collectonly or hasattr(config, "workerinput"):
        return (yield)
    with tempfile.TemporaryDirectory() as folder:
        reports = pathlib.Path(folder, "reports.jsonl")
        output = pathlib.Path(folder, "output.txt")
        with open(output, "w") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "pytest", *arguments, *_options(config)],
                env={**os.environ, REPORTS: str(reports)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=config.invocation_params.dir,
            )
        try:
            result = yield
            status = child.wait()
        finally:
            child.kill()
        _replay(session, reports, status, output)
    return result


def _options(config):
    """The options of this run that choose tests, for the child."""
    option = config.option
    chosen = ["-m", option.markexpr, "-k", option.keyword, "-p", "no:cacheprovider"]
    return [*chosen, f"--maxfail={option.maxfail or 0}"]


def _replay(session, reports, status, output):
    hook = session.config.hook
    lines = reports.read_text().splitlines() if reports.exists() else []
    told = status in (0, 1, 5)  # Passed, failed, nothing selected.
    for line in lines:
        data = json.loads(line)
        if isinstance(data["longrepr"], list):  # A skip's; JSON knows no tuples.
            data["longrepr"] = tuple(data["longrepr"])
        report = hook.pytest_report_from_serializable(config=session.config, data=data)
        if isinstance(report, pytest.CollectReport):
            hook.pytest_collectreport(report=report)
            told = True
            continue
        if report.when == "setup":
            session.testscollected += 1
            location = report.location
            hook.pytest_runtest_logstart(nodeid=report.nodeid, location=location)
        hook.pytest_runtest_logreport(report=report)
    if not told:
        tail = "\n".join(output.read_text().splitlines()[-40:])
        crash = pytest.TestReport(
            nodeid="tests/tf_keras",
            location=("tests/tf_keras", None, "process"),
            keywords={},
            outcome="failed",
            longrepr=f"The child process ended with status {status}:\n{tail}",
            when="call",
        )
        session.testscollected += 1
        hook.pytest_runtest_logreport(report=crash)


class _Reporter:
    """In the child: writes every report down as it comes."""

    def __init__(self, config, path):
        self.config, self.path = config, path

    def _write(self, report):
        data = self.config.hook.pytest_report_to_serializable(
            config=self.config, report=report
        )
        with open(self.path, "a") as file:
            file.write(json.dumps(data, default=str) + "\n")

    def pytest_runtest_logreport(self, report):
        self._write(report)

    def pytest_collectreport(self, report):
        if report.failed:
            self._write(report)
