"""Known-bad variants of the product, one small mistake each, and the hunt for the first history that shows it.

A mutant patches the production core, or the glue at the node's edge, from outside: the product carries no switches. One
that survives points at a fault the world lacks. ``canary`` breaks the judge's own facts, so it must fail at once wherever
anything was accepted at all: a simulator that lets it live judges nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from copyd.sim.sweep import LIMIT_S, RUNNER, Pool, Task, twice

SEEDS_MAX = 4000
APART_MAX = 40
CANARY = "canary"


class Mutant(msgspec.Struct):
    """One mistake: what it is, which rules should notice, and how it is put in."""

    broken: str
    expected: tuple[str, ...]
    apply: Callable[[Patches], None]
    apart: bool = False
    """Only a comparison of two processes shows it."""
    setting: str = ""
    """A venue that the product must live with as well, and without which another part makes up for the mistake."""


MUTANTS: dict[str, Mutant] = {}
SETTINGS: dict[str, Callable[[Patches], None]] = {}
"""Settings by name: the product passes them, only the mistake does not."""
BY_ID = "by_id_only"

NOT_YET = {
    "totp_step_not_stored": "there are no logins",
    "role_not_checked": "there are no roles: the control socket is the operator's own",
    "request_id_not_durable": "control requests carry no id yet",
    "nonce_not_persisted": "the venue in use orders by timestamp, not by nonce",
    "batch_item_missing_is_ok": "orders are placed one by one",
    "cancel_reject_unlocks": "copyd cancels nothing",
    "redactor_bypassed": "the simulated core writes no logs; the end-to-end test of secrets covers it",
    "reload_mid_event": "a configuration is an input like any other: there is no moment inside an event",
    "caps_on_confirmed_only": "one opening of a leg is on the wire at a time: when a cap is asked nothing is unconfirmed",
    "snapshot_before_subscribe": "later readings and comparisons find what was missed; the tests of the leader's stream kill it",
    "gap_off_by_one": "as snapshot_before_subscribe: the snapshot wins over what is missing",
    "inference_not_retracted": "what is booked twice the next look takes back; the scenarios of reconciliation kill it",
    "late_fill_dropped": "a fill behind the end of an order contradicts the venue's contract; unit tests tell the core of one",
    "fence_without_clock_error": "the guard is as wide as the clock's error in this world: it makes up for it",
    "no_boot_fence": "the boot fence belongs to durability below strict, which the simulated disk does not have",
}
"""Mutants of the list whose subject does not exist, or not here: name and reason."""


class Patches:
    """Changes to classes and modules that are taken back when the context ends."""

    def __init__(self) -> None:
        self.undo: list[tuple[Any, Any, Any]] = []

    def set(self, owner: Any, name: Any, value: Any) -> None:
        """An attribute of a class or module; for a dict its item."""
        if isinstance(owner, dict):
            self.undo.append((owner, name, owner[name]))
            owner[name] = value
        else:
            self.undo.append((owner, name, owner.__dict__[name]))
            setattr(owner, name, value)

    def around(self, owner: Any, name: Any, wrap: Callable[[Any], Any]) -> None:
        """A method or function, by one that knows the original."""
        self.set(owner, name, wrap(owner[name] if isinstance(owner, dict) else owner.__dict__[name]))

    def restore(self) -> None:
        """Everything as it was."""
        for owner, name, value in reversed(self.undo):
            if isinstance(owner, dict):
                owner[name] = value
            else:
                setattr(owner, name, value)
        self.undo.clear()


def mutant(
    name: str, broken: str, *expected: str, apart: bool = False, setting: str = "",
) -> Callable[[Callable[[Patches], None]], None]:
    """Registers the function below it."""

    def register(apply: Callable[[Patches], None]) -> None:
        MUTANTS[name] = Mutant(broken, expected, apply, apart, setting)

    return register


_active: list[str] = []


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The product with this mistake in it, or only in this setting; inside itself it changes nothing more."""
    if name in _active or not name:
        yield
        return
    patches = Patches()
    _active.append(name)
    try:
        setting = name if name in SETTINGS else MUTANTS[name].setting
        if setting:
            SETTINGS[setting](patches)
        if name not in SETTINGS:
            MUTANTS[name].apply(patches)
        yield
    finally:
        patches.restore()
        _active.remove(name)


# -- the hunt -------------------------------------------------------------------------------------------------------------


class Kill(msgspec.Struct):
    """What became of one mutant: the rule that noticed and the seed, empty and None when it survived."""

    name: str
    invariant: str = ""
    seed: int | None = None
    seeds: int = 0
    text: str = ""


