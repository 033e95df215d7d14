"""The catalogue of faults: everything that is known to go wrong, where it can be made to go wrong, and what proves it did.

One row per fault. ``levels`` says where it can be injected: ``A`` the seeded world around the production core, ``B`` the real
adapters over in-memory transports, ``C`` the real daemon; ``unit`` a table or unit test, named in ``where``; ``later`` not
reachable, with the reason in ``where``. A level is a claim about the machinery; only a counter of a run says that it happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

GROUPS = {"L": 25, "O": 40, "J": 26, "P": 18, "C": 11, "A": 19, "X": 23}
"""How many faults each group has: leader stream, order entry, journal, process, configuration, accounts, security."""
GROUP_NAMES = {
    "L": "leader stream", "O": "order entry", "J": "journal and disk", "P": "process, time, machine",
    "C": "configuration", "A": "operation and followers", "X": "security",
}


class Fault(NamedTuple):
    """One row of the catalogue."""

    id: str
    title: str
    levels: tuple[str, ...]
    where: str = ""

    @property
    def simulated(self) -> tuple[str, ...]:
        """The levels of the simulator that can inject it."""
        return tuple(level for level in self.levels if level in "ABC")


_ERRORS = "tests/venues/binance_usdm/test_errors.py"
_GATEWAY = "tests/venues/binance_usdm/test_gateway.py"
_DOUBTS = "tests/venues/binance_usdm/test_doubts.py"
_CODEC = "tests/venues/binance_usdm/test_codec.py"
_VENUE = "tests/venues/binance_usdm/test_against_exchange.py"
_JOURNAL = "tests/journal/test_journal.py"
_RECORDS = "tests/journal/test_records.py"
_CHECK = "tests/journal/test_check.py"
_YAML = "tests/config/test_yamlcheck.py"
_CONSOLE = "no console, no logins and no roles exist yet; the control socket is the operator's own"
_OTHER = "none of the venues that exist works that way"
_BATCH = "orders are placed one by one; there is no batch endpoint in use"
_CANCEL = "copyd places market and IOC orders only: it has nothing to cancel or to amend"

_ROWS: tuple[tuple[str, str, str, str], ...] = (
    # -- leader stream
    ("L01", "an execution of the leader is told twice", "A B", ""),
    ("L02", "executions arrive in another order than they happened", "A B", ""),
    ("L03", "executions are missing from the stream", "A B", ""),
    ("L04", "the old and the new connection both deliver", "A B", ""),
    ("L05", "a fill is told before the answer to its order", "A B", ""),
    ("L06", "the leader's order is cancelled after a part of it filled", "A", ""),
    ("L07", "the cumulative quantity goes backwards or jumps", "A", ""),
    ("L08", "a snapshot of the leader disagrees with his stream", "A B", ""),
    ("L09", "the leader trades between the reading of a snapshot and its arrival", "A B", ""),
    ("L10", "the leader's stream is open and silent", "A B C", ""),
    ("L11", "heartbeats arrive, executions do not", "A B", ""),
    ("L12", "the listen key expires or the venue ends the connection", "A B", ""),
    ("L13", "an event of the leader arrives too old", "A B C", ""),
    ("L14", "the venue's clock and ours differ", "A B C", ""),
    ("L15", "a price is far off the market", "A B", ""),
    ("L16", "the leader trades an instrument nobody configured", "A unit", "tests/e2e/test_bad_input.py"),
    ("L17", "a frame cannot be read: unknown word, broken JSON, number as text", "A B unit", _CODEC),
    ("L18", "a frame is too large or too deep", "A B", ""),
    ("L19", "the leader is liquidated or deleveraged", "A", ""),
    ("L20", "the leader changes leverage or margin mode", "A", ""),
    ("L21", "the leader deposits or withdraws", "A B", ""),
    ("L22", "the leader crosses zero in one order", "A B", ""),
    ("L23", "a burst of executions", "A B", ""),
    ("L24", "two leaders move the same instrument of one follower", "A", ""),
    ("L25", "the venue corrects a trade of the leader", "A", ""),
    # -- order entry
    ("O01", "no answer, and the order lives", "A B C", ""),
    ("O02", "no answer, and there is no order", "A B C", ""),
    ("O03", "the answer comes after we stopped waiting", "A B C", ""),
    ("O04", "not found, asked before the fence", "A B", ""),
    ("O05", "the venue says this id exists already", "A B", ""),
    ("O06", "an id is accepted again after its order has filled", "later", "an id is sent once; only mutants meet it"),
    ("O07", "429: too many requests", "A B", ""),
    ("O08", "418: the address is banned for a while", "A B", ""),
    ("O09", "5xx with the order live or dead", "A B C", ""),
    ("O10", "an answer code that says nothing certain", "A B unit", _ERRORS),
    ("O11", "some of a batch fail, or are missing from the answer", "later", _BATCH),
    ("O12", "accepted first, rejected afterwards", "A", ""),
    ("O13", "a part fills, the rest expires", "A", ""),
    ("O14", "rejected for lot, tick or minimum: the filters changed", "A", ""),
    ("O15", "rejected for want of margin", "A B", ""),
    ("O16", "a reduce-only order would not reduce, or the position mode is another", "A B", ""),
    ("O17", "self-trade prevention ends the order", "A", ""),
    ("O18", "a post-only order would cross", "later", "copyd places no post-only orders"),
    ("O19", "the market is halted, or the price outside its band", "A", ""),
    ("O20", "the venue is under maintenance", "A", ""),
    ("O21", "bytes are written and nothing ever comes back", "A B C", ""),
    ("O22", "the connection breaks before any byte was written", "A B", ""),
    ("O23", "a library repeats a request on its own", "B", ""),
    ("O24", "a cancel without an answer", "later", _CANCEL),
    ("O25", "a cancel is answered with unknown order", "later", _CANCEL),
    ("O26", "an amend gives the order another id", "later", _OTHER),
    ("O27", "a question is answered by a replica that lags", "A B", ""),
    ("O28", "a finished order is gone from the recent list", "A", ""),
    ("O29", "an order is too old to be asked about", "later", "a doubt is settled or HELD within minutes; orders live 90 days"),
    ("O30", "the stream says filled, the question says new", "A B", ""),
    ("O31", "a fill under our tag of an order no table knows", "A", ""),
    ("O32", "a fill that is not ours", "A B", ""),
    ("O33", "one trade number in two instruments or accounts", "A unit", "tests/runtime/test_venue_side.py"),
    ("O34", "the fee is taken from the position", "B", ""),
    ("O35", "the timestamp is outside the window", "A B", ""),
    ("O36", "the nonce is too low", "later", _OTHER),
    ("O37", "an outage ends and everything must be asked within the budget", "A B", ""),
    ("O38", "an answer belongs to another account", "unit", _DOUBTS),
    ("O39", "success is told with another side or quantity", "B unit", _DOUBTS),
    ("O40", "no name resolution, no TLS, no connection", "A B", ""),
    # -- journal and disk
    ("J01", "crash before the commit", "A C", ""),
    ("J02", "crash after the commit, before the first byte", "A C", ""),
    ("J03", "crash in mid fan-out", "A C", ""),
    ("J04", "crash after the send, before the answer is recorded", "A C", ""),
    ("J05", "power cut during a commit", "A C", ""),
    ("J06", "a record is torn", "C unit", _RECORDS),
    ("J07", "a meta page is torn", "C", ""),
    ("J08", "the first creation is interrupted", "C unit", _JOURNAL),
    ("J09", "the map is full", "A C unit", "tests/e2e/test_journal_full.py"),
    ("J10", "the disk is full", "A C unit", "tests/journal/test_crash.py"),
    ("J11", "the disk is full under a writable map", "later", "the map is never writable: there is no such option to set"),
    ("J12", "an I/O error on the sync of a commit", "A C", ""),
    ("J13", "an I/O error on the meta write of a commit", "A C", ""),
    ("J14", "an I/O error while the map is read", "C unit", _CHECK),
    ("J15", "a page rots silently", "C unit", _CHECK),
    ("J16", "a second process opens the journal", "C unit", _JOURNAL),
    ("J17", "one process opens the journal twice", "later", "one place in the daemon opens the journal; nothing tries twice"),
    ("J18", "a fork with the journal open", "C unit", _JOURNAL),
    ("J19", "a reader holds its transaction for long", "unit", _JOURNAL),
    ("J20", "a reader was killed and left its slot", "C", ""),
    ("J21", "the journal is on a network file system", "C unit", _JOURNAL),
    ("J22", "the map is resized under running transactions", "unit", _JOURNAL),
    ("J23", "the disk is slow", "A B C", ""),
    ("J24", "an old backup of the journal is put back", "C", ""),
    ("J25", "the journal is of a newer format", "unit", _JOURNAL),
    ("J26", "records are dropped and the state carried on", "unit", _JOURNAL),
    # -- process, time, machine
    ("P01", "kill -9 at any step", "A B C", ""),
    ("P02", "a crash while recovering from a crash", "A B C", ""),
    ("P03", "SIGTERM: drain and leave", "A B C unit", "tests/e2e/test_life.py"),
    ("P04", "SIGTERM, then SIGKILL", "C", ""),
    ("P05", "the kernel kills for memory", "C", ""),
    ("P06", "the loop stands still", "A B C", ""),
    ("P07", "the machine is suspended", "A B", ""),
    ("P08", "the wall clock is put back or forward", "A B C", ""),
    ("P09", "leap second, summer time", "later", "time is nanoseconds of UTC throughout: there is nothing to inject"),
    ("P10", "no file descriptors left", "C", ""),
    ("P11", "the journal's writer dies", "A unit", "tests/journal/test_crash.py"),
    ("P12", "an exception nobody expected", "A B unit", "tests/runtime/test_venue_side.py"),
    ("P13", "a kernel computes wrongly", "unit", "tests/core/test_kernel_equals_twin.py"),
    ("P14", "another build on the same journal", "unit", "tests/inspect/test_checks.py"),
    ("P15", "restart after restart", "A unit", "tests/systemd/test_unit.py"),
    ("P16", "two daemons trade for the same accounts", "A C", ""),
    ("P17", "a false venue behind a false name", "later", "no test presents a bad certificate yet"),
    ("P18", "a bit flips in memory", "later", "needs ECC memory; a flipped record is found (J15)"),
    # -- configuration
    ("C01", "a bad file at the start", "unit", _YAML),
    ("C02", "a bad file on reload", "A unit", "tests/e2e/test_life.py"),
    ("C03", "a reload in mid-burst", "A", ""),
    ("C04", "a key that is spelled wrongly", "unit", _YAML),
    ("C05", "a wrong type, unit or size", "unit", _YAML),
    ("C06", "keys that occur twice, anchors, tags", "unit", _YAML),
    ("C07", "a secret in the configuration", "unit", _YAML),
    ("C08", "a secret in what the daemon writes", "unit", "tests/e2e/test_secrets.py"),
    ("C09", "a plan is stopped while its orders are open", "A", ""),
    ("C10", "a multiplier ten times too large", "later", "bounds are checked, but no second person is asked yet"),
    ("C11", "a file that others may write", "unit", _YAML),
    # -- operation and followers
    ("A01", "a pause in mid-burst", "A", ""),
    ("A02", "the kill switch", "A", ""),
    ("A03", "a crash right after a pause was acknowledged", "A", ""),
    ("A04", "a resume after a long pause", "A", ""),
    ("A05", "two operators say the opposite", "A", ""),
    ("A06", "a plan is edited while an order is in doubt", "A", ""),
    ("A07", "more orders than there can be", "later", "no breaker counts orders against events yet; the auditor does"),
    ("A08", "a follower trades by hand", "A B", ""),
    ("A09", "a follower deposits or withdraws", "A B", ""),
    ("A10", "a key is revoked or its address refused", "A B", ""),
    ("A11", "a key gains the right to withdraw", "later", "the scope of keys is not checked yet"),
    ("A12", "a follower changes leverage or margin mode", "A B", ""),
    ("A13", "a follower is liquidated or deleveraged", "A", ""),
    ("A14", "an account is locked by the venue", "A", ""),
    ("A15", "one account is slow among many", "A B", ""),
    ("A16", "quantity below the minimum", "A", ""),
    ("A17", "a target that flaps around a threshold", "A", ""),
    ("A18", "a backup is put back on another host", "later", "a journal older than the venue's history is not recognised yet"),
    ("A19", "nobody hears the alarm", "unit", "tests/runtime/test_notify.py"),
    # -- security
    ("X01", "a key with the right to withdraw", "later", "the scope of keys is not checked yet"),
    ("X02", "a venue that does not tell a key's rights", "later", "the scope of keys is not checked yet"),
    ("X03", "a control request is played again", "later", _CONSOLE),
    ("X04", "one TOTP code is used twice", "later", _CONSOLE),
    ("X05", "TOTP codes are guessed", "later", _CONSOLE),
    ("X06", "passwords are guessed", "later", _CONSOLE),
    ("X07", "a session cookie is stolen", "later", _CONSOLE),
    ("X08", "script in the console", "later", _CONSOLE),
    ("X09", "a foreign page sends requests", "later", _CONSOLE),
    ("X10", "a webhook that points inward", "later", "no webhooks exist yet"),
    ("X11", "a path that leaves its folder", "later", _CONSOLE),
    ("X12", "a request too large", "later", "no test sends the control socket too much yet"),
    ("X13", "clients that send slowly", "later", "no test holds the control socket open slowly yet"),
    ("X14", "one request read as two", "later", _CONSOLE),
    ("X15", "a role does what it may not", "later", _CONSOLE),
    ("X16", "one tenant reads another's data", "later", _CONSOLE),
    ("X17", "the audit log is edited", "unit", _CHECK),
    ("X18", "a dependency turns hostile", "later", "dependencies are not pinned by hash yet"),
    ("X19", "the ciphertext of two followers is swapped", "later", "keys are not stored encrypted by copyd yet"),
    ("X20", "memory is read by another process", "later", "the unit forbids it; no test tries"),
    ("X21", "a token is guessed by timing", "later", _CONSOLE),
    ("X22", "line breaks and escapes in what is logged", "later", "logs are JSON lines; no test sends line breaks through yet"),
    ("X23", "keys stolen elsewhere are used", "later", "the binding of keys to addresses is not checked yet"),
)

CATALOGUE: dict[str, Fault] = {
    id_: Fault(id_, title, tuple(levels.split()), where) for id_, title, levels, where in _ROWS
}


class Standing(NamedTuple):
    """What is known about one fault after a run."""

    fault: Fault
    counts: dict[str, int]
    state: str

    @property
    def total(self) -> int:
        """How often it was injected, over all levels."""
        return sum(self.counts.values())


INJECTED, MISSED, ELSEWHERE, TABLE, LATER = "injected", "not hit in this run", "other levels only", "unit test", "not reachable"


def by_id(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by catalogue id: a world may inject one fault in several places, ``O09/failed`` beside ``O09``."""
    totals: dict[str, int] = {}
    for name, count in counts.items():
        id_ = name.partition("/")[0]
        totals[id_] = totals.get(id_, 0) + count
    return totals


def coverage(counted: Mapping[str, Mapping[str, int]]) -> list[Standing]:
    """The standing of every fault: ``counted`` is, per level, how often each id was injected by the runs at hand.

    A level without an entry was not run. An id nobody catalogued is a mistake of the world: ``ValueError``.
    """
    totals = {level: by_id(counts) for level, counts in sorted(counted.items())}
    unknown = sorted({id_ for counts in totals.values() for id_ in counts} - CATALOGUE.keys())
    if unknown:
        raise ValueError(f"faults that are not in the catalogue: {', '.join(unknown)}")
    found = []
    for fault in CATALOGUE.values():
        counts = {level: counts[fault.id] for level, counts in totals.items() if counts.get(fault.id)}
        if counts:
            state = INJECTED
        elif any(level in counted for level in fault.simulated):
            state = MISSED
        elif fault.simulated:
            state = ELSEWHERE
        elif "unit" in fault.levels:
            state = TABLE
        else:
            state = LATER
        found.append(Standing(fault, counts, state))
    return found
