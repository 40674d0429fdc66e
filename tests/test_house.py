"""What holds for the whole repository."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for room in ("src", "tests", "benchmarks", "scripts", "mlx")
    for path in (REPO / room).rglob("*.py")
)
RECIPES = sorted((REPO / "configs").rglob("*.yaml"))


def python(code: str, folder: Path = REPO) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["smolvlm2", "smolvlm2.cli.main"])
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    heavy = {"torch", "numpy", "PIL", "av", "omegaconf", "transformers", "rich.markdown"}
    assert not heavy & set(python(code).split())


def test_help_answers_and_lists_the_commands():
    done = subprocess.run(
        [sys.executable, "-m", "smolvlm2.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for command in ("version", "recipes", "demo-data", "generate", "evaluate"):
        assert f"  {command} " in done.stdout


def test_no_source_file_is_longer_than_400_lines():
    assert SOURCES
    lengths = {str(path.relative_to(REPO)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(REPO).as_posix())
def test_every_shipped_yaml_is_readable(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_src_finds_the_packages_modules_once():
    code = (
        "import sys, src.evaluation, smolvlm2.evaluation as real;"
        "import src; print(src.evaluation.__path__[0] == real.__path__[0], len(src.__path__))"
    )
    assert python(code).split() == ["True", "2"]


def test_make_help_lists_every_target():
    makefile = (REPO / "Makefile").read_text()
    assert len(makefile.splitlines()) < 40
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY"))
    for target in phony.split()[1:]:
        assert f"\n{target}:" in makefile
        line = next(line for line in makefile.splitlines() if line.startswith(f"{target}:"))
        assert "## " in line
