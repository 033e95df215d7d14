"""A small scripted order socket on loopback, for the faults that are easier to stage here than on the exchange."""

import asyncio
import json
import struct
import time

import pytest
import uvloop
from websockets.asyncio.server import serve

from copyd._fast.encode import Encoder
from copyd.venues.binance_usdm.contract import CONTRACT
from copyd.venues.binance_usdm.gateway import OrderGateway
from copyd.venues.binance_usdm.instruments import load_instruments
from copyd.venues.common.limits import VenueClock
from copyd.venues.common.signing import Key


@pytest.fixture(scope="session")
def event_loop_policy():
    """These tests run on the loop the daemon runs on."""
    return uvloop.EventLoopPolicy()


EXCHANGE_INFO = json.dumps(
    {
        "symbols": [
            {
                "symbol": "BTCUSDT",
                "status": "TRADING",
                "contractType": "PERPETUAL",
                "quoteAsset": "USDT",
                "marginAsset": "USDT",
                "pricePrecision": 2,
                "quantityPrecision": 3,
                "marketTakeBound": "0.05",
                "filters": [
                    {"filterType": "PRICE_FILTER", "minPrice": "556.80", "maxPrice": "4529764", "tickSize": "0.10"},
                    {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
                    {"filterType": "MARKET_LOT_SIZE", "minQty": "0.001", "maxQty": "120", "stepSize": "0.001"},
                    {"filterType": "MAX_NUM_ORDERS", "limit": 200},
                    {"filterType": "MIN_NOTIONAL", "notional": "50"},
                    {
                        "filterType": "PERCENT_PRICE",
                        "multiplierUp": "1.0500",
                        "multiplierDown": "0.9500",
                        "multiplierDecimal": "4",
                    },
                ],
            },
            {
                "symbol": "ETHUSDT",
                "status": "TRADING",
                "quoteAsset": "USDT",
                "filters": [
                    {"filterType": "PRICE_FILTER", "tickSize": "0.01"},
                    {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "10000", "stepSize": "0.001"},
                    {"filterType": "MARKET_LOT_SIZE", "minQty": "0.005", "maxQty": "2000", "stepSize": "0.010"},
                    {"filterType": "MIN_NOTIONAL", "notional": "20"},
                ],
            },
        ]
    }
).encode()

INSTRUMENTS = load_instruments(EXCHANGE_INFO, [(0, "BTCUSDT"), (1, "ETHUSDT")])
KEY = Key(b"APIKEY", b"SECRET")


def filled(request, qty="0.010", px="65000.10", status="FILLED"):
    """The answer of a placement that filled."""
    params = request["params"]
    return {
        "id": request["id"],
        "status": 200,
        "result": {
            "orderId": 77,
            "symbol": params["symbol"],
            "status": status,
            "clientOrderId": params.get("newClientOrderId", ""),
            "executedQty": qty,
            "avgPrice": px,
            "updateTime": 1700000000123,
            "origQty": "0.010",
        },
    }


def refused(request, code, status=400, msg="no"):
    return {"id": request["id"], "status": status, "error": {"code": code, "msg": msg}}


class Venue:
    """Answers by ``script(request) -> reply dict | bytes | list of parts | None (silence) | "drop"``."""

    def __init__(self):
        self.script = lambda request: filled(request)
        self.requests = []
        self.sockets = set()
        self.url = ""

    async def handle(self, socket):
        self.sockets.add(socket)
        try:
            async for message in socket:
                request = json.loads(message)
                self.requests.append(request)
                reply = self.script(request)
                if reply == "drop":
                    socket.transport.abort()
                    return
                if reply is not None:
                    await socket.send(reply if isinstance(reply, (bytes, str, list)) else json.dumps(reply))
        finally:
            self.sockets.discard(socket)


@pytest.fixture
async def venue():
    made = Venue()
    async with serve(made.handle, "127.0.0.1", 0, compression=None) as server:
        made.server = server
        made.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws-fapi/v1"
        yield made


class Desk:
    """A gateway with its encoder and everything it reported."""

    def __init__(self, gateway, encoder):
        self.gateway, self.encoder = gateway, encoder
        self.reports = []
        self.batches = 0
        self.states = []

    def take(self, batch, ts_recv):
        self.batches += 1
        self.reports += rows(batch)

    def place(self, *cids, account=0, qty=10, px=650001, side=1):
        bursts = self.encoder.encode_rows(
            [(account, 0, cid, qty, px, side, 0, False) for cid in cids], self.gateway.venue_clock.timestamp_ms()
        )
        return self.gateway.send(bursts)

    async def until(self, n):
        end = asyncio.get_running_loop().time() + 8.0
        while len(self.reports) < n and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return self.reports


def rows(batch):
    """(kind, status, cid, cum lots, cost e8, code, venue order id) of each row; layout of ``struct Report`` in columns.pxd."""
    layout = struct.Struct("=16s8qIi2B6x")
    found = []
    for cid, cum, cost, last_qty, last_px, fee, trade, order, event, account, code, kind, status in layout.iter_unpack(
        batch.to_bytes()
    ):
        found.append(
            {
                "kind": kind,
                "status": status,
                "cid": cid,
                "cum": cum,
                "cost": cost,
                "code": code,
                "order": order,
                "last_qty": last_qty,
                "last_px": last_px,
                "fee": fee,
                "trade": trade,
                "event": event,
                "account": account,
            }
        )
    return found


@pytest.fixture
async def desk(venue):
    desks = []

    async def make(connections=1, **terms):
        contract = CONTRACT.overridden(terms)
        clock = VenueClock(contract, time.time_ns)
        clock.note(0, 0, 0)
        clock.offset_ns = 0
        encoder = Encoder(contract.recv_window_ms, 5)
        made = Desk(None, encoder)
        made.gateway = OrderGateway(
            url=venue.url,
            connections=connections,
            instruments=INSTRUMENTS,
            contract=contract,
            clock=time.time_ns,
            venue_clock=clock,
            on_reports=made.take,
            on_connection=lambda *state: made.states.append(state),
        )
        for i in INSTRUMENTS:
            encoder.set_instrument(i.index, i.symbol, i.price_decimals, i.tick, i.qty_decimals, i.lot)
        for account in range(4):
            made.gateway.register(encoder, account, KEY)
        await made.gateway.start(5)
        desks.append(made)
        return made

    yield make
    for made in desks:
        await made.gateway.stop(0.0)
