"""The same seed gives the same history in another process with another hash seed (semantics 44)."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = "from copyd.sim.run import run_seed; print([(r.digest, r.steps, len(r.fired)) for r in map(run_seed, range(40, 60))])"


def test_digests_are_equal_under_another_hash_seed() -> None:
    outputs = [
        subprocess.run([sys.executable, "-c", CODE], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True,
                       text=True).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] and len(outputs[0]) > 400
