"""What every simulated exchange has, whatever its dialect: engine, accounts, makers, faults, clockwork, the truth.

``server.ExchangeServer`` (Binance USD-M, compiled wire) and ``host.Host`` (any dialect) are both one of these; the control port
and transfers know nothing else of them. Everything runs on one loop, so every change of the engine is ordered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from copyd._fast.sim_engine import Engine
from copyd.exchange.accounts import Book
from copyd.exchange.faults import Faults
from copyd.exchange.makers import start_makers
from copyd.exchange.model import E8, Instrument, fixed

FUNDING_PERIOD_MS = 8 * 3600 * 1000
FEES_PPM = (200, 500)  # of an account that was given none
REFUSALS_KEPT = 200_000
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Settled(msgspec.Struct, frozen=True):
    """A settlement of funding: index of the instrument, ns, rate in 1e-8, mark in ticks."""

    symbol: int
    ts_ns: int
    rate_e8: int
    mark_px: int


class Exchange:
    """One engine and what belongs to it. An inheritor says what time it is, who hears of a change, and how it is spoken to."""

    key_kinds: tuple[str, ...] = ("hmac", "ed25519", "rsa")

    def __init__(
        self, instruments: tuple[Instrument, ...], host: str, seed: int, makers: bool, maker_ms: int, funding_rate_ppm: int,
        make_engine: Callable[[Any], Any] = Engine, make_makers: Callable[[Any, int], Any] = start_makers,
    ) -> None:
        """``make_engine`` from the instruments and ``make_makers`` from engine and seed: of the market, futures if not said."""
        self.instruments = instruments
        self.symbols = {spec.symbol: index for index, spec in enumerate(instruments)}
        self.engine: Engine = make_engine(instruments)
        self.faults = Faults()
        self.accounts = Book(seed)
        self.accounts.register(0, "insurance-fund")
        self.makers = make_makers(self.engine, seed) if makers else None
        for account in range(1, self.engine.n_accounts):
            self.accounts.register(account, f"maker-{account}")
        self.maker_ms = maker_ms
        self.seed = seed
        self.fees: dict[int, tuple[int, int]] = {}
        self.funding_rate_e8 = funding_rate_ppm * 100
        self.funding_log: list[Settled] = []
        self.reads: list[dict[str, Any]] = []
        self.marked: set[int] = set()
        self.refusals: deque[dict[str, Any]] = deque(maxlen=REFUSALS_KEPT)
        self.n_refusals = 0
        self.connects = 0
        self.ports: dict[str, int] = {}
        self.started_ns = self.funding_due_ms = 0
        self._at = host
        self._tasks: list[asyncio.Task[None]] = []
        self._runners: list[web.ServerRunner | web.AppRunner] = []
        self._ws_server: asyncio.Server | None = None

    # -- what an inheritor says -------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """The engine's clock and the truth's: never goes back."""
        raise NotImplementedError

    def server_ns(self) -> int:
        """The clock its clients see: the same but for a skew set on purpose."""
        raise NotImplementedError

    def set_skew(self, skew_ns: int) -> None:
        """Put the clients' clock ahead of the truth's (or behind)."""
        raise NotImplementedError

    def changed(self) -> None:
        """Tell what the engine's last call caused; to be called right after every changing call."""
        raise NotImplementedError

    def flush(self) -> None:
        """Hand every connection's queued bytes to its transport."""
        raise NotImplementedError

    def issue_key(self, account: int, name: str, kind: str, public_key: str, rights: dict[str, Any]) -> dict[str, str]:
        """A key for an account: what its owner is told of it (``api_key``, ``secret``, perhaps ``passphrase``)."""
        raise NotImplementedError

    def drop_key(self, api_key: str) -> None:
        """A key that is accepted no more; connections that were let in with it stay."""
        raise NotImplementedError

    def set_rights(self, account: int, rights: dict[str, Any]) -> None:
        """What the venue says of the account's key from now on, over the dialect's defaults; names are the venue's own."""
        raise NotImplementedError

    def faults_changed(self) -> None:
        """Rules were added or removed."""
        raise NotImplementedError

    def disconnect(self, kind: str, stream: str, account: int | None, pick: int | None) -> int:
        """Cut the connections that match, or the ``pick``-th of them: how many."""
        raise NotImplementedError

    def set_limits(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Change what one client may ask for: what is in force now. UsageError: no such limit, or no such number."""
        raise NotImplementedError

    def listed(self, index: int) -> tuple[str, int]:
        """An instrument as its clients know it: the venue's name of it, and what one unit of quantity is of the base asset
        (1e-8)."""
        return self.instruments[index].symbol, E8

    def execution_name(self, index: int, trade_id: int, account: int) -> str:
        """A trade as the owner of one of its sides is told of it."""
        return str(trade_id)

    def stats(self) -> dict[str, Any]:
        """Counts of the wire, for the truth."""
        raise NotImplementedError

    # -- life -------------------------------------------------------------------------------------------------------------

    async def open_ports(self, ports: tuple[int, int, int], on_rest: Handler, connection: Callable[[], Any]) -> None:
        """Open REST, WebSocket and control, 0 = any free port. OSError names the port that is taken."""
        from copyd.exchange.control import make_control

        rest = web.ServerRunner(web.Server(on_rest, access_log=None), shutdown_timeout=0.5)
        await rest.setup()
        self._runners.append(rest)
        self.ports["rest"] = await _listen(rest, self._at, ports[0])
        loop = asyncio.get_running_loop()
        try:
            self._ws_server = await loop.create_server(connection, self._at, ports[1], backlog=4096)
        except OSError as error:
            raise OSError(error.errno, f"port {ports[1]} on {self._at} is in use") from None
        self.ports["ws"] = self._ws_server.sockets[0].getsockname()[1]
        control = web.AppRunner(make_control(self), access_log=None, shutdown_timeout=0.5)
        await control.setup()
        self._runners.append(control)
        self.ports["control"] = await _listen(control, "127.0.0.1", ports[2])

    def start_clockwork(self, clockwork: Sequence[tuple[float, Callable[[], None]]]) -> None:
        """Call each action every so many seconds; the makers, where there are any, take their first step now."""
        parts = list(clockwork)
        if self.makers is not None:
            self.maker_step()
            parts.append((self.maker_ms / 1000, self.maker_step))
        self._tasks = [asyncio.create_task(self._every(period, action)) for period, action in parts]

    async def run_until(self, stop: asyncio.Event) -> None:
        """Wait for ``stop``; a clockwork task that breaks ends the exchange with its exception instead."""
        waiting = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done:
            task.result()

    async def stop_clockwork(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close_ports(self) -> None:
        if self._ws_server is not None:
            self._ws_server.close()
        for runner in self._runners:
            await runner.cleanup()

    def call_later(self, delay_s: float, action: Callable[[], Any]) -> None:
        asyncio.get_running_loop().call_later(delay_s, action)

    async def _every(self, period_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` on a fixed schedule; after a delay the missed turns are skipped, not made up."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + period_s, loop.time())
            await asyncio.sleep(due - loop.time())
            action()
            self.flush()

    # -- the market -------------------------------------------------------------------------------------------------------

    def maker_step(self) -> None:
        assert self.makers is not None
        self.makers.step(self.now_ns())
        self.changed()

    def move_market(self, symbol: int, bps: int | None, px: int | None) -> None:
        """Move the makers' middle by basis points or to a price, and quote there at once."""
        assert self.makers is not None
        if px is not None:
            self.makers.move_to(symbol, px)
        elif bps is not None:
            self.makers.shift(symbol, bps * 100)
        self.maker_step()

    def maker_hash(self) -> str:
        """Hash over everything the makers sent; equal after equally many steps with equal seeds."""
        return f"{self.makers.flow_hash():016x}" if self.makers is not None else ""

    # -- funding ----------------------------------------------------------------------------------------------------------

    def next_funding_ms(self, now_ns: int) -> int:
        """When funding is settled next."""
        return (now_ns // 10**6 // FUNDING_PERIOD_MS + 1) * FUNDING_PERIOD_MS

    def funding_rate_text(self) -> str:
        """The rate of the next settlement, as a fraction."""
        return fixed(self.funding_rate_e8, 8)

    def settle_funding(self, symbol: int, rate_e8: int) -> int:
        """Longs pay shorts now: accounts touched."""
        now = self.now_ns()
        touched = self.engine.apply_funding(symbol, rate_e8, now)
        self.changed()
        self.funding_log.append(Settled(symbol, now, rate_e8, self.engine.mark(symbol)))
        return touched

    def settle_when_due(self, now_ns: int) -> None:
        """Settle every instrument when the hour has come."""
        if now_ns // 10**6 >= self.funding_due_ms:
            self.funding_due_ms = self.next_funding_ms(now_ns)
            for index in range(len(self.instruments)):
                self.settle_funding(index, self.funding_rate_e8)

    # -- accounts and the truth -------------------------------------------------------------------------------------------

    def fees_ppm(self, account: int) -> tuple[int, int]:
        """(maker, taker)."""
        return self.fees.get(account, FEES_PPM)

    def note_equity(self, account: int, equity_e8: int, ts_ns: int) -> None:
        """Remember the equity served to a marked account (for the truth)."""
        if account in self.marked:
            self.reads.append(
                {"seq": len(self.reads), "account": self.accounts.name(account), "ts": ts_ns, "equity": fixed(equity_e8, 8)}
            )

    def keep_refusal(self, account: str, symbol: str, method: str, client_id: str, code: int, message: str) -> None:
        """Remember a refusal (for the truth)."""
        self.refusals.append(
            {
                "seq": self.n_refusals,
                "ts": self.now_ns(),
                "account": account,
                "symbol": symbol,
                "method": method,
                "clientOrderId": client_id,
                "code": code,
                "msg": message,
            }
        )
        self.n_refusals += 1


async def _listen(runner: web.ServerRunner | web.AppRunner, host: str, port: int) -> int:
    site = web.TCPSite(runner, host, port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        raise OSError(error.errno, f"port {port} on {host} is in use") from None
    server = site._server
    assert server is not None
    return int(server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
