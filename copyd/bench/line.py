"""A delay line on one machine: two network namespaces, real TCP end to end, a fixed delay each way between them.

The kernel's netem delays the packets where there is one; otherwise a program that carries them between two TUN devices
does (``bench/floor/line.c``). Both need root. The clock is the same on both sides, so arrival can be compared with sending.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from copyd.bench.programs import Program
from copyd.errors import WorldError

DELAY_US = 10_000
"""One way; the round trip is twice that."""
NEAR, FAR = "10.203.113.1", "10.203.113.2"
QUEUE = 50_000
"""Packets that may wait in a device: the line delays, it drops nothing."""
DEVICE = "line0"
_CLONE_NEWNET = 0x40000000
_SND_CWND = 80  # offset of tcpi_snd_cwnd in struct tcp_info


def missing() -> str | None:
    """What a delay line would need and this process does not have; None when it can be tried."""
    if os.geteuid() != 0:
        return "root (network namespaces)"
    if shutil.which("ip") is None:
        return "the program ip (apt install iproute2)"
    return None


def window(sock: Any) -> int:
    """The congestion window of a connection, in segments."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    found: int = struct.unpack_from("<I", info, _SND_CWND)[0]
    return found


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorldError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _forget_the_dead() -> None:
    """Remove what a killed run has left: a namespace outlives its process."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        kind, _, pid = name.rpartition("-")
        if kind in ("copyd-near", "copyd-far") and pid.isdigit() and not Path("/proc", pid).exists():
            _ip("netns", "del", name)


class Line:
    """Two namespaces, ``near`` and ``far``, and what delays the packets between them."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.near, self.far = f"copyd-near-{os.getpid()}", f"copyd-far-{os.getpid()}"
        self.kind = ""
        self.program: Program | None = None

    async def start(self) -> None:
        """Make it. ``WorldError`` says what this machine refuses."""
        try:
            _forget_the_dead()
            for name in (self.near, self.far):
                _ip("netns", "add", name)
            if not self._netem():
                await self._tun()
            for name, address in ((self.near, NEAR), (self.far, FAR)):
                _ip("-n", name, "addr", "add", f"{address}/30", "dev", DEVICE)
                _ip("-n", name, "link", "set", DEVICE, "txqueuelen", str(QUEUE), "mtu", "1500", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            await self.stop()
            raise

    def _netem(self) -> bool:
        """Two ends of a veth pair, each delaying what it sends; False where the kernel has no netem."""
        if shutil.which("tc") is None:
            return False
        try:
            _ip("link", "add", DEVICE, "netns", self.near, "type", "veth", "peer", "name", DEVICE, "netns", self.far)
        except WorldError:
            return False
        for name in (self.near, self.far):
            done = subprocess.run(
                ["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", DEVICE, "root", "netem", "delay", f"{DELAY_US}us",
                 "limit", str(QUEUE)], capture_output=True, check=False)
            if done.returncode:
                _ip("-n", self.near, "link", "del", DEVICE)
                return False
        self.kind = "veth and netem"
        return True

    async def _tun(self) -> None:
        if not os.path.exists("/dev/net/tun"):  # noqa: ASYNC240, PTH110 - no disk is touched
            raise WorldError("neither netem nor /dev/net/tun is there")
        self.program = await Program.start("the delay line", [str(self.binary), self.near, self.far, str(DELAY_US)])
        self.kind = "TUN devices and a program"

    def set(self, **settings: str | int) -> None:
        """IPv4 TCP settings of both sides, by their name below net.ipv4."""
        for name in (self.near, self.far):
            for key, value in settings.items():
                done = subprocess.run(
                    ["ip", "netns", "exec", name, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{key}"],
                    capture_output=True, text=True, check=False)
                if done.returncode:
                    raise WorldError(f"net.ipv4.{key}={value} is refused: {done.stderr.strip()}")

    def get(self, key: str) -> str:
        """One such setting of the near side."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.near, "cat", f"/proc/sys/net/ipv4/{key}"], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile belong to the near side, and stay there."""
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(path: str) -> None:
            with open(path, "rb") as space:  # noqa: PTH123 - a namespace, not a file of ours
                if libc.setns(space.fileno(), _CLONE_NEWNET):
                    raise WorldError(f"{path}: {os.strerror(ctypes.get_errno())}")

        with open("/proc/thread-self/ns/net", "rb") as home:  # noqa: PTH123
            enter(f"/var/run/netns/{self.near}")
            try:
                yield
            finally:
                if libc.setns(home.fileno(), _CLONE_NEWNET):
                    raise WorldError("this process cannot leave the delay line's namespace")

    async def stop(self) -> None:
        """Take it down, whatever of it is there."""
        if self.program is not None:
            await self.program.stop()
            self.program = None
        for name in (self.near, self.far):
            with contextlib.suppress(WorldError):
                _ip("netns", "del", name)
