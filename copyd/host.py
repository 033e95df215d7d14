"""Settings of the machine that cost a fan-out more than the program does, each with the line that sets it.

What each costs was measured with 10,000 orders: a window that starts anew after silence makes the last order over a line of
20 ms arrive after 77 ms instead of 20; a send buffer that does not hold a connection's share waits for the venue's
acknowledgements; small pages make every look at a follower's row cost a translation.
"""

from __future__ import annotations

import os
from pathlib import Path

FRAME_BYTES = 512
"""One order on the wire, with room."""


def host_notes(orders_per_connection: int, hot_threads: int, root: Path = Path("/")) -> list[str]:
    """What of this machine is worth setting, in words for the operator; settings that cannot be read are not mentioned.

    orders_per_connection: the largest share of an event that one connection carries. root: where ``/proc`` and ``/sys`` are.
    """
    notes = []
    proc, sys = root / "proc/sys/net", root / "sys"
    if _words(proc / "ipv4/tcp_slow_start_after_idle") == ["1"] and _words(proc / "ipv4/tcp_congestion_control") != ["bbr"]:
        notes.append(
            "after a silence connections start with a small window, and the last orders of an event wait for round trips: "
            "sysctl -w net.ipv4.tcp_slow_start_after_idle=0")
    wanted = orders_per_connection * FRAME_BYTES
    memory = _words(proc / "ipv4/tcp_wmem")
    if len(memory) == 3 and memory[2].isdigit() and int(memory[2]) < wanted:
        notes.append(
            f"a connection's share of an event is {wanted} bytes, its send buffer takes {memory[2]}: "
            f"sysctl -w net.ipv4.tcp_wmem='{memory[0]} {memory[1]} {max(wanted, 4 << 20)}'")
    if "[never]" in _words(sys / "kernel/mm/transparent_hugepage/enabled"):
        notes.append(
            "large pages are switched off, every look at a follower costs a translation: "
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
    governors = {word for path in sorted(sys.glob("devices/system/cpu/cpu*/cpufreq/scaling_governor")) for word in _words(path)}
    if governors - {"performance"}:
        notes.append(
            f"the processor's clock is governed by {', '.join(sorted(governors))} and is slow when an event comes: "
            "cpupower frequency-set -g performance")
    cores = len(os.sched_getaffinity(0))
    if hot_threads > cores:
        notes.append(f"runtime.hot_threads is {hot_threads}, and this process may use {cores} core{'s' * (cores != 1)}")
    return notes


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