def hunt(
    names: Sequence[str], jobs: int = 1, seeds: Callable[[str], Sequence[int]] | None = None, limit_s: float = LIMIT_S,
    runner: str = RUNNER, progress: Callable[[int, str], None] | None = None,
) -> list[Kill]:
    """Run each mutant until a rule expected to notice does, over 4,000 seeds or those given; in the order of ``names``.

    A run that does not end, a process that dies or a rule that has nothing to do with the mistake is no kill, nor is a seed
    that the product itself does not pass.
    """
    kills = {name: Kill(name) for name in names}
    tasks = (
        Task(list(seeds(name) if seeds else range(SEEDS_MAX)), {}, name, None, True, list(MUTANTS[name].expected), name)
        for name in names if not MUTANTS[name].apart
    )
    done = 0
    for name in names:
        if MUTANTS[name].apart:
            wanted = list(seeds(name) if seeds else range(SEEDS_MAX))[:APART_MAX]
            kills[name].seeds = len(wanted)
            differ = twice(wanted, jobs, None, runner, limit_s, name).differ
            if differ:
                kills[name] = Kill(name, "S12", differ[0][0], wanted.index(differ[0][0]) + 1, "two processes, two histories")
            done += 1
    for task, report in Pool(jobs, runner, limit_s).reports(tasks):
        kill = kills[task.name]
        if report is None:
            done += 1
            if progress is not None:
                progress(done, task.name)
            continue
        kill.seeds += 1
        found = report.violations
        if found and not kill.invariant:
            kill.invariant, kill.seed, kill.text = found[0].invariant, report.seed, found[0].text
    return [kills[name] for name in names]


def around(seed: int, width: int = 8, behind: int = 400) -> list[int]:
    """A recorded seed first, then its neighbours, then the first few hundred: the world may have shifted a little."""
    near = sorted(range(max(0, seed - width), seed + width + 1), key=lambda other: abs(other - seed))
    return near + [other for other in range(behind) if other not in near]


# -- doubts ---------------------------------------------------------------------------------------------------------------

DOUBTS = ("S1", "S4")


def setting_of(name: str) -> str:
    """The setting a mutant lives in, empty for the usual one."""
    return MUTANTS[name].setting if name in MUTANTS else ""


def _doubts() -> Any:
    from copyd.core import doubt

    return doubt


@mutant("query_once", "the first not found is taken for the end", *DOUBTS)
def _(patches: Patches) -> None:
    doubt = _doubts()

    def wrap(original: Any) -> Any:
        def answered_order(self: Any, now: int, ask_id: int, found: Any) -> Any:
            asked = self._asks.get(ask_id)
            if found is None and asked is not None and asked.doubt is not None and asked.doubt.cid in self._doubts:
                del self._asks[ask_id]
                return [self._dead(asked.doubt, asked.issued)]
            return original(self, now, ask_id, found)

        return answered_order

    patches.around(doubt.Doubts, "answered_order", wrap)


def _by_id_only(patches: Patches) -> None:
    """The venue offers one source: an order by its id. Neither a history nor a position is compared."""

    def wrap(original: Any) -> Any:
        def init(self: Any, terms: Any, expected: Any) -> None:
            original(self, msgspec.structs.replace(terms, weight_orders=0, weight_position=0), None)

        return init

    patches.around(_doubts().Doubts, "__init__", wrap)


SETTINGS[BY_ID] = _by_id_only


@mutant("error_as_absent", "an error while asking counts as not found", *DOUBTS, setting=BY_ID)
def _(patches: Patches) -> None:
    from copyd.sim.node import Node

    def wrap(original: Any) -> Any:
        def failed(self: Any, ask: int, status: int) -> None:
            self._judged(self.doubts.answered_order(self.clock.now_ns(), ask, None))

        return failed

    patches.around(Node, "_failed", wrap)


@mutant("answer_time_fence", "the fence is compared with when the answer came, not with when the question was put", *DOUBTS,
        setting=BY_ID)
def _(patches: Patches) -> None:
    def wrap(original: Any) -> Any:
        def answered(self: Any, now: int, ask_id: int, *rest: Any) -> Any:
            for table in (self._asks, self._overdue):
                asked = table.get(ask_id)
                if asked is None:
                    continue
                late = table[ask_id] = asked._replace(issued=now)
                for name in ("orders", "position"):
                    if getattr(asked.group, name) is asked:
                        setattr(asked.group, name, late)
            return original(self, now, ask_id, *rest)

        return answered

    for name in ("answered_order", "answered_orders", "answered_position"):
        patches.around(_doubts().Doubts, name, wrap)


def _terms(**changes: Any) -> Callable[[Patches], None]:
    """Other terms than the venue's; a function computes a value from the true terms."""

    def apply(patches: Patches) -> None:
        def wrap(original: Any) -> Any:
            def init(self: Any, terms: Any, *rest: Any, **named: Any) -> None:
                values = {name: value(terms) if callable(value) else value for name, value in changes.items()}
                original(self, msgspec.structs.replace(terms, **values), *rest, **named)

            return init

        patches.around(_doubts().Doubts, "__init__", wrap)

    return apply


