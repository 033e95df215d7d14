"""What no other tool reads: imports of the kernels, floats and clocks in the core, the files every kernel and venue must have."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = sorted((ROOT / "copyd/_fast").glob("*.pyx"))
CORE = sorted((ROOT / "copyd/core").glob("*.py"))
TEXTS = sorted(
    path
    for pattern in ("copyd/**/*.py", "copyd/**/*.pyx", "copyd/**/*.pxd", "tests/**/*.py", "bench/**/*.py", "*.md", "config/*",
                    "systemd/*", "Makefile", ".ci/run", "*.toml", "setup.py")
    for path in ROOT.glob(pattern)
    if path.is_file()
)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_a_kernel_imports_only_kernels_and_errors(path: Path) -> None:
    """The import contracts do not read .pyx: a kernel knows other kernels, ``copyd.errors``, C, and the standard library."""
    for line in path.read_text().splitlines():
        found = re.match(r"\s*(?:from|import|cimport)\s+(copyd[\w.]*)", line)
        if found:
            assert found[1].startswith("copyd._fast") or found[1] == "copyd.errors", line


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_a_kernel_has_its_stub(path: Path) -> None:
    """Python's view of each kernel is written down and checked against it."""
    assert path.with_suffix(".pyi").exists()


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_has_no_floats(path: Path) -> None:
    """No float decides anything (semantics 42): no float literal, no true division, no ``float`` in the core."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), node.lineno
        assert not (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)), node.lineno
        assert not (isinstance(node, ast.Name) and node.id == "float"), node.lineno


def test_only_the_clock_reads_the_wall_clock() -> None:
    """The shell asks ``runtime.clock`` for the time that is recorded; the exchange, demo and bench have clocks of their own."""
    allowed = {"copyd/runtime/clock.py", "copyd/journal/writer.py"}  # the writer: when the journal was made
    for path in sorted((ROOT / "copyd").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[1] in ("exchange", "demo", "bench", "inspect", "sim") or name in allowed:
            continue
        text = path.read_text()
        assert "time.time(" not in text and "time_ns()" not in text.replace("now_ns()", ""), name
        assert "datetime.now" not in text and "utcnow" not in text, name


@pytest.mark.parametrize("name", ["audit", "disk", "draws", "leaders", "node", "people", "run", "venue", "world"])
def test_a_simulated_history_depends_on_its_seed_alone(name: str) -> None:
    """Level A reads no clock, draws from nothing but its seed and starts no thread (the determinism contract)."""
    tree = ast.parse((ROOT / f"copyd/sim/{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"time", "datetime", "random", "secrets", "uuid", "os", "threading", "asyncio", "socket"}


def test_every_venue_has_the_same_files() -> None:
    """One folder per venue, the same names in each; ``batch`` is a path for orders alone, so it has no feed."""
    for venue in sorted(path for path in (ROOT / "copyd/venues").iterdir() if (path / "__init__.py").exists()):
        for name in ("codec", "signing", "errors", "instruments", "contract"):
            assert (venue / f"{name}.py").exists() or venue.name == "common", f"{venue.name}/{name}.py"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_every_core_file_says_what_it_is(path: Path) -> None:
    """A docstring opens each file, and each public function and class has one."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name}"


def test_no_file_names_a_machine_or_leaves_a_mark() -> None:
    """The project speaks only of itself: no absolute home or work folder, no unfinished placeholder."""
    marks = re.compile(r"/(?:work|root)/\w|@@[A-Z]+@@|\bXX" r"X\b|\bTODO\b|\bFIXME\b")
    for path in TEXTS:
        found = marks.search(path.read_text(errors="replace"))
        assert not found or path == Path(__file__), f"{path.relative_to(ROOT)}: {found and found[0]}"
