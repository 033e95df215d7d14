"""``copyd ledger``: the journal as double-entry books, and whether they agree with what the daemon believes.

Every amount goes from one account to another, so debits equal credits after each entry; an amount that may still come to nothing
(the margin an opening on the wire reserves) is *pending* until it is posted by a fill or voided by the order's end.

    followers                where allocations come from, and where withdrawals go
    plan FOLLOWER LEADER     what is free of the plan's money, and pending in it what its orders on the wire reserve
    margin FOLLOWER LEADER   initial margin of what it holds
    market                   the other side of realised profit: what others lost or gained by it
    commission, funding      paid to the venue, and between holders

A plan and its margin together are its equity before what is open is marked: allocation + realised - commissions + funding. Money
in 1e-8 of the quote asset, balances positive where the account owns.

What a plan has realised and paid is not taken at its word: with each report, what its orders brought, cost and were charged must
make it (the follower's own hand aside, which a close may meet).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from copyd.core import engine as core
from copyd.core.engine import ACCOUNT_INSTRUMENTS, ORDERS, PLANS, Engine, Recorded
from copyd.core.pnl import booked
from copyd.core.rows import AccountInstrumentRow, Kind, NamedOrder, OrderRow, PlanRow, ReportRow
from copyd.errors import OperatorError
from copyd.inspect.progress import progress
from copyd.inspect.rebuild import apply, decode, start_of
from copyd.inspect.summary import money
from copyd.inspect.touched import plans_touched
from copyd.journal import JournalError, Reader

FOLLOWERS, MARKET, COMMISSION, FUNDING = "followers", "market", "commission", "funding"


class Unbalanced(JournalError):
    """The books do not agree with the state the journal amounts to."""


class Account(msgspec.Struct):
    """What was paid out of it (debits) and into it (credits); pending amounts are in neither."""

    debits_e8: int = 0
    credits_e8: int = 0
    pending_e8: int = 0  #: out of it, neither posted nor voided yet

    @property
    def balance_e8(self) -> int:
        """What it owns: credits less debits."""
        return self.credits_e8 - self.debits_e8


class Pending(NamedTuple):
    """An amount reserved, and between whom."""

    debit: str
    credit: str
    amount_e8: int


class Books:
    """Accounts and transfers. ValueError on an entry that is none: a negative amount, one account twice, more than is pending."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.pending: dict[Any, Pending] = {}
        self.entries = 0

    def account(self, name: str) -> Account:
        """The account, opened when first named."""
        return self.accounts.setdefault(name, Account())

    def transfer(self, debit: str, credit: str, amount_e8: int) -> None:
        """``amount_e8`` >= 0 goes from one account to another, at once and for good."""
        if amount_e8 < 0 or debit == credit:
            raise ValueError(f"{amount_e8} from {debit} to {credit} is no transfer")
        if amount_e8:
            self.account(debit).debits_e8 += amount_e8
            self.account(credit).credits_e8 += amount_e8
            self.entries += 1

    def move(self, debit: str, credit: str, amount_e8: int) -> None:
        """As ``transfer``; a negative amount goes the other way."""
        if amount_e8 < 0:
            debit, credit = credit, debit
        self.transfer(debit, credit, abs(amount_e8))

    def reserve(self, key: Any, debit: str, credit: str, amount_e8: int) -> None:
        """``amount_e8`` may go from one account to another: it is set aside until ``post`` or ``void``."""
        if amount_e8 < 0 or debit == credit or key in self.pending:
            raise ValueError(f"{amount_e8} from {debit} to {credit} cannot be reserved as {key!r}")
        self.pending[key] = Pending(debit, credit, amount_e8)
        self.account(debit).pending_e8 += amount_e8

    def post(self, key: Any, amount_e8: int) -> None:
        """So much of what was reserved has really gone."""
        self.void(key, amount_e8)
        debit, credit, _ = self.pending[key]
        self.transfer(debit, credit, amount_e8)

    def void(self, key: Any, amount_e8: int) -> None:
        """So much of what was reserved is free again."""
        debit, credit, left = self.pending[key]
        if not 0 <= amount_e8 <= left:
            raise ValueError(f"{amount_e8} of {left} reserved as {key!r}")
        self.pending[key] = Pending(debit, credit, left - amount_e8)
        self.account(debit).pending_e8 -= amount_e8

    def close(self, key: Any) -> None:
        """What is left of a reservation is free again, and it is gone."""
        self.void(key, self.pending[key].amount_e8)
        del self.pending[key]

    def faults(self) -> Iterator[str]:
        """What must never be: debits that are not credits, pendings that nobody reserved."""
        debits = sum(account.debits_e8 for account in self.accounts.values())
        credits = sum(account.credits_e8 for account in self.accounts.values())
        if debits != credits:
            yield f"debits of {money(debits)} against credits of {money(credits)}"
        reserved: dict[str, int] = {}
        for debit, _, amount in self.pending.values():
            reserved[debit] = reserved.get(debit, 0) + amount
        for name, account in self.accounts.items():
            if account.pending_e8 != reserved.get(name, 0):
                yield f"{name}: {money(account.pending_e8)} pending, {money(reserved.get(name, 0))} reserved"


