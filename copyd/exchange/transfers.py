"""Transfers between accounts' wallets, ordered by whoever settles: each id is carried out once, whatever is sent how often.

    POST /transfers  {"transfers": [{"id", "from", "to", "amount"}, ...]}  -> {"results": [{"id", "state", "reason", "ts"}, ...]}
    GET  /transfers/<id>                                                   -> {"id", "state", "reason", "ts"}

States: ``executed``, ``refused`` (final as well: an id that was refused never executes later), ``unknown`` (only from the
query: no transfer of this id was ever decided). The same id with other terms is a bad request and changes nothing.

Faults apply to the method ``POST /transfers`` (matched by the first id as client id, and by its paying account) and to
``GET /transfers``: those before execution, those after it, and ``stale_read``, a query that does not see what is there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from copyd.errors import UsageError
from copyd.exchange.binance_usdm import money_e8
from copyd.exchange.faults import DEAD, Rule
from copyd.exchange.model import fixed

if TYPE_CHECKING:
    from copyd.exchange.base import Exchange

BATCH_MAX = 10_000
ID_CHARS_MAX = 64
AMOUNT_E8_MAX = 10**18
SILENT = ("drop_request", "drop_reply", "disconnect", "disconnect_live")
UNSURE = ("error_live", "error_dead", "unavailable", "throttled")


class TransferOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Money from one account's wallet to another's; ``amount`` a decimal text above 0."""

    id: str
    source: str = msgspec.field(name="from")
    to: str
    amount: str


class TransfersOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch, carried out in its order."""

    transfers: list[TransferOrder]


class TransferResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one id; ``ts`` ns of the exchange's clock."""

    id: str
    state: str
    reason: str = ""
    ts: int = 0


class Transfers:
    """Every transfer ever decided, by id, and the handlers of the control port."""

    def __init__(self, exchange: Exchange) -> None:
        self.x = exchange
        self.decided: dict[str, tuple[TransferOrder, TransferResult]] = {}

    async def execute(self, request: web.Request) -> web.StreamResponse:
        """Check the whole batch, then carry out what has not been decided yet."""
        orders = msgspec.json.decode(await request.read(), type=TransfersOrder).transfers
        self._check(orders)
        first = orders[0] if orders else None
        fault = self.x.faults.request(first.source, "", "POST /transfers", first.id) if first else None
        await self._wait(fault, "delay")
        if fault is None or fault.action not in DEAD:
            results = [self._decide(order) for order in orders]
            self.x.changed()
            self.x.flush()
        else:
            results = []
        return await self._answer(request, fault, "POST /transfers", first, {"results": msgspec.to_builtins(results)})

    async def query(self, request: web.Request) -> web.StreamResponse:
        """What became of one id."""
        known = self.decided.get(request.match_info["id"])
        order = known[0] if known else TransferOrder(request.match_info["id"], "", "", "")
        fault = self.x.faults.request(order.source, "", "GET /transfers", order.id)
        await self._wait(fault, "delay")
        if known is None or (fault is not None and fault.action == "stale_read"):
            result = TransferResult(order.id, "unknown")
        else:
            result = known[1]
        return await self._answer(request, fault, "GET /transfers", order, msgspec.to_builtins(result))

    def rows(self, after: int, limit: int) -> list[dict[str, Any]]:
        """The truth: every id decided, in order; ``seq`` counts them."""
        every = list(self.decided.values())
        return [
            {"seq": seq, **msgspec.to_builtins(order), **msgspec.to_builtins(result)}
            for seq, (order, result) in enumerate(every[after + 1 : after + 1 + limit], after + 1)
        ]

    def _check(self, orders: list[TransferOrder]) -> None:
        if len(orders) > BATCH_MAX:
            raise UsageError(f"{len(orders)} transfers in one request; at most {BATCH_MAX}")
        for order in orders:
            if not 0 < len(order.id) <= ID_CHARS_MAX:
                raise UsageError(f"transfer id {order.id!r}: 1 to {ID_CHARS_MAX} characters")
            if not 0 < _amount(order) <= AMOUNT_E8_MAX:
                raise UsageError(f"transfer {order.id}: amount {order.amount!r} must be above 0 and at most 10 billion")
            known = self.decided.get(order.id)
            if known is not None and known[0] != order:
                raise UsageError(f"transfer {order.id} was ordered before with other terms")

    def _decide(self, order: TransferOrder) -> TransferResult:
        known = self.decided.get(order.id)
        if known is not None:
            return known[1]
        now = self.x.now_ns()
        reason = self._move(order, now)
        result = TransferResult(order.id, "refused" if reason else "executed", reason, now)
        self.decided[order.id] = (order, result)
        return result

    def _move(self, order: TransferOrder, now: int) -> str:
        """Both wallets or none; the reason where it was none."""
        index = self.x.accounts.index
        for name in (order.source, order.to):
            if name not in index:
                return f"unknown account {name!r}"
        amount = _amount(order)
        if self.x.engine.transfer(index[order.source], -amount, now) < 0:
            return f"insufficient: {fixed(amount, 8)} is more than {order.source} has free"
        self.x.engine.transfer(index[order.to], amount, now)
        return ""

    async def _wait(self, fault: Rule | None, action: str) -> None:
        if fault is not None and fault.action == action:
            await asyncio.sleep(fault.delay_ms / 1000)

    async def _answer(
        self, request: web.Request, fault: Rule | None, method: str, first: TransferOrder | None, body: dict[str, Any]
    ) -> web.StreamResponse:
        """The answer, or what a fault makes of it."""
        if fault is not None:
            source, number = (first.source, first.id) if first else ("", "")
            self.x.faults.note(self.x.now_ns(), fault.action, source, method, number, fault.delay_ms)
            await self._wait(fault, "delay_reply")
            if fault.action in UNSURE:
                return web.json_response({"error": "Unknown error, please check your request or try again later."}, status=503)
            if fault.action in SILENT and request.transport is not None:
                request.transport.close()
        return web.json_response(body)


def _amount(order: TransferOrder) -> int:
    try:
        return money_e8(order.amount, "amount")
    except Exception:
        raise UsageError(f"transfer {order.id}: not an amount: {order.amount!r}") from None
