"""What every results file says of where it came from."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def provenance(module, seed, packages=()):
    """Dict: the command, the versions, the seed and the machine.

    Args:
        module: Name of the benchmark's module, e.g. `"benchmarks.step_overhead"`.
        seed: Integer.
        packages: Names of distributions whose versions matter besides the usual ones.
    """
    usual = ("tensorflow", "keras", "tf-keras", "tensorflow-model-optimization")
    return {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "seed": seed,
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in (*usual, *packages)},
        },
    }


def commit():
    """The commit that is checked out, or None outside of a repository."""
    command = ["git", "-C", str(RESULTS), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def machine():
    """Dict: the processor's model and the number of cores."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        models = [line.split(":")[1].strip() for line in lines if "model name" in line]
        model = models[0] if models else model
    return {"cpu": model, "cores": os.cpu_count()}


def write(path, content):
    """Writes text, or a dict as JSON: a reader sees the old file or the new one."""
    if not isinstance(content, str):
        content = json.dumps(content, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(content)
    partial.replace(path)


def read_rows(path):
    """List of the dicts in a file with one JSON line each; empty if there is none."""
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def append_row(path, row):
    """Adds a dict as one JSON line, so that a run that was stopped can go on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def markdown_table(header, rows):
    """A table for a `.md` file; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"
