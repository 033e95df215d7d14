"""The exchange as a model: what it accepts, what it executes, what its replicas show when, and what it tells whom.

It is the truth of a history. One delivered copy of a request is one chance to be accepted; a client id is unique among open
orders only; a timestamp outside the window is refused at the door; between the door and the engine lies a delay. Reads come
from replicas that lag, each kind on its own. Quantities are lots, prices ticks, as in the core's tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from copyd.sim.audit import Auditor
from copyd.sim.world import CLOCK_LEAD, ENGINE_DELAY, MS, READ_LAG, RECV, US, S, World

NEW, PARTIAL, FILLED, CANCELED, EXPIRED, REJECTED = 2, 3, 4, 6, 7, 8
VALUE_MUL = 10_000
"""Value in e8 of one lot at one tick."""


class Request(NamedTuple):
    """A new order as it travels: what was signed, when by the signer's estimate of the venue's clock, and who waits."""

    cid: bytes
    account: int
    instrument: int
    side: int
    qty: int
    limit_px: int
    position_side: int
    reduce_only: bool
    timestamp: int
    kind: int
    answer: Callable[[Reply], None] = lambda reply: None


class Reply(NamedTuple):
    """The answer to one delivered copy: HTTP status, venue code, message, and the order where there is one."""

    status: int
    code: int = 0
    message: str = ""
    order: Shown | None = None


class Shown(NamedTuple):
    """An order as the venue shows it."""

    account: int
    cid: bytes
    id: int
    status: int
    cum: int
    cost_e8: int
    qty: int
    side: int
    t: int


class Order:
    """An order the venue accepted, with everything it ever was: (time, status, cumulative, cost)."""

    __slots__ = ("account", "cid", "cost", "cum", "hidden_until", "id", "instrument", "limit_px", "log", "position_side", "qty",
                 "reduce_only", "side", "status", "t")

    def __init__(self, request: Request, order_id: int, t: int) -> None:
        self.cid, self.account, self.instrument = request.cid, request.account, request.instrument
        self.side, self.qty, self.limit_px = request.side, request.qty, request.limit_px
        self.position_side, self.reduce_only = request.position_side, request.reduce_only
        self.id, self.t = order_id, t
        self.cum = self.cost = 0
        self.status = NEW
        self.hidden_until = 0
        self.log = [(t, NEW, 0, 0)]

    def shown(self, t: int) -> Shown | None:
        """As a replica that is as old as ``t`` shows it; None where it does not know the order yet."""
        for at, status, cum, cost in reversed(self.log):
            if at <= t:
                return Shown(self.account, self.cid, self.id, status, cum, cost, self.qty, self.side, at)
        return None


FEE_PPM = 500
"""The taker's fee."""


def fee_e8(trade: Trade) -> int:
    """Its commission, rounded down."""
    return abs(trade.qty) * trade.px * VALUE_MUL * FEE_PPM // 1_000_000


class Trade(NamedTuple):
    """One execution, as a stream tells it and a history lists it. ``qty`` is signed."""

    id: int
    t: int
    instrument: int
    position_side: int
    qty: int
    px: int
    order_id: int
    cid: bytes
    order_qty: int
    cum: int
    cost_e8: int
    status: int
    kind: str


class Account:
    """One account: its positions by (instrument, position side), their past, its orders and executions."""

    __slots__ = ("changed", "hedge", "index", "key_ok", "leverage", "locked", "log", "name", "open", "orders", "position", "slow",
                 "streams", "trades", "wallet", "wallet_log")

    def __init__(self, index: int, name: str, hedge: bool, leverage: int, wallet: int, instruments: int) -> None:
        self.index, self.name, self.hedge, self.wallet = index, name, hedge, wallet
        self.leverage = [leverage] * instruments
        self.position: dict[tuple[int, int], int] = {}
        self.log: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self.changed = 0
        self.orders: dict[bytes, list[Order]] = {}
        self.open: dict[bytes, Order] = {}
        self.trades: list[Trade] = []
        self.wallet_log = [(0, wallet)]
        self.streams: list[Stream] = []
        self.key_ok = True
        self.locked = False
        self.slow = 0

    def held(self, t: int) -> list[tuple[int, int, int]]:
        """(instrument, position side, quantity) that a replica as old as ``t`` shows; everything ever touched."""
        found = []
        for (instrument, side), log in self.log.items():
            for at, qty in reversed(log):
                if at <= t:
                    found.append((instrument, side, qty))
                    break
        return found

    def move(self, t: int, instrument: int, side: int, qty: int) -> None:
        """A position changes."""
        key = (instrument, side)
        after = self.position.get(key, 0) + qty
        self.position[key] = after
        self.log.setdefault(key, [(0, 0)]).append((t, after))
        self.changed = t


