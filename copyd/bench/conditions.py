"""Under which conditions a figure was measured; a latency without them says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from copyd import __version__


def conditions(excluded: Sequence[str], **more: Any) -> dict[str, Any]:
    """Machine, versions, load, date; ``excluded`` says what the figures leave out."""
    return {
        "cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}", "uvloop": _version("uvloop"),
        "cython": _version("cython"), "copyd": __version__, "commit": _commit(),
        "load_average": [round(value, 2) for value in os.getloadavg()], "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "switch_interval_us": round(sys.getswitchinterval() * 1e6), **more, "excluded": list(excluded),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree this package lies in, with ``+`` when it has changes; None outside a tree."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        return found + ("+" if _git("status", "--porcelain", "-uno", "--", ":/copyd") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    here = str(Path(__file__).parent)
    done = subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()


def file_system(path: Path) -> str:
    """Type of the file system a path lies on, from the mount table."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind
    place = str(path.resolve())
    for line in mounts:
        fields = line.split()
        if len(fields) > 2 and (place + "/").startswith(fields[1].rstrip("/") + "/") and len(fields[1]) >= len(best):
            best, kind = fields[1], fields[2]
    return kind


def percentiles(values: Sequence[int], shares: Sequence[float] = (50, 99)) -> dict[str, float]:
    """Nearest rank and maximum, ns to us."""
    if not values:
        return {**{f"p{_name(share)}": 0.0 for share in shares}, "max": 0.0}
    ordered = sorted(values)
    found = {}
    for share in shares:
        rank = max(0, -(-len(ordered) * share // 100) - 1)
        found[f"p{_name(share)}"] = round(ordered[int(rank)] / 1000, 1)
    return {**found, "max": round(ordered[-1] / 1000, 1)}


def _name(share: float) -> str:
    return f"{share:g}".replace(".", "")
