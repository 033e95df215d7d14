"""One exchange per module; a stage per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Stage, Venue
from tests.exchange.wire_helpers import running_exchange


@pytest.fixture(scope="module")
def venue() -> Iterator[Venue]:
    """A running exchange with no limits in the way."""
    with running_exchange("--port", "0", "--ws-port", "0", "--control-port", "0", "--lift", "all") as at:
        yield Venue(at)


@pytest.fixture
def stage(venue: Venue, tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """``stage(followers=3)``: a daemon's folder with fresh accounts; its processes end with the test."""
    with ExitStack() as stack:
        def make(followers: int = 0, **more: Any) -> Stage:
            folder = tmp_path / f"s{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(Stage(folder, venue, followers, **more))

        yield make
