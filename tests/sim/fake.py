"""A runner that costs nothing, for the tests of what stands around a run: some seeds fail, hang, die or differ."""

import os
import time
from dataclasses import dataclass, field
from typing import NamedTuple


class Violation(NamedTuple):
    invariant: str
    t: int
    text: str


@dataclass
class Options:
    followers: int | None = None
    moves: int | None = None
    crash: str | None = None
    fail_every: int = 0
    culprits: list[str] = field(default_factory=list)
    hang: int = -1
    die: int = -1
    throw: int = -1
    unstable: int = -1


@dataclass
class Result:
    seed: int
    steps: int
    sim_ns: int
    faults: dict
    crash_points: dict
    violations: list
    digest: str
    fired: list
    counters: dict


def run_seed(seed, options=None, mutant="", keep=None, trace=None):
    options = options or Options()
    if seed == options.hang:
        time.sleep(60)
    if seed == options.die:
        os.write(2, b"going down\n")
        os._exit(9)
    if seed == options.throw:
        raise ValueError("a rule did not hold")
    fired = [(name, n) for name in ("L01", "L02", "O01", "O03", "P01") for n in range(1, 6)]
    if keep is not None:
        fired = [item for item in fired if item in keep]
    violations = []
    if options.fail_every and seed % options.fail_every == 0:
        needed = {("L02", 3), ("O01", 4)}
        if needed <= set(fired) and (options.followers or 4) >= 2 and (options.moves or 9) >= 3:
            violations = [Violation("S4", 17, "dead order is live")]
    digest = f"{seed:x}" + (str(hash("x")) if seed == options.unstable else "")
    faults = {}
    for name, _ in fired:
        faults[name] = faults.get(name, 0) + 1
    return Result(seed, 10 + seed % 3, 1_000_000_000, faults, {"post_commit": 1}, violations, digest, fired, {"fills": 2})