class Stream:
    """One listener's end of an account's user stream."""

    __slots__ = ("deaf", "deliver", "open", "owner", "stalled_until")

    def __init__(self, owner: Any, deliver: Callable[[Any], None]) -> None:
        self.owner, self.deliver = owner, deliver
        self.open = True
        self.deaf = False
        self.stalled_until = 0


class Instrument:
    """Market and rules of one instrument."""

    __slots__ = ("halted", "lot_max", "lot_min", "min_notional", "px")

    def __init__(self, px: int, min_notional: int, lot_max: int) -> None:
        self.px, self.min_notional, self.lot_max = px, min_notional, lot_max
        self.lot_min = 1
        self.halted = False


class Venue:
    """See the module. ``tell_leader`` and friends are set by whoever listens."""

    def __init__(self, world: World, auditor: Auditor, instruments: list[Instrument], site: bytes) -> None:
        self.world, self.draws, self.auditor, self.site = world, world.draws, auditor, site
        self.instruments = instruments
        self.accounts: list[Account] = []
        self.leaders: list[Account] = []
        self.closed_until = 0
        self.banned_until = 0
        self.retry_after_until = 0
        self.next_id = 1000
        #: Ids that a gateway delivered twice, and those of them that were answered for good: the second copy of a request
        #: that was accepted or refused in time is one the venue itself takes back (no client can guard against it).
        self.copied: set[bytes] = set()
        self.answered: set[bytes] = set()
        #: Ids whose order rests for so many ms, and ids whose events are told on no stream.
        self.resting: dict[bytes, int] = {}
        self.untold: set[bytes] = set()
        #: Whether lists may hide a fill for a while, which the position then shows.
        self.hiding = True
        #: Until then everything is slow at once: the way in, the engine, every replica.
        self.storm_until = 0
        #: This venue's question by id knows only what is alive, its lists come in pieces.
        self.evicting = world.draws.draw("venue.evicting", 4) == 0 and world.draws.factor > 0
        #: The venue counts trades per instrument: the same numbers occur in each.
        self.trade_ids = [7_000] * len(instruments)

    def ours(self, cid: bytes) -> bool:
        """Whether an id carries the site's tag."""
        return cid[:2] == self.site

    # -- orders: the door ---------------------------------------------------------------------------------------------
    def arrive(self, request: Request, copy: bool = False) -> None:
        """One delivered copy of a new order."""
        world, draws, now = self.world, self.draws, self.world.now
        account = self.accounts[request.account]
        if world.trace is not None:
            world.say("venue", f"{'copy of ' if copy else ''}order {request.cid.hex()[:14]} arrives from {account.name}")
        cid = request.cid
        if cid in self.copied:
            if cid in self.answered:
                # What is said to a second copy after the first was dealt with: that it is late, or that the id exists.
                if request.timestamp < now - RECV:
                    draws.count("O35")
                    request.answer(Reply(400, -1021))
                elif cid in account.open:
                    draws.count("O05")
                    request.answer(Reply(400, -4116))
                return
            self.answered.add(cid)
        if now < self.banned_until:
            draws.count("O08")
            request.answer(Reply(418))
            return
        if now < self.retry_after_until or draws.fault("O07", 3_000):
            request.answer(Reply(429, -1003 if draws.draw("O07.code", 2) else 0))
            return
        if now < self.closed_until:
            draws.count("O20")
            request.answer(Reply(503, 0, "Service Unavailable."))
            return
        if not account.key_ok:
            request.answer(Reply(401, -2015))
            return
        if account.locked:
            request.answer(Reply(400, -4400))
            return
        if not now - RECV <= request.timestamp <= now + CLOCK_LEAD:
            draws.count("O35")
            request.answer(Reply(400, -1021))
            return
        answer = request.answer
        if draws.fault("O09", 12_000):
            # An answer that says nothing; the order may go on to the engine or not.
            code, message = ((0, "Unknown error, please check your request or try again later."), (-1000, ""), (-1016, ""))[
                draws.param("O09", "kind", 0, 2)]
            answer(Reply(503 if code == 0 else 500, code, message))
            if draws.param("O09", "dead", 0, 1):
                self.answered.discard(cid)
                return
            request = request._replace(answer=_nobody)
        elif draws.fault("O10", 8_000):
            code = (-1006, -1007, -1001, -9999)[draws.param("O10", "code", 0, 3)]
            answer(Reply(408 if draws.param("O10", "kind", 0, 1) else 400, code))
            if draws.param("O10", "dead", 0, 1):
                self.answered.discard(cid)
                return
            request = request._replace(answer=_nobody)
        elif draws.fault("O09/failed", 4_000):
            answer(Reply(503, 0, "Service Unavailable."))
            return
        delay = MS + draws.draw("engine", 4_000) * US
        if now < self.storm_until:
            delay = draws.between("storm.engine", ENGINE_DELAY * 7 // 10, ENGINE_DELAY - 1)
        elif draws.fault("O03/engine", 8_000):
            delay = draws.param("O03/engine", "us", 0, ENGINE_DELAY // US - 1) * US
        world.at(now + delay, None, self._engine, request)

    # -- orders: the engine -------------------------------------------------------------------------------------------
    def _engine(self, request: Request) -> None:
        draws, now = self.draws, self.world.now
        account = self.accounts[request.account]
        code = self._refusal(request, account)
        if code:
            if self.world.trace is not None:
                self.world.say("venue", f"order {request.cid.hex()[:14]} refused: {code}")
            request.answer(Reply(400, code))
            return
        self.next_id += 1
        order = Order(request, self.next_id, now)
        account.orders.setdefault(request.cid, []).append(order)
        if self.ours(request.cid):
            self.auditor.accepted(now, request.account, request.cid, request.instrument, request.position_side, request.side,
                                  request.qty, request.limit_px, request.reduce_only)
        if draws.fault("O12", 4_000):
            # Acknowledged, then refused by the risk engine behind.
            account.open[order.cid] = order
            request.answer(Reply(200, 0, "", order.shown(now)))
            self.world.at(now + draws.param("O12", "ms", 1, 1500) * MS, None, self._end, order, REJECTED)
            return
        rest = self.resting.pop(order.cid, 0)
        if not rest and draws.fault("O30", 15_000):
            rest = draws.param("O30", "ms", 1, 3_000)
        if rest:
            # It rests for a while, then fills in pieces: alive to whoever asks.
            account.open[order.cid] = order
            request.answer(Reply(200, 0, "", order.shown(now)))
            self.world.at(now + rest * MS, None, self._match, order, True)
            return
        self._match(order, False)
        request.answer(Reply(200, 0, "", order.shown(self.world.now)))

    def _refusal(self, request: Request, account: Account) -> int:
        draws = self.draws
        if request.cid in account.open:
            draws.count("O05")
            return -4116
        instrument = self.instruments[request.instrument]
        if instrument.halted:
            draws.count("O19")
            return -4140
        if account.hedge != (request.position_side != 0):
            draws.count("O16")
            return -4061
        closing = request.reduce_only or (account.hedge and (request.side > 0) != (request.position_side == 1))
        if closing:
            held = account.position.get((request.instrument, request.position_side), 0)
            if held * request.side >= 0:
                draws.count("O16")
                return -2022
            if draws.fault("O16/spurious", 2_000):
                return -2022
        else:
            if request.limit_px and request.qty * request.limit_px * VALUE_MUL < instrument.min_notional:
                return -4164
            if draws.fault("O15", 5_000):
                return -2019
        if request.qty > instrument.lot_max or request.qty < instrument.lot_min:
            draws.count("O14")
            return -4005
        if draws.fault("O14", 2_000):
            return -4131
        return 0

    def _match(self, order: Order, rested: bool) -> None:
        """Immediate or cancel: what the book gives now, in one piece or more; the rest expires."""
        if order.status in (REJECTED, EXPIRED, FILLED, CANCELED):
            return
        draws = self.draws
        account = self.accounts[order.account]
        instrument = self.instruments[order.instrument]
        key = (order.instrument, order.position_side)
        most = order.qty - order.cum
        closing = order.reduce_only or (account.hedge and (order.side > 0) != (order.position_side == 1))
        if closing:
            most = min(most, max(0, -order.side * account.position.get(key, 0)))
        if order.limit_px and order.side * (order.limit_px - instrument.px) < 0:
            most = 0
        elif most and draws.fault("O13", 40_000):
            most = draws.param("O13", "part", 0, most - 1)
        elif most and draws.fault("O17", 4_000):
            most = draws.param("O17", "part", 0, most - 1)
        if instrument.halted:
            most = 0
        if most > 1 and draws.chance("venue.pieces", 250_000):
            piece = 1 + draws.draw("venue.piece", most - 1)
            self._fill(order, piece)
            if rested and draws.chance("venue.rests", 600_000):
                self.world.at(self.world.now + draws.between("venue.rest", 1, 2_000) * MS, None, self._match, order, True)
                return
            most -= piece
        if most:
            self._fill(order, most)
        if order.status != FILLED:
            self._end(order, EXPIRED)

    def _fill(self, order: Order, qty: int) -> None:
        now = self.world.now
        px = self.instruments[order.instrument].px
        order.cum += qty
        order.cost += qty * px * VALUE_MUL
        account = self.accounts[order.account]
        order.status = FILLED if order.cum == order.qty else PARTIAL
        order.log.append((now, order.status, order.cum, order.cost))
        if order.status == FILLED:
            account.open.pop(order.cid, None)
            heard = any(stream.open and not stream.deaf for stream in account.streams)
            if not heard and self.hiding and self._shows(account, now) and self.draws.fault("O28/vanished", 150_000):
                order.hidden_until = now + self.draws.param("O28/vanished", "s", 8, 30) * S
        self._trade(account, order.instrument, order.position_side, order.side * qty, px, order.id, order.cid, order.qty,
                    order.cum, order.cost, order.status, "ours")
        if order.status == FILLED and self.ours(order.cid):
            self.auditor.closed(now, order.account, order.cid, FILLED)

    @staticmethod
    def _shows(account: Account, now: int) -> bool:
        """Whether the position would show a fill that every list hides: beside a second one, or a trade by hand, it may not."""
        return not any(
            other.hidden_until > now for orders in account.orders.values() for other in orders
        ) and not any(trade.kind != "ours" and trade.t > now - 60 * S for trade in account.trades)

    def _end(self, order: Order, status: int) -> None:
        if order.status in (REJECTED, EXPIRED, FILLED, CANCELED):
            return
        now = self.world.now
        order.status = status
        order.log.append((now, status, order.cum, order.cost))
        account = self.accounts[order.account]
        account.open.pop(order.cid, None)
        if self.ours(order.cid):
            self.auditor.closed(now, order.account, order.cid, status)
        self._tell(account, Shown(order.account, order.cid, order.id, status, order.cum, order.cost, order.qty, order.side, now))

    def _trade(
        self, account: Account, instrument: int, position_side: int, qty: int, px: int, order_id: int, cid: bytes,
        order_qty: int, cum: int, cost: int, status: int, kind: str,
    ) -> Trade:
        now = self.world.now
        self.trade_ids[instrument] += 1
        trade_id = self.trade_ids[instrument]
        if trade_id <= self.trade_ids[instrument - 1] and len(self.trade_ids) > 1:
            self.draws.count("O33")
        account.move(now, instrument, position_side, qty)
        trade = Trade(trade_id, now, instrument, position_side, qty, px, order_id, cid, order_qty, cum, cost, status, kind)
        account.trades.append(trade)
        self.auditor.executed(now, account.index, cid if kind == "ours" else None, instrument, position_side,
                              1 if qty > 0 else -1, abs(qty), px, trade_id, kind)
        if self.world.trace is not None:
            self.world.say("venue", f"{account.name} {kind} {qty:+d} lots of {instrument} at {px}, holds "
                                    f"{account.position[instrument, position_side]}")
        self._tell(account, trade)
        return trade

    # -- user streams ---------------------------------------------------------------------------------------------------
    def _tell(self, account: Account, what: Any) -> None:
        """Every open stream of the account hears of it; what is lost on the way is the network's doing."""
        world, draws = self.world, self.draws
        if self.untold and isinstance(what, Trade | Shown) and what.cid in self.untold:
            return
        for stream in account.streams:
            if not stream.open or stream.deaf:
                continue
            if draws.fault("L11/follower", 12_000):
                continue
            delay = MS + draws.draw("stream", 12_000) * US
            if draws.fault("L02/follower", 15_000):
                delay += draws.param("L02/follower", "ms", 1, 3_000) * MS
            elif draws.fault("L13/follower", 12_000):
                delay += draws.param("L13/follower", "ms", 4_000, 30_000) * MS
            world.at(world.now + delay, stream.owner, stream.deliver, what)
            if draws.fault("L01/follower", 20_000):
                world.at(world.now + delay + draws.param("L01/follower", "ms", 0, 3_000) * MS, stream.owner, stream.deliver, what)

    # -- what the lists hide ------------------------------------------------------------------------------------------------
    @staticmethod
    def unhide(account: Account) -> None:
        """Every order of the account is in its lists again."""
        for orders in account.orders.values():
            for order in orders:
                order.hidden_until = 0

    def hide_no_more(self) -> None:
        """From here on a position need not show what is hidden: others trade under our tag, and their fills, untold, may cancel
        it out."""
        self.hiding = False
        for account in self.accounts:
            self.unhide(account)

    # -- what moves an account beside our orders ------------------------------------------------------------------------
    def by_hand(self, account: Account, instrument: int, position_side: int, qty: int, kind: str = "manual") -> None:
        """A trade that is not ours: by hand, a liquidation, a deleveraging."""
        self.next_id += 1
        px = self.instruments[instrument].px
        self.unhide(account)  # the two might cancel out: then nothing at all would show that there was a fill
        self._trade(account, instrument, position_side, qty, px, self.next_id, b"", abs(qty), abs(qty),
                    abs(qty) * px * VALUE_MUL, FILLED, kind)

    def flow(self, account: Account, amount: int) -> None:
        """A deposit or a withdrawal."""
        account.wallet = max(0, account.wallet + amount)
        account.wallet_log.append((self.world.now, account.wallet))
        self._tell(account, ("balance", account.wallet))

    def set_leverage(self, account: Account, instrument: int, leverage: int) -> None:
        """Leverage is changed by its owner."""
        account.leverage[instrument] = leverage
        self._tell(account, ("leverage", instrument, leverage))

    # -- reads: every kind from a replica of its own ---------------------------------------------------------------------
    def retry_after(self) -> int:
        """How long the venue asks to wait, ns."""
        return max(S, max(self.banned_until, self.retry_after_until) - self.world.now)

    def refuses(self) -> int:
        """HTTP status of a refusal that any request meets now; 0 = none."""
        now = self.world.now
        if now < self.banned_until:
            return 418
        if now < self.retry_after_until:
            return 429
        if now < self.closed_until:
            return 503
        return 0

    def _lag(self, name: str) -> int:
        """How old the replica is that answers."""
        draws = self.draws
        if self.world.now < self.storm_until:
            return self.world.now - draws.between("storm.lag", READ_LAG * 7 // 10, READ_LAG - 1)
        if draws.fault(name, 60_000):
            return self.world.now - draws.param(name, "us", 0, READ_LAG // US - 1) * US
        return self.world.now

    def show_order(self, account: int, cid: bytes) -> Shown | None:
        """One order by its id: the latest that carries it. What has ended may be gone from here (not from the history)."""
        found = self.accounts[account].orders.get(cid)
        if not found:
            return None
        order = found[-1]
        now = self.world.now
        if now < order.hidden_until:
            return None
        shown = order.shown(self._lag("O27/order"))
        if shown is not None and shown.status not in (NEW, PARTIAL):
            if self.evicting and order.log[-1][0] < now - S // 2:
                self.draws.count("O28")
                return None
            if self.draws.fault("O28", 30_000):
                return None
        return shown

    def show_orders(self, account: int, instrument: int, since: int) -> tuple[list[Shown], bool]:
        """Orders of an instrument since a time, and whether the page holds all of them."""
        t, now = self._lag("O27/orders"), self.world.now
        found = [
            shown for orders in self.accounts[account].orders.values() for order in orders
            if order.instrument == instrument and order.t >= since and now >= order.hidden_until
            and (shown := order.shown(t)) is not None
        ]
        if found and ((self.evicting and self.draws.draw("venue.page", 3) == 0) or self.draws.fault("O28/page", 20_000)):
            return found[: len(found) // 2], False
        return found, True

    def show_trades(self, account: int, order_id: int) -> list[Trade]:
        """The executions of one order."""
        t = self._lag("O27/trades")
        return [trade for trade in self.accounts[account].trades if trade.order_id == order_id and trade.t <= t]

    def show_position(self, account: int) -> tuple[int, list[tuple[int, int, int]]]:
        """Wallet and positions of an account."""
        t = self._lag("O27/position")
        held = self.accounts[account]
        wallet = next(value for at, value in reversed(held.wallet_log) if at <= t)
        return wallet, held.held(t)


def _nobody(reply: Reply) -> None:
    """An answer that nobody hears."""