def _less(name: str) -> Callable[[Any], int]:
    def fence(terms: Any) -> int:
        from copyd.sim import world

        less: int = getattr(world, name)
        whole: int = terms.fence_ns
        return whole - less

    return fence


mutant("fence_without_expiry", "the fence leaves out how long a request is valid", *DOUBTS, setting=BY_ID)(
    _terms(fence_ns=_less("RECV")))
mutant("fence_without_engine_delay", "the fence leaves out the engine's delay", *DOUBTS, setting=BY_ID)(
    _terms(fence_ns=_less("ENGINE_DELAY")))
mutant("fence_without_read_lag", "the fence leaves out how far replicas lag", *DOUBTS, setting=BY_ID)(
    _terms(fence_ns=_less("READ_LAG")))
mutant("fence_of_expiry_only", "the fence is the validity of a request and nothing else", *DOUBTS)(
    _terms(fence_ns=lambda terms: terms.fence_ns - _sum("ENGINE_DELAY", "READ_LAG", "CLOCK_ERROR", "GUARD")))
mutant("no_fence", "there is no fence", *DOUBTS)(_terms(fence_ns=0))
mutant("history_not_asked", "not found by id is enough, the history is not asked", *DOUBTS)(_terms(weight_orders=0))


def _sum(*names: str) -> int:
    from copyd.sim import world

    return sum(getattr(world, name) for name in names)


@mutant("page_taken_for_whole", "what is missing from an incomplete list counts as absent", *DOUBTS)
def _(patches: Patches) -> None:
    def wrap(original: Any) -> Any:
        def answered_orders(self: Any, now: int, ask_id: int, found: Any, complete: bool) -> Any:
            return original(self, now, ask_id, found, True)

        return answered_orders

    patches.around(_doubts().Doubts, "answered_orders", wrap)


@mutant("retry_after_ignored", "questions go on although the venue wants none", "S16")
def _(patches: Patches) -> None:
    patches.set(_doubts().Doubts, "pause", lambda self, until: None)


@mutant("budget_ignored", "questions are put whatever they weigh", "S16")
def _(patches: Patches) -> None:
    patches.set(_doubts().Doubts, "_spend", lambda self, weight: True)


# -- what an answer proves ------------------------------------------------------------------------------------------------


def _code(code: int) -> Callable[[Patches], None]:
    """A code that proves nothing is taken for a refusal."""

    def apply(patches: Patches) -> None:
        from copyd.venues.binance_usdm import errors

        patches.set(errors.CODES, code, (errors.Outcome.DEFINITE_REJECT, errors.CODES[code][1]))

    return apply


mutant("timing_reject_final", "a timestamp outside the window is taken for the end of the order", *DOUBTS)(_code(-1021))
mutant("duplicate_id_is_reject", "an id that is open already is taken for a refusal", *DOUBTS)(_code(-4116))
mutant("timeout_code_is_reject", "the venue's own timeout is taken for a refusal", *DOUBTS)(_code(-1007))


def _verdict(applies: Callable[[int, int], bool]) -> Callable[[Patches], None]:
    """Answers for which ``applies(status, code)`` are taken for refusals."""

    def apply(patches: Patches) -> None:
        from copyd.venues.binance_usdm import errors

        def wrap(original: Any) -> Any:
            def classify(status: int, code: int = 0, message: str = "") -> Any:
                verdict = original(status, code, message)
                if verdict.outcome == errors.Outcome.IN_DOUBT and applies(status, code):
                    return verdict._replace(outcome=errors.Outcome.DEFINITE_REJECT)
                return verdict

            return classify

        _everywhere(patches, errors, "classify", wrap)

    return apply


