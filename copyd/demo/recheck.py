"""Check a kept run once more: ``python -m copyd.demo.recheck DIRECTORY`` (of ``copyd demo --keep DIRECTORY``).

Reads the exchange's books, the plan file and the decisions as they were kept; needs no process of the run.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from .daemon import LEADER
from .exchange import KeptBooks
from .history import VerifyConfig, read_claims, read_plans
from .verifier import Verdict, verify


class Kept(msgspec.Struct):
    """What the run was configured with."""

    config: VerifyConfig
    balances: dict[str, int]
    held_ts: int = 0
    held: list[tuple[str, str, str, int]] = []


def recheck(directory: Path) -> Verdict:
    """The verdict over a kept run."""
    kept = msgspec.json.decode((directory / "verify.json").read_bytes(), type=Kept)
    truth = asyncio.run(KeptBooks(directory / "books").truth(LEADER))
    truth.balances = kept.balances
    truth.held_ts, truth.held = kept.held_ts, {row[:3]: row[3] for row in kept.held}
    return verify(truth, read_plans(directory / "followers.jsonl"), read_claims(directory / "decisions.jsonl"), kept.config)


def main(argv: list[str] | None = None) -> int:
    """Print the verdict; exit 0 only when verified."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or not Path(arguments[0], "verify.json").exists():
        print("usage: python -m copyd.demo.recheck DIRECTORY (kept by copyd demo --keep)", file=sys.stderr)
        return 2
    verdict = recheck(Path(arguments[0]))
    for problem in verdict.problems:
        print(problem)
    row = msgspec.structs.asdict(verdict)
    del row["problems"]
    print(msgspec.json.format(msgspec.json.encode(row), indent=2).decode())
    return 0 if verdict.verified else 1


if __name__ == "__main__":
    sys.exit(main())
