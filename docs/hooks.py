"""Puts benchmarks/results/ on the site, as pages in the section "Results"."""

from pathlib import Path

from mkdocs.structure.files import File

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def on_config(config):
    (section,) = [entry["Results"] for entry in config.nav if "Results" in entry]
    section += [f"results/{path.name}" for path in sorted(RESULTS.glob("*.md"))]


def on_files(files, config):
    for path in sorted(path for path in RESULTS.rglob("*") if path.is_file()):
        source = {"abs_src_path": str(path)}
        place = path.relative_to(RESULTS).as_posix()
        files.append(File.generated(config, f"results/{place}", **source))
