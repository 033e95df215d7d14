"""Every table in this directory holds, line by line. ``language.py`` says how to read one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.language import run_file

HERE = Path(__file__).parent


@pytest.mark.parametrize("table", sorted(HERE.glob("*.txt")), ids=lambda path: path.stem)
def test_table(table: Path) -> None:
    """What the table says must follow, follows; nothing else does."""
    run_file(table)
