"""The feeds on a scripted account: a sync that is asked for while one is being handed on, and what cannot be read."""

import asyncio
import json
import time
from functools import partial

from copyd.errors import VenueUnavailable
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.accounts import FollowerStreams, _Member
from copyd.venues.binance_usdm.contract import CONTRACT, Endpoints
from copyd.venues.binance_usdm.feed import LeaderFeed
from copyd.venues.common.connection import Session
from copyd.venues.common.facts import LeaderFill, LeaderSync
from copyd.venues.common.limits import VenueClock

from .conftest import INSTRUMENTS, KEY


class Account:
    """The leader's account over REST: executions, and the position they add up to."""

    def __init__(self):
        self.venue_clock = VenueClock(CONTRACT, time.time_ns)
        self.trades = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.calls = []
        self.ours = set()  # orders that bear our prefix

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
        self.calls.append(path)
        if path.endswith("v1/order"):
            name = "0007" + "0" * 28 if params["orderId"] in self.ours else "web_1"
            return json.dumps({"orderId": params["orderId"], "clientOrderId": name, "origQty": "0.030"}).encode()
        if path.endswith("accountConfig"):
            return b'{"dualSidePosition": true}'
        if path.endswith("userTrades"):
            found = [t for t in self.trades if t["symbol"] == params["symbol"] and t["id"] >= params.get("fromId", 0)]
            return json.dumps(found).encode()
        if path.endswith("positionRisk"):
            lots = sum(float(t["qty"]) for t in self.trades)
            side = self.trades[-1]["positionSide"] if self.trades else "BOTH"
            return json.dumps([{"symbol": "BTCUSDT", "positionAmt": f"{lots:.3f}", "positionSide": side}]).encode()
        if path.endswith("account"):
            return b'{"totalMarginBalance": "1000", "totalWalletBalance": "1000"}'
        return json.dumps([{"symbol": params["symbol"], "marginType": "CROSSED", "leverage": 10}]).encode()


def feed_of(account, heard, **options):
    """A feed whose stream is what the test hands to it."""
    feed = LeaderFeed(
        leader=0, key=KEY, rest=account, endpoints=Endpoints.at("http://127.0.0.1:1", "ws://127.0.0.1:1"),
        instruments=INSTRUMENTS, contract=CONTRACT, clock=time.time_ns, on_event=heard.append, **options,
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


async def test_back_filled_executions_are_asked_for_their_order():
    """Semantics 15: what bears our own prefix is no leader event, and back-fill does not say whose it was."""
    account, heard = Account(), []
    feed = feed_of(account, heard)
    account.trade(1)
    account.trade(2)
    account.ours = {2}
    connected(feed)
    await settled(feed)
    fills = [event for event in heard if isinstance(event, LeaderFill)]
    told = [(f.exec_id, f.live, f.client_order_id[:4], f.order_qty) for f in fills]
    assert told == [(1, False, "web_", 30), (2, False, "0007", 30)]
    assert account.calls.count("/fapi/v1/order") == 2
    await feed.stop()


async def test_an_oversized_frame_may_have_been_a_close():
    account, heard = Account(), []
    feed = feed_of(account, heard)
    session = connected(feed)
    await settled(feed)
    account.trade(1)
    feed._link.on_oversized(session)
    assert not feed.synced and feed._link._renew.is_set()
    await settled(feed)
    assert [event.exec_id for event in heard if isinstance(event, LeaderFill)] == [1]
    await feed.stop()


async def test_a_fill_without_position_side_waits_on_a_hedge_mode_leader_for_the_side_the_account_names():
    """Semantics 11."""
    account, heard = Account(), []
    feed = feed_of(account, heard)
    await feed._read_mode()
    connected(feed)
    await settled(feed)
    frame = account.trade(1).replace(b'"ps": "BOTH", ', b"")
    account.trades[0]["positionSide"] = "LONG"
    feed._on_frame(None, frame)
    assert not feed.synced and not [event for event in heard if isinstance(event, LeaderFill)]
    for _ in range(300):
        if any(isinstance(event, LeaderFill) for event in heard):
            break
        await asyncio.sleep(0.005)
    [fill] = [event for event in heard if isinstance(event, LeaderFill)]
    assert fill.position_side == 1 and fill.live
    await feed.stop()


async def test_an_expired_listen_key_asks_for_a_new_one_and_a_sync_follows_the_new_connection():
    account, heard = Account(), []
    feed = feed_of(account, heard)
    connected(feed)
    await settled(feed)
    feed._on_frame(None, b'{"e":"listenKeyExpired","E":1,"listenKey":"x"}')
    assert not feed.synced and feed._link._renew.is_set()
    calls = len(account.calls)
    await asyncio.sleep(0.05)
    assert len(account.calls) == calls  # nothing is read while nothing is heard
    connected(feed)
    await settled(feed)
    await feed.stop()


async def test_a_silent_stream_is_found_by_comparing_positions():
    """Pings are answered, frames do not come: one compare period, then the account is read and the connection renewed."""
    account, heard = Account(), []
    feed = feed_of(account, heard, position_poll_s=0.1)
    connected(feed)
    await settled(feed)
    account.trade(1)
    for _ in range(300):
        if any(isinstance(event, LeaderFill) for event in heard):
            break
        await asyncio.sleep(0.01)
    assert [event.live for event in heard if isinstance(event, LeaderFill)] == [False]
    assert feed._link._renew.is_set()
    await feed.stop()


async def test_after_stop_no_sync_begins_and_nothing_is_handed_on():
    account, heard = Account(), []
    feed = feed_of(account, heard)
    connected(feed)
    await settled(feed)
    await feed.stop()
    before, calls = len(heard), len(account.calls)
    feed.request_sync("the fold and the venue disagree")
    feed._on_frame(None, account.trade(1))
    connected(feed)
    await asyncio.sleep(0.05)
    assert len(heard) == before and len(account.calls) == calls


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
