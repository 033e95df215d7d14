"""The exception tree, split by whose fault it is.

CopydError
├── OperatorError        the operator's: configuration, usage, a file that will not do         exit 78 / 2
│   ├── ConfigError      carries every problem found, not only the first
│   │   └── SettlementRefused  a period that cannot be settled as asked; nothing was moved      exit 1
│   ├── UsageError
│   └── RequestRefused   the daemon understood a control request and will not do it             exit 1
├── WorldError           the world's: disk, network, the machine                               exit 74 / 69
│   ├── JournalError     damaged, foreign or locked journal                                    exit 65
│   ├── VenueUnavailable the venue cannot be reached
│   ├── TransfersInDoubt  transfers whose outcome nobody could say; asked again by id         exit 69
│   ├── DaemonUnreachable no daemon answers on the control socket                              exit 69
│   ├── AddressTaken     another process listens where we should                               exit 69
│   └── Fenced           another daemon of this site, started later, trades these accounts     exit 76
└── BrokenInvariant      ours: a rule of the engine did not hold; the process stops, restart is replay   exit 70

The counterparty's outcomes (a venue that refuses an order) are values, never exceptions inside the core.
"""

from __future__ import annotations


class CopydError(Exception):
    """Root of everything copyd raises on purpose."""

    exit_code = 1


class OperatorError(CopydError):
    """Something the operator can put right."""

    exit_code = 78


class UsageError(OperatorError):
    """A command that makes no sense as given."""

    exit_code = 2


class ConfigError(OperatorError):
    """One or more problems in a configuration or input file; ``problems`` holds them all, ready to print."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SettlementRefused(ConfigError):
    """A settlement that cannot be made as asked; ``problems`` says why, all of it at once. Nothing was moved."""

    exit_code = 1


class RequestRefused(OperatorError):
    """A control request the daemon will not carry out (unknown plan, wrong state); the text says why."""

    exit_code = 1


class WorldError(CopydError):
    """Disk, network or machine."""

    exit_code = 74


class JournalError(WorldError):
    """A journal that is damaged, foreign, locked by another daemon, or cannot be written."""

    exit_code = 65


class VenueUnavailable(WorldError):
    """The venue cannot be reached or refuses this client."""

    exit_code = 69


class TransfersInDoubt(WorldError):
    """Transfers were sent and nobody can say what became of them yet; the next run asks again by their ids."""

    exit_code = 69


class DaemonUnreachable(WorldError):
    """No daemon answers on the control socket."""

    exit_code = 69


class AddressTaken(WorldError):
    """A port or socket path another process already listens on."""

    exit_code = 69


class Fenced(WorldError):
    """A later daemon of the same site trades the same accounts; this one must not send another byte, nor be restarted."""

    exit_code = 76


class BrokenInvariant(CopydError):
    """A rule of the engine did not hold. Never caught: the process stops and restart is replay."""

    exit_code = 70
