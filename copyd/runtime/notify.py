"""systemd's notify protocol: READY, STATUS, RELOADING, STOPPING and the watchdog.

One datagram of ``NAME=value`` lines to the socket named in ``$NOTIFY_SOCKET``. These few lines are our own rather than
libsystemd's sender because that one writes to a *blocking* socket: with the manager's queue full it would stop the loop
whose health the watchdog reports. Here a datagram that does not fit is dropped and counted; a missed watchdog beat is
followed by the next one, and a missed READY is seen by the caller.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to the manager that started this process, or does nothing when none did."""

    def __init__(self, address: str = "", watchdog_interval_ns: int = 0) -> None:
        self.watchdog_interval_ns = watchdog_interval_ns  # 0 = the unit has no WatchdogSec
        self.dropped = 0
        self._socket: socket.socket | None = None
        if address:
            # "@" is the manager's spelling of the abstract name space, whose names begin with a zero byte.
            self._address = "\0" + address[1:] if address.startswith("@") else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, pid: int | None = None) -> Notifier:
        """Reads ``$NOTIFY_SOCKET`` and ``$WATCHDOG_USEC`` (which counts only for the process in ``$WATCHDOG_PID``)."""
        environ = os.environ if environ is None else environ
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid() if pid is None else pid))
        interval_ns = int(usec) * 1_000 if usec.isdigit() and ours else 0
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address if address[:1] in ("/", "@") else "", interval_ns)

    @property
    def active(self) -> bool:
        return self._socket is not None

    @property
    def beat_interval_ns(self) -> int:
        """How often to call `watchdog`: half the manager's patience, as it recommends; 0 = never."""
        return self.watchdog_interval_ns // 2

    def _send(self, text: str) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:  # queue full, or the manager is gone: neither may stop or delay the daemon
            self.dropped += 1
            return False
        return True

    def ready(self, status: str = "") -> bool:
        """The start (or a reload) is complete. False when it was not delivered: call again."""
        return self._send("READY=1" + _status(status))

    def status(self, status: str) -> bool:
        """One line for ``systemctl status``; never holds a secret."""
        return self._send(_status(status).lstrip("\n"))

    def reloading(self, mono_ns: int) -> bool:
        """A reload begins; `ready` ends it. Newer managers want the monotonic time with it."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={mono_ns // 1_000}")

    def stopping(self, status: str = "") -> bool:
        """The stop has begun (SIGTERM: draining)."""
        return self._send("STOPPING=1" + _status(status))

    def extend_timeout(self, seconds: int) -> bool:
        """Asks for more time to start or stop: replaying a long journal, settling orders in doubt."""
        return self._send(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")

    def watchdog(self) -> bool:
        """One beat. Call it from the loop itself and only while the loop turns, never from a thread."""
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _status(status: str) -> str:
    """A status line; line ends would be read as further variables."""
    return "\nSTATUS=" + " ".join(status.split()) if status else ""
