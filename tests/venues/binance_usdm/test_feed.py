"""The feeds on a scripted account: a sync that is asked for while one is being handed on, and what cannot be read."""

import asyncio
import json
import time
from functools import partial

from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.accounts import FollowerStreams, _Member
from copyd.venues.binance_usdm.codec import LeaderFill, LeaderSync
from copyd.venues.binance_usdm.connection import Session
from copyd.venues.binance_usdm.contract import CONTRACT, Endpoints
from copyd.venues.binance_usdm.feed import LeaderFeed
from copyd.venues.binance_usdm.rest import VenueClock

from .conftest import INSTRUMENTS, KEY


class Account:
    """The leader's account over REST: executions, and the position they add up to."""

    def __init__(self):
        self.venue_clock = VenueClock(CONTRACT, time.time_ns)
        self.trades = []
        self.answers = asyncio.Event()
        self.answers.set()

    def trade(self, n, qty="0.010"):
        """One more execution; also as the stream tells it."""
        self.trades.append({
            "symbol": "BTCUSDT", "id": n, "orderId": n, "side": "BUY", "price": "65000.1", "qty": qty, "time": n,
            "positionSide": "BOTH",
        })  # fmt: skip
        body = {
            "s": "BTCUSDT", "c": "web", "S": "BUY", "X": "FILLED", "x": "TRADE", "i": n, "q": qty, "z": qty, "l": qty,
            "L": "65000.1", "ap": "65000.1", "T": n, "t": n, "ps": "BOTH", "o": "MARKET",
        }  # fmt: skip
        return json.dumps({"e": "ORDER_TRADE_UPDATE", "E": n, "T": n, "o": body}).encode()

    async def call(self, method, path, params=None, key=None, signed=True):
        await asyncio.sleep(0)
        await self.answers.wait()
        if path.endswith("userTrades"):
            found = [t for t in self.trades if t["symbol"] == params["symbol"] and t["id"] >= params.get("fromId", 0)]
            return json.dumps(found).encode()
        if path.endswith("positionRisk"):
            lots = sum(float(t["qty"]) for t in self.trades)
            return json.dumps([{"symbol": "BTCUSDT", "positionAmt": f"{lots:.3f}"}]).encode()
        if path.endswith("account"):
            return b'{"totalMarginBalance": "1000", "totalWalletBalance": "1000"}'
        return json.dumps([{"symbol": params["symbol"], "marginType": "CROSSED", "leverage": 10}]).encode()


def feed_of(account, heard):
    """A feed whose stream is what the test hands to it."""
    feed = LeaderFeed(
        leader=0, key=KEY, rest=account, endpoints=Endpoints.at("http://127.0.0.1:1", "ws://127.0.0.1:1"),
        instruments=INSTRUMENTS, contract=CONTRACT, clock=time.time_ns, on_event=heard.append,
    )  # fmt: skip
    feed._link.connects = 1
    feed.stream.resume({0: 0, 1: 0})
    return feed


def connected(feed):
    """A connection is open."""
    session = Session(feed._link)
    feed._on_open(session)
    return session


async def settled(feed):
    for _ in range(300):
        if feed.synced and not feed._questions:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the feed did not come into sync")


async def test_a_sync_asked_for_by_what_is_handed_on_runs_after_it_and_holds_what_comes_meanwhile():
    """Two syncs at once would call a snapshot valid that is older than a fill already handed on: a false reduction."""
    account, heard = Account(), []
    feed = feed_of(account, heard)
    asked = []

    def take(event):
        heard.append(event)
        if isinstance(event, LeaderFill) and not asked:
            asked.append(event)
            account.answers.clear()
            feed.request_sync("the fold and the venue disagree")

    feed.on_event = take
    account.trade(1)
    connected(feed)
    for _ in range(300):
        if asked:
            break
        await asyncio.sleep(0.001)
    # The second sync is on its way: what comes now waits for it.
    late = account.trade(2)
    feed._on_frame(None, late)
    assert [event.exec_id for event in heard if isinstance(event, LeaderFill)] == [1]
    account.answers.set()
    await settled(feed)
    assert [event.exec_id for event in heard if isinstance(event, LeaderFill)] == [1, 2]
    folded = 0
    for event in heard:
        if isinstance(event, LeaderFill):
            folded += event.qty
        elif isinstance(event, LeaderSync) and event.synced:
            assert sum(position.qty for position in event.positions) == folded
    await feed.stop()


async def test_an_execution_that_cannot_be_read_is_read_again_from_the_account():
    """It may have been a close; waiting for the next comparison of positions would leave followers in."""
    account, heard = Account(), []
    feed = feed_of(account, heard)
    connected(feed)
    await settled(feed)
    frame = account.trade(1).replace(b'"l": "0.010"', b'"l": "a lot"')
    assert isinstance(codec.decode_user(frame), codec.OrderTradeUpdate)
    feed._on_frame(None, frame)
    assert feed.stats.malformed == 1
    assert not feed.synced
    await settled(feed)
    assert [event.exec_id for event in heard if isinstance(event, LeaderFill)] == [1]
    await feed.stop()


async def test_accounts_the_venue_will_not_let_back_on_after_a_reconnect_are_enrolled_anew():
    """Nobody waits for that answer: without this they would stay unheard until the next reconnect."""
    streams = FollowerStreams(
        rest=Account(), endpoints=Endpoints.at("http://127.0.0.1:1", "ws://127.0.0.1:1"), instruments=INSTRUMENTS,
        contract=CONTRACT, clock=time.time_ns, site_tag="0007", on_reports=lambda *rows: None, on_event=lambda event: None,
    )  # fmt: skip
    member = _Member(3, KEY)
    member.listen_key = "listen"
    streams._members[3] = streams._by_key["listen"] = member
    answer = asyncio.get_running_loop().create_future()
    answer.add_done_callback(partial(streams._tell_gaps, [member]))
    answer.set_exception(VenueUnavailable("subscription refused"))
    await asyncio.sleep(0)
    assert streams._absent == {3: KEY}
    assert not streams._members and not streams._by_key