def _everywhere(patches: Patches, module: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """A function of a module, also where the simulator's node has imported it by name."""
    original = getattr(module, name)
    patches.set(module, name, wrap(original))
    from copyd.sim import node

    if node.__dict__.get(name) is original:
        patches.set(node, name, wrap(original))


mutant("server_error_is_reject", "a 5xx is taken for a refusal", *DOUBTS)(_verdict(lambda status, code: status >= 500))
mutant("unknown_code_is_reject", "a code nobody documented is taken for a refusal", *DOUBTS)(
    _verdict(lambda status, code: code == -9999))


# -- the engine -----------------------------------------------------------------------------------------------------------


def _handler(patches: Patches, name: str, wrap: Callable[[Any], Any]) -> None:
    """What the engine does with one kind of input."""
    from copyd.core import engine

    patches.around(engine.Engine._HANDLERS, getattr(engine, name), wrap)


def _rows(change: Callable[[Any, Any], Any]) -> Callable[[Patches], None]:
    """Every report row goes through ``change(engine, row)``: another row, or None to drop it."""

    def apply(patches: Patches) -> None:
        from copyd.core.rows import ReportRow

        def wrap(original: Any) -> Any:
            def reports(self: Any, now: int, value: Any, out: Any) -> Any:
                rows = [change(self, row) for row in ReportRow.unpack_all(value.rows)]
                return original(self, now, msgspec.structs.replace(value, rows=b"".join(r.pack() for r in rows if r)), out)

            return reports

        _handler(patches, "Reports", wrap)

    return apply


def _order(engine: Any, cid: bytes) -> Any:
    """The order row of an id, or None."""
    from copyd.core.engine import ORDERS
    from copyd.core.rows import OrderRow

    slot = engine.columns.order_slot(cid)
    return None if slot is None else engine._row(ORDERS, slot, OrderRow)


def _doubt_is_dead(engine: Any, row: Any) -> Any:
    if row.kind == 3:
        row.kind = 4
    return row


def _ack_is_fill(engine: Any, row: Any) -> Any:
    order = _order(engine, row.cid)
    if order is not None and row.kind == 1 and row.status == 2:
        row.cum_qty = order.order_qty
    return row


def _cumulative_as_delta(engine: Any, row: Any) -> Any:
    order = _order(engine, row.cid)
    if order is not None and row.kind in (5, 6) and row.last_qty:
        row.cum_qty = min(order.order_qty, order.cum_qty + row.last_qty)
    return row


def _held_is_dead(engine: Any, row: Any) -> Any:
    if row.kind == 9:
        row.kind = 4
    return row


def _refusal_forgotten(engine: Any, row: Any) -> Any:
    return None if row.kind == 2 else row


mutant("retry_new", "no answer is taken for dead: the quantity goes out again under a new id", *DOUBTS)(_rows(_doubt_is_dead))
mutant("ack_is_fill", "the quantity of an acknowledgement is booked as filled", "S6")(_rows(_ack_is_fill))
mutant("fills_by_delta", "each report adds its last quantity, repeated or not", "S6")(_rows(_cumulative_as_delta))
mutant("held_is_dead", "sources that contradict each other are taken for absent", *DOUBTS)(_rows(_held_is_dead))
mutant("refusal_forgotten", "a definite refusal is not taken in", "L2")(_rows(_refusal_forgotten))


def _started(after: Callable[[Any, Any], None], before: Callable[[Any], Any] | None = None) -> Callable[[Patches], None]:
    """What a daemon does when it takes over, with something done to it."""

    def apply(patches: Patches) -> None:
        def wrap(original: Any) -> Any:
            def started(self: Any, now: int, value: Any, out: Any) -> Any:
                result = original(self, now, before(value) if before else value, out)
                after(self, out)
                return result

            return started

        _handler(patches, "Started", wrap)

    return apply


def _resend(engine: Any, out: Any) -> None:
    from array import array

    out.orders += array("I", out.queries).tobytes()


def _assume_dead(engine: Any, out: Any) -> None:
    from copyd.core.engine import ORDERS
    from copyd.core.rows import OrderRow, OrderState

    for slot in out.queries:
        engine._edit(ORDERS, slot, OrderRow, state=OrderState.DEAD)
    out.queries = []


def _release(engine: Any, out: Any) -> None:
    from copyd.core.engine import INSTRUMENTS, LEADERS, PLANS
    from copyd.core.rows import InstrumentRow, LeaderRow, PlanRow, PlanState

    engine.params.killed = 0
    engine._set_params()
    for index in range(len(engine.names.leaders)):
        engine._edit(LEADERS, index, LeaderRow, killed=0, state=PlanState.ACTIVE)
    for index in range(len(engine.names.instruments)):
        engine._edit(INSTRUMENTS, index, InstrumentRow, halted=0)
    for index in range(engine.columns.count(PLANS)):
        engine._edit(PLANS, index, PlanRow, killed=0, state=PlanState.ACTIVE)


def _nothing(engine: Any, out: Any) -> None:
    """Nothing is done afterwards."""


mutant("restart_resends", "after a restart what was unfinished is sent again", "S1")(_started(_resend))
mutant("restart_assumes_dead", "after a restart what was unfinished is taken for dead", "S4")(_started(_assume_dead))
mutant("restart_asks_nothing", "after a restart nobody asks about what was unfinished", "L2")(
    _started(lambda engine, out: out.queries.clear()))
mutant("pause_not_kept", "a restart releases every pause and kill switch", "S11")(_started(_release))
mutant("epoch_not_in_id", "every daemon puts the first epoch into its ids", "S14", "S1")(
    _started(_nothing, lambda value: msgspec.structs.replace(value, epoch=1)))


@mutant("kill_switch_deaf", "the kill switch is journaled and does nothing", "S11")
def _(patches: Patches) -> None:
    from copyd.core.engine import Engine

    patches.set(Engine._COMMANDS, "kill_switch", lambda self, now, args, out: None)


@mutant("pause_deaf", "a pause is journaled and does nothing", "S11")
def _(patches: Patches) -> None:
    from copyd.core.engine import Engine

    patches.set(Engine._COMMANDS, "set_state", lambda self, now, args, out: None)


@mutant("dedupe_off", "an execution of the leader told twice counts twice", "S13", "L1", "L3", "P12")
def _(patches: Patches) -> None:
    from copyd.core.leader_event import LeaderBook

    def wrap(original: Any) -> Any:
        def event(self: Any, now: int, what: Any) -> Any:
            if type(what).__name__ == "Execution":
                seen, floor = self._seen[what.instrument], self.floor.get(what.instrument, -1)
                seen.pop(what.exec_id, None)
                self.floor[what.instrument] = min(floor, what.exec_id - 1)
            return original(self, now, what)

        return event

    patches.set(LeaderBook, "is_duplicate", lambda self, exec_id: False)
    patches.around(_stream(), "event", wrap)


@mutant("history_is_copied", "openings found by back-fill are copied: neither their mark nor the gap holds them", "R12", "R11")
def _(patches: Patches) -> None:
    def fill(original: Any) -> Any:
        def leader_fill(self: Any, now: int, value: Any, out: Any) -> Any:
            return original(self, now, msgspec.structs.replace(value, live=True, ts_event=now), out)

        return leader_fill

    def sync(original: Any) -> Any:
        def leader_sync(self: Any, now: int, value: Any, out: Any) -> Any:
            return original(self, now, value, out) if value.synced else None

        return leader_sync

    _handler(patches, "LeaderFill", fill)
    _handler(patches, "LeaderSync", sync)


def _params(**changes: int) -> Callable[[Patches], None]:
    """Decisions read other parameters than the configured ones."""

    def apply(patches: Patches) -> None:
        from copyd.core.engine import Engine

        def wrap(original: Any) -> Any:
            def set_params(self: Any) -> None:
                for name, value in changes.items():
                    setattr(self.params, name, value)
                original(self)

            return set_params

        patches.around(Engine, "_set_params", wrap)

    return apply


mutant("stale_gate_off", "an opening is copied however old the leader's event is", "R12", "S5", "S17")(
    _params(max_event_age=1 << 60))
mutant("read_lag_ignored", "one look at a lagging replica is believed at once", "S6", "L1")(_params(read_lag=0))


@mutant("orphan_dropped", "a fill under our tag that no table knows is not booked", "S3", "S6", "L1")
def _(patches: Patches) -> None:
    _handler(patches, "OrphanFill", lambda original: lambda self, now, value, out: False)


@mutant("foreign_epoch_ignored", "a daemon of a later epoch does not stop this one", "S14")
def _(patches: Patches) -> None:
    from copyd.core.engine import Engine

    patches.set(Engine, "_fence", lambda self, *rest: None)


@mutant("external_fill_twice", "a trade by hand told twice counts twice", "S6", "L1")
def _(patches: Patches) -> None:
    from copyd.core.engine import Engine

    patches.set(Engine, "_remember_external", lambda self, *rest: True)


@mutant("looks_at_unrest", "a position is believed although orders are in flight", "S6", "L1")
def _(patches: Patches) -> None:
    from copyd.core.engine import Engine

    patches.set(Engine, "_quiet", lambda self, *rest: True)


# -- the kernel -----------------------------------------------------------------------------------------------------------


class _Kernel:
    """The compiled kernel behind one changed entry."""

    def __init__(self, kernel: Any, engine: Any, **changed: Callable[..., Any]) -> None:
        self._kernel, self._engine, self._changed = kernel, engine, changed

    def __getattr__(self, name: str) -> Any:
        original = getattr(self._kernel, name)
        change = self._changed.get(name)
        if change is None:
            return original
        return lambda *arguments: change(self._engine, original, *arguments)


def _kernel(**changed: Callable[..., Any]) -> Callable[[Patches], None]:
    """Each entry named becomes ``change(engine, original, *arguments)``."""

    def apply(patches: Patches) -> None:
        from copyd.core.engine import Engine

        def wrap(original: Any) -> Any:
            def bind(self: Any) -> None:
                original(self)
                self.kernel = _Kernel(self.kernel, self, **changed)

            return bind

        patches.around(Engine, "_bind", wrap)

    return apply


def _edit_legs(engine: Any, legs: Any, **changes: int) -> None:
    from copyd.core.engine import LEGS
    from copyd.core.rows import LegRow

    for leg in legs:
        engine._edit(LEGS, leg, LegRow, **changes)


def _forget_last(engine: Any, original: Any, legs: Any, event: bytes, *ready: Any) -> None:
    original(legs[:-1], event, *ready)


def _unlocked(engine: Any, original: Any, legs: Any, event: bytes, *ready: Any) -> None:
    from copyd.core.rows import NONE

    _edit_legs(engine, legs, open_slot=NONE)
    original(legs, event, *ready)


def _reductions_forgotten(engine: Any, original: Any, legs: Any, event: bytes, *ready: Any) -> None:
    _edit_legs(engine, legs, reduce_leaves=0)
    original(legs, event, *ready)


def _killed_is_deaf(engine: Any, original: Any, legs: Any, event: bytes, *ready: Any) -> None:
    if not engine.params.killed:
        original(legs, event, *ready)


def _hash_order(engine: Any, original: Any, legs: Any, event: bytes, *ready: Any) -> None:
    from array import array

    original(array("I", sorted(legs, key=lambda leg: hash(str(leg)))), event, *ready)


def _close_short_of_it(engine: Any, original: Any, legs: Any, event: bytes, *ready: Any) -> None:
    from copyd.core.rows import FillEvent

    row = FillEvent.unpack(event)
    if row.reduce_qty and row.qty_mid == 0:
        row.qty_mid = 1 if row.qty_before > 0 else -1
    original(legs, row.pack(), *ready)


mutant("follower_forgotten", "the last follower of an event gets no decision", "S5")(_kernel(fan_out=_forget_last))
mutant("leg_unlocked", "a second opening goes out while one is in flight or in doubt", "S8")(_kernel(fan_out=_unlocked))
mutant("reduction_in_flight_ignored", "a reduction takes no notice of the one on the wire", "S8", "S10", "S6")(
    _kernel(fan_out=_reductions_forgotten))
mutant("kill_switch_stops_reductions", "the kill switch stops reductions too", "S5", "L1")(_kernel(fan_out=_killed_is_deaf))
mutant("hash_order", "followers are served in the order of a hash", "S12", apart=True)(_kernel(fan_out=_hash_order))
mutant("close_not_exact", "when the leader is flat a follower keeps a lot", "R3", "L1", "S5")(_kernel(fan_out=_close_short_of_it))


@mutant("decision_not_recorded", "the last decision of an event is not in the journal", "S5")
def _(patches: Patches) -> None:
    from copyd.core.rows import DecisionRow

    size = DecisionRow.LAYOUT.size
    _collected(patches, "decisions", lambda data: data[:-size])


@mutant("order_not_named", "the last order of a record is not named in it", "S2")
def _(patches: Patches) -> None:
    from copyd.core.rows import NamedOrder

    size = NamedOrder.LAYOUT.size
    _collected(patches, "named", lambda data: data[:-size])


@mutant("order_named_wrongly", "the journal names another quantity than is sent", "S2", "S3", "S6")
def _(patches: Patches) -> None:
    from copyd.core.rows import NamedOrder

    def change(data: bytes) -> bytes:
        rows = NamedOrder.unpack_all(data)
        for row in rows:
            row.order_qty += 1
        return b"".join(row.pack() for row in rows)

    _collected(patches, "named", change)


def _collected(patches: Patches, name: str, change: Callable[[bytes], bytes]) -> None:
    from copyd.core.engine import Engine

    def wrap(original: Any) -> Any:
        def collect(self: Any, out: Any) -> None:
            before = len(getattr(out, name))
            original(self, out)
            data = getattr(out, name)
            if len(data) > before:
                setattr(out, name, data[:before] + change(data[before:]))

        return collect

    patches.around(Engine, "_collect", wrap)


def _plan(**changes: int) -> Callable[[Patches], None]:
    def apply(patches: Patches) -> None:
        from copyd.core.engine import Engine

        def wrap(original: Any) -> Any:
            def plan_row(self: Any, spec: Any) -> Any:
                row = original(self, spec)
                for name, value in changes.items():
                    setattr(row, name, value)
                return row

            return plan_row

        patches.around(Engine, "_plan_row", wrap)

    return apply


mutant("caps_off", "no limit of a plan binds", "S9")(
    _plan(max_notional_symbol_e8=0, max_notional_total_e8=0, max_position_bps=0, max_loss_bps=0, max_open_trades=0))


# -- the pump, the disk ---------------------------------------------------------------------------------------------------


@mutant("send_first", "orders leave before the record that names them is durable", "S2")
def _(patches: Patches) -> None:
    from copyd.runtime.pump import Pump

    def work(self: Any) -> None:
        while self.gate and not self.stopped:
            waiting = self.gate[0]
            self._send(waiting)
            self.gate.popleft()
            self.on_sent(waiting.times)

    patches.set(Pump, "_work", work)


@mutant("gate_one_early", "the gate opens at the record before", "S2")
def _(patches: Patches) -> None:
    from copyd.runtime.pump import Pump

    def wrap(original: Any) -> Any:
        def work(self: Any) -> None:
            while self.gate and not self.stopped and self.journal.durable_seq >= self.gate[0].seq - 1:
                waiting = self.gate[0]
                self._send(waiting)
                self.gate.popleft()
                self.on_sent(waiting.times)
            original(self)

        return work

    patches.around(Pump, "_work", wrap)


@mutant("announcement_not_awaited", "orders of an announced execution leave before the announcement is durable", "S2")
def _(patches: Patches) -> None:
    from copyd.runtime.pump import Pump

    def wrap(original: Any) -> Any:
        def take(self: Any, waiting: Any, orders: Any) -> Any:
            more = original(self, waiting, orders)
            if self.gate and self.gate[0] is waiting:
                self._send(waiting)
            return more

        return take

    patches.around(Pump, "_take", wrap)


@mutant("taken_up_and_sent", "what an announcement led to is sent by the next process too", "S1")
def _(patches: Patches) -> None:
    from copyd.runtime.pump import Pump, Waiting

    def wrap(original: Any) -> Any:
        def take_up(self: Any) -> Any:
            outputs = original(self)
            if outputs is not None and outputs.orders:
                waiting = self._wait(outputs.seq, self.clock.now_ns(), outputs.input)
                assert isinstance(waiting, Waiting)
                waiting.slots = array("I", outputs.orders)
            return outputs

        return take_up

    patches.around(Pump, "take_up", wrap)


@mutant("taken_up_anew", "an announced execution is decided at the time of the next start", "S2")
def _(patches: Patches) -> None:
    from copyd.runtime.pump import Pump

    def wrap(original: Any) -> Any:
        def take_up(self: Any) -> Any:
            if self.engine.announced is not None:
                self.engine.announced = self.clock.now_ns(), self.engine.announced[1]
            return original(self)

        return take_up

    patches.around(Pump, "take_up", wrap)


@mutant("announcement_dropped", "the next process forgets what was announced", "S2", "S15", "P12")
def _(patches: Patches) -> None:
    from copyd.runtime.pump import Pump

    def take_up(self: Any) -> Any:
        self.engine.announced = None

    patches.set(Pump, "take_up", take_up)


@mutant("sent_twice", "what is rendered is handed over twice", "S1")
def _(patches: Patches) -> None:
    from copyd.runtime.pump import Pump

    def wrap(original: Any) -> Any:
        def send(self: Any, waiting: Any) -> None:
            rendered = list(waiting.rendered)
            original(self, waiting)
            for each in rendered:
                self.gateway.send(each)

        return send

    patches.around(Pump, "_send", wrap)


@mutant("commit_error_ignored", "a commit that failed counts as durable", "S2", "S15")
def _(patches: Patches) -> None:
    from copyd.sim.disk import Journal

    def fail(self: Any, name: str) -> None:
        self._committing = []
        self.durable_seq = self.seq
        self.on_durable(self.durable_seq)

    patches.set(Journal, "_fail", fail)


# -- the node's edge: what is signed, sent and heard -------------------------------------------------------------------------


def _requests(change: Callable[[Any, Any], Any]) -> Callable[[Patches], None]:
    """Every request goes through ``change(node, request)`` before it is signed."""

    def apply(patches: Patches) -> None:
        from copyd.sim.node import Node

        def wrap(original: Any) -> Any:
            def render(self: Any, slots: Any) -> Any:
                return [change(self, request) for request in original(self, slots)]

            return render

        patches.around(Node, "render", wrap)

    return apply


mutant("side_swapped", "buy and sell are swapped on the wire", "S2", "S3", "S10", "S22")(
    _requests(lambda node, request: request._replace(side=-request.side)))
mutant("wrong_account", "an order is signed with the key of the next account", "S2", "S3", "S10", "S22")(
    _requests(lambda node, request: request._replace(account=(request.account + 1) % len(node.venue.accounts))))
mutant("reduce_only_lost", "the reduce-only flag does not reach the wire", "S2", "S3", "S10", "S22")(
    _requests(lambda node, request: request._replace(reduce_only=False)))
mutant("one_lot_more", "every order is a lot larger on the wire", "S2", "S3", "S10", "S22")(
    _requests(lambda node, request: request._replace(qty=request.qty + 1)))
mutant("limit_lost", "an opening goes out without its limit price", "S2", "S3", "S10", "S22")(
    _requests(lambda node, request: request._replace(limit_px=0)))


@mutant("retry_same", "what was not answered in time is sent again under the same id", "S1")
def _(patches: Patches) -> None:
    from copyd.sim.node import Node

    def remember(original: Any) -> Any:
        def travel(self: Any, request: Any, connection: Any) -> Any:
            self.__dict__.setdefault("requests", {})[request.cid] = request
            return original(self, request, connection)

        return travel

    def again(original: Any) -> Any:
        def timed_out(self: Any, cids: Any) -> Any:
            for cid in cids:
                for connection in self.connections:
                    if cid in connection.pending and cid in self.requests:
                        self._travel(self.requests.pop(cid), connection)
            return original(self, cids)

        return timed_out

    patches.around(Node, "_travel", remember)
    patches.around(Node, "_timed_out", again)


@mutant("lost_is_unsent", "what a broken connection did not answer is taken for never sent", *DOUBTS)
def _(patches: Patches) -> None:
    from copyd.core.rows import ReportKind
    from copyd.sim.node import Node

    def wrap(original: Any) -> Any:
        def emit(self: Any, kind: int, status: int, cid: bytes, code: int = 0) -> Any:
            lost = kind == ReportKind.IN_DOUBT and not code and cid not in self.doubted
            return original(self, ReportKind.NOT_SENT if lost else kind, status, cid, code)

        return emit

    patches.around(Node, "_emit", wrap)


@mutant("signed_time_forgotten", "the fence of what a restart found is counted from long ago", *DOUBTS)
def _(patches: Patches) -> None:
    from copyd.sim.node import Node

    def wrap(original: Any) -> Any:
        def doubt(self: Any, order: Any, signed: int) -> Any:
            return original(self, order, signed if order[0] in self.signed else 0)

        return doubt

    patches.around(Node, "_doubt", wrap)


@mutant("position_not_compared", "an order is dead although the position says otherwise", *DOUBTS)
def _(patches: Patches) -> None:
    def wrap(original: Any) -> Any:
        def init(self: Any, terms: Any, expected: Any) -> None:
            original(self, terms, None)

        return init

    patches.around(_doubts().Doubts, "__init__", wrap)


# -- loss limits -----------------------------------------------------------------------------------------------------------


def _engine() -> Any:
    from copyd.core.engine import Engine

    return Engine


@mutant("fees_as_told", "executions that the streams lost are never asked for", "M3", "L2")
def _(patches: Patches) -> None:
    patches.set(_doubts().Doubts, "tell", lambda self, cid, account, instrument, listed: None)


@mutant("losses_on_trades_only", "no mark ever stops a plan", "M4")
def _(patches: Patches) -> None:
    patches.set(_engine(), "marks_due", lambda self, now, marks: False)
    patches.set(_engine(), "_stop_losses", lambda self, now, out: None)


@mutant("stop_forgotten_at_restart", "a restart resumes what a loss limit stopped", "M1", "M2")
def _(patches: Patches) -> None:
    from copyd.core import engine
    from copyd.core.rows import PlanRow

    def wrap(original: Any) -> Any:
        def started(self: Any, now: int, value: Any, out: Any) -> None:
            original(self, now, value, out)
            for plan in range(self.columns.count(engine.PLANS)):
                self._edit(engine.PLANS, plan, PlanRow, stopped_by=0)

        return started

    patches.around(_engine()._HANDLERS, engine.Started, wrap)


@mutant("stop_leaves_the_position", "a stop ends openings and nothing else, whatever the plan says", "M1", "M2")
def _(patches: Patches) -> None:
    from copyd.core import engine
    from copyd.core.rows import PlanRow

    def wrap(original: Any) -> Any:
        def stop_losses(self: Any, now: int, out: Any) -> None:
            for plan in range(self.columns.count(engine.PLANS)):
                self._edit(engine.PLANS, plan, PlanRow, loss_policy=2)
            original(self, now, out)

        return stop_losses

    patches.around(_engine(), "_stop_losses", wrap)


@mutant("resumed_by_anyone", "resuming a leader or everything resumes what a loss limit stopped", "M1", "M2")
def _(patches: Patches) -> None:
    from copyd.core import engine
    from copyd.core.rows import PlanRow

    def wrap(original: Any) -> Any:
        def set_state(self: Any, now: int, args: Any, out: Any) -> None:
            original(self, now, args, out)
            if args["scope"] != "plan" and args["state"] == "active":
                for plan in range(self.columns.count(engine.PLANS)):
                    self._edit(engine.PLANS, plan, PlanRow, stopped_by=0)

        return set_state

    patches.around(_engine()._COMMANDS, "set_state", wrap)


# -- the leader's stream -----------------------------------------------------------------------------------------------------


def _stream() -> Any:
    from copyd.core.leader_stream import LeaderStream

    return LeaderStream


@mutant("order_of_arrival", "executions are folded as they arrive, whatever is pushed or compared", "S10", "L1", "L3")
def _(patches: Patches) -> None:
    patches.set(_stream(), "_why_wait", lambda self, *rest: "")
    patches.set(_stream(), "_pushed", lambda self, now, event: [])
    patches.set(_stream(), "_poll_answer", lambda self, now, rows, out: None)


@mutant("compare_off", "nobody compares the leader's position with the venue", "L3", "L1")
def _(patches: Patches) -> None:
    patches.set(_stream(), "_poll_answer", lambda self, now, rows, out: None)
    patches.set(_stream(), "_pushed", lambda self, now, event: [])
    patches.set(_stream(), "_sweep_answer", lambda self, now, ask, rows, out: None)


@mutant(CANARY, "the judge is told of every first acceptance twice", "S1")
def _(patches: Patches) -> None:
    from copyd.sim.audit import Auditor

    def wrap(original: Any) -> Any:
        def accepted(self: Any, *arguments: Any, **named: Any) -> None:
            original(self, *arguments, **named)
            original(self, *arguments, **named)

        return accepted

    patches.around(Auditor, "accepted", wrap)