class _Worth(NamedTuple):
    """What a plan is made of, in 1e-8."""

    allocation: int
    realised: int
    commission: int
    funding: int
    margin: int
    cost: int  #: of what is held, signed like it


NOTHING = _Worth(0, 0, 0, 0, 0, 0)
WRONG_MAX = 100


class JournalBooks:
    """Keeps books while a journal is folded: ``before`` and ``after`` each record."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.books = engine, Books()
        self._was: dict[int, _Worth] = {}
        self._orders_were: dict[int, OrderRow] = {}
        self._in_kind: set[bytes] = set()
        self._rests_were: dict[int, int] = {}
        self._wrong: list[str] = []
        self._begin()

    def _begin(self) -> None:
        """From a checkpoint on: what each plan has become counts as paid in, realised and paid out."""
        for plan in range(self.engine.columns.count(PLANS)):
            self._book(plan, NOTHING, self._worth(plan), {})
        for slot in range(self.engine.columns.count(ORDERS)):
            self._named(OrderRow.unpack(self.engine.columns.get(ORDERS, slot)))

    def names(self, plan: int) -> tuple[str, str]:
        """Its two accounts: what is free, and what is held as margin."""
        who = f"{self.engine.names.followers[plan]} {self.engine.names.plan_leaders[plan]}"
        return f"plan {who}", f"margin {who}"

    def _worth(self, plan: int) -> _Worth:
        row = self._plan(plan)
        margin = cost = 0
        for _, leg in self.engine.plan_legs(plan):
            margin += leg.margin_e8
            cost += leg.cost_e8 if leg.attributed > 0 else -leg.cost_e8
        return _Worth(row.allocation_e8, row.realised_e8, row.commission_e8, row.funding_e8, margin, cost)

    def _plan(self, plan: int) -> PlanRow:
        return PlanRow.unpack(self.engine.columns.get(PLANS, plan))

    def before(self, recorded: Recorded) -> None:
        """What a record finds of the plans it may touch."""
        self._orders_were.clear()
        if isinstance(recorded.input, core.Reports):
            columns = self.engine.columns
            for cid in self._reported(recorded.input):
                slot = columns.order_slot(cid)
                if slot is not None:
                    self._orders_were[slot] = OrderRow.unpack(columns.get(ORDERS, slot))
            self._in_kind = {row.cid for row in ReportRow.unpack_all(recorded.input.rows) if row.fee_base}
            self._rests_were = {order.account: self._rest(order.account) for order in self._orders_were.values()}
        self._was = {plan: self._worth(plan) for plan in plans_touched(self.engine, recorded)}

    def after(self, seq: int, recorded: Recorded) -> None:
        """Its entries."""
        posted = self._orders(recorded)
        for plan in range(len(self._was), self.engine.columns.count(PLANS)) if self._is_import(recorded) else ():
            self._was.setdefault(plan, NOTHING)
        self._compare(seq)
        for plan, was in self._was.items():
            self._book(plan, was, self._worth(plan), posted.get(plan, {}))

    def _rest(self, account: int) -> int:
        """A number that changes when anything of the account becomes the follower's own, or ceases to be."""
        columns, found = self.engine.columns, 0
        for instrument in range(len(self.engine.names.instruments)):
            row = AccountInstrumentRow.unpack(columns.get(ACCOUNT_INSTRUMENTS, account * columns.instruments_max + instrument))
            found = found * 1_000_003 + row.unattributed * 31 + row.unattributed_short
        return found

    def _compare(self, seq: int) -> None:
        """What a plan's orders brought, cost and were charged in this record against what the plan has made of it."""
        cash: dict[int, int] = {}
        fees: dict[int, int] = {}
        in_kind: dict[int, int] = {}  # of them, kept back of what was bought: no longer in the cost of what is held
        mixed: set[int] = set()
        for slot, was in self._orders_were.items():
            now = OrderRow.unpack(self.engine.columns.get(ORDERS, slot))
            cash[was.plan] = cash.get(was.plan, 0) - was.side * (now.cost_e8 - was.cost_e8)
            fees[was.plan] = fees.get(was.plan, 0) + now.fee_e8 - was.fee_e8
            if was.cid in self._in_kind:
                in_kind[was.plan] = in_kind.get(was.plan, 0) + now.fee_e8 - was.fee_e8
            if self._rest(was.account) != self._rests_were[was.account]:
                mixed.add(was.plan)
        for plan, flow in cash.items():
            before, after = self._was[plan], self._worth(plan)
            name, realised = self.names(plan)[0], after.realised - before.realised
            beyond = realised - (flow + after.cost - before.cost)
            if plan not in mixed and not 0 <= beyond <= in_kind.get(plan, 0):
                self._wrong.append(f"record {seq}: {name}: its orders make a profit of "
                                   f"{money(flow + after.cost - before.cost)}, {money(realised)} was booked")
            if after.commission - before.commission != fees[plan]:
                self._wrong.append(f"record {seq}: {name}: its orders were charged {money(fees[plan])}, "
                                   f"{money(after.commission - before.commission)} was booked")

    @staticmethod
    def _is_import(recorded: Recorded) -> bool:
        return isinstance(recorded.input, core.Command) and recorded.input.name == "import_plans"

    @staticmethod
    def _reported(value: core.Reports) -> Iterator[bytes]:
        return (bytes(value.rows[at : at + 16]) for at in range(0, len(value.rows), ReportRow.LAYOUT.size))

    def _orders(self, recorded: Recorded) -> dict[int, dict[bytes, int]]:
        """Reservations made, and by plan what each order's end or fill set free of its own."""
        freed: dict[int, dict[bytes, int]] = {}
        columns, pending = self.engine.columns, self.books.pending
        for cid in list(pending) if not isinstance(recorded.input, core.Reports) else self._reported(recorded.input):
            slot = columns.order_slot(cid)
            if cid in pending and slot is not None:
                order = OrderRow.unpack(columns.get(ORDERS, slot))
                free = pending[cid].amount_e8 - order.reserve_e8
                if free:
                    freed.setdefault(order.plan, {})[cid] = free
        for at in range(0, len(recorded.named), NamedOrder.LAYOUT.size):
            slot = columns.order_slot(bytes(recorded.named[at : at + 16]))
            if slot is not None:
                self._named(OrderRow.unpack(columns.get(ORDERS, slot)))
        return freed

    def _named(self, order: OrderRow) -> None:
        if order.kind == Kind.OPENING and order.reserve_e8 and order.cid not in self.books.pending:
            self.books.reserve(order.cid, *self.names(order.plan), order.reserve_e8)

    def _book(self, plan: int, was: _Worth, now: _Worth, freed: dict[bytes, int]) -> None:
        """The entries of one plan: what it was worth before and is worth now, and what its orders have set free."""
        books = self.books
        free, margin = self.names(plan)
        books.move(FOLLOWERS, free, now.allocation - was.allocation)
        books.move(MARKET, free, now.realised - was.realised)
        books.move(free, COMMISSION, now.commission - was.commission)
        books.move(FUNDING, free, now.funding - was.funding)
        more = now.margin - was.margin
        for cid, amount in freed.items():
            held = min(amount, max(0, more))
            books.post(cid, held)
            books.void(cid, amount - held)
            more -= held
            if books.pending[cid].amount_e8 == 0:
                books.close(cid)
        books.move(free, margin, more)

    def faults(self) -> Iterator[str]:
        """Where the books and the state differ, or what was booked is not what the orders make."""
        yield from self._wrong[:WRONG_MAX]
        yield from self.books.faults()
        accounts = self.books.accounts
        reserved: dict[int, int] = {}
        for slot in range(self.engine.columns.count(ORDERS)):
            order = OrderRow.unpack(self.engine.columns.get(ORDERS, slot))
            if order.reserve_e8:
                reserved[order.plan] = reserved.get(order.plan, 0) + order.reserve_e8
        for plan in range(self.engine.columns.count(PLANS)):
            free, margin = (accounts.get(name, Account()) for name in self.names(plan))
            row, worth = self._plan(plan), self._worth(plan)
            name = self.names(plan)[0]
            owned, owns = free.balance_e8 + margin.balance_e8, row.allocation_e8 + booked(row)
            if owned != owns:
                yield f"{name}: {money(owned)} in the books, it is worth {money(owns)}"
            if margin.balance_e8 != worth.margin:
                yield f"{name}: {money(margin.balance_e8)} of margin in the books, {money(worth.margin)} on its legs"
            if free.pending_e8 != reserved.get(plan, 0):
                yield f"{name}: {money(free.pending_e8)} pending, its orders reserve {money(reserved.get(plan, 0))}"


