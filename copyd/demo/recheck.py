"""Check a kept run once more: ``python -m copyd.demo.recheck DIRECTORY`` (of ``copyd demo --keep DIRECTORY``).

Reads the exchange's books, the plan file and the decisions as they were kept; needs no process of the run.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from .across import MAJOR_ASSETS, groups_of, together, verify_all
from .daemon import LEADER
from .exchange import KeptBooks
from .history import Truth, VerifyConfig, read_claims, read_plans
from .verifier import Verdict, verify


class Kept(msgspec.Struct):
    """What the run was configured with, and what was known beforehand of one exchange."""

    config: VerifyConfig
    balances: dict[str, int]
    held_ts: int = 0
    held: list[tuple[str, str, str, int]] = []
    leader: str = LEADER


def books(directory: Path, name: str, folder: str) -> tuple[Kept, Truth]:
    """One exchange's books as they were kept, with what belongs to them."""
    kept = msgspec.json.decode((directory / name).read_bytes(), type=Kept)
    truth = asyncio.run(KeptBooks(directory / folder).truth(kept.leader))
    truth.balances = kept.balances
    truth.held_ts, truth.held = kept.held_ts, {row[:3]: row[3] for row in kept.held}
    return kept, truth


def recheck(directory: Path) -> Verdict:
    """The verdict over a kept run, of one exchange or of several."""
    plans, claims = read_plans(directory / "followers.jsonl"), read_claims(directory / "decisions.jsonl")
    if (directory / "verify.json").exists():
        kept, truth = books(directory, "verify.json", "books")
        return verify(truth, plans, claims, kept.config)
    found = {
        file.stem.removeprefix("verify-"): books(directory, file.name, f"books-{file.stem.removeprefix('verify-')}")
        for file in sorted(directory.glob("verify-*.json"))
    }
    homes = {kept.leader: venue for venue, (kept, _) in found.items()}
    truths = {venue: truth for venue, (_, truth) in found.items()}
    config = next(iter(found.values()))[0].config
    return together(verify_all(groups_of(plans, homes), truths, claims, config, MAJOR_ASSETS))


def main(argv: list[str] | None = None) -> int:
    """Print the verdict; exit 0 only when verified."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or not any(Path(arguments[0]).glob("verify*.json")):
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