def books_of(journal: Path) -> JournalBooks:
    """The books of a whole journal; Unbalanced where they do not agree with its state, JournalError where it does not read."""
    with Reader(journal) as reader:
        engine = start_of(reader, use_checkpoint=False)
        books = JournalBooks(engine)
        with progress("ledger", reader.state().last_seq - engine.names.seq) as advance:
            for record in reader.iterate(engine.names.seq + 1):
                recorded = decode(record)
                books.before(recorded)
                outputs, findings = apply(engine, record, recorded)
                if outputs is None or findings:
                    raise Unbalanced(f"{findings[0].text}: these would be books of a state that never was", record.seq)
                books.after(record.seq, recorded)
                advance(1)
    return books


def ledger(journal: Path, plan: str = "", as_json: bool = False) -> int:
    """Print the trial balance, of one follower's plans or of all. Exit 65 where books and state differ."""
    found = books_of(journal)
    accounts = found.books.accounts
    wanted = {name: account for name, account in accounts.items() if not plan or name.split(" ")[1:2] == [plan]}
    if plan and not wanted:
        raise OperatorError(f"{journal}: no plan of {plan}")
    if as_json:
        rows = {
            name: {**msgspec.structs.asdict(one), "balance_e8": one.balance_e8} for name, one in sorted(wanted.items())
        }
        sys.stdout.write(msgspec.json.encode({"entries": found.books.entries, "accounts": rows}).decode() + "\n")
    else:
        for line in balance(wanted if plan else summed(accounts)):
            print(line)
        print(f"{found.books.entries:,} entries in {len(accounts):,} accounts")
    faults = list(found.faults())
    for text in faults[:20]:
        print(f"copyd: {text}", file=sys.stderr)
    return JournalError.exit_code if faults else 0


def summed(accounts: dict[str, Account]) -> dict[str, Account]:
    """All plans as one line, all margins as one: the whole at a glance."""
    found: dict[str, Account] = {}
    for name, account in accounts.items():
        kind = name.split(" ")[0]
        total = found.setdefault(kind + "s" if kind in ("plan", "margin") else kind, Account())
        total.debits_e8 += account.debits_e8
        total.credits_e8 += account.credits_e8
        total.pending_e8 += account.pending_e8
    return found


def balance(accounts: dict[str, Account]) -> Iterator[str]:
    """Lines of a trial balance, and their sum."""
    width = max([len("account"), *map(len, accounts)])
    yield f"{'account':<{width}} {'debits':>20} {'credits':>20} {'balance':>20} {'pending':>20}"
    total = Account()
    for name, account in sorted(accounts.items()):
        total.debits_e8 += account.debits_e8
        total.credits_e8 += account.credits_e8
        total.pending_e8 += account.pending_e8
        yield _line(name, account, width)
    yield _line("", total, width)


def _line(name: str, account: Account, width: int) -> str:
    figures = (account.debits_e8, account.credits_e8, account.balance_e8, account.pending_e8)
    return f"{name:<{width}} " + " ".join(f"{money(value):>20}" for value in figures)
