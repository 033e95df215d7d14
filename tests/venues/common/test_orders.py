"""Orders of every session venue: each ends in a report that the exchange's books confirm (semantics 32, 34, 35)."""

from __future__ import annotations

import asyncio
import socket

import pytest

from copyd.venues.common import facts
from copyd.venues.common.requests import Requests
from tests.venues.common.conftest import World, until

pytestmark = pytest.mark.asyncio


async def settled(world: World, *cids: bytes) -> None:
    """Every one of these has ended, in whatever way."""
    ends = {facts.REJECT, facts.DEAD, facts.NOT_SENT}

    def ended(one: bytes) -> bool:
        return any(row["kind"] in ends or row["status"] in facts.TERMINAL_STATUS for row in world.about(one))

    try:
        await until(lambda: all(ended(one) for one in cids))
    except AssertionError:
        raise AssertionError(f"reports {[world.about(one) for one in cids]}, {world.parts.gateway.stats}") from None


async def test_orders_of_many_accounts_fill_as_the_books_say(world: World) -> None:
    """Opening by IOC limit and reducing at market: quantity, value and commission are those of the exchange's books."""
    accounts = await world.follow(6)
    unit = world.unit()
    opened = [world.order(account, (3 + at) * unit, px=world.buy_px()) for at, account in enumerate(accounts)]
    world.send(*opened)
    await settled(world, *opened)
    for at, (account, one) in enumerate(zip(accounts, opened, strict=True)):
        [true] = world.true_order(one)
        assert true["account"] == world.names[account] and true["status"] == "FILLED"
        assert world.filled(one) == (3 + at) * unit and world.lots(account) == 3 + at
        cost = max(row["cost"] for row in world.about(one))
        assert abs(cost - facts.money_e8(true["cumQuote"])) <= 10**4

    def told() -> bool:
        return all(sum(world.trades(one).values()) == world.filled(one) for one in opened)

    await until(told)
    closed = [world.order(account, (3 + at) * unit, -1, reduce_only=True, kind=1) for at, account in enumerate(accounts)]
    world.send(*closed)
    await settled(world, *closed)
    assert [world.lots(account) for account in accounts] == [0] * 6


async def test_an_ioc_that_finds_nothing_ends_without_a_fill(world: World) -> None:
    """A limit far below the book: it ends, nothing filled, no doubt is left."""
    [account] = await world.follow()
    one = world.order(account, 5 * world.unit(), px=world.buy_px() * 97 // 100)
    world.send(one)
    await settled(world, one)
    assert world.filled(one) == 0 and world.lots(account) == 0
    assert facts.IN_DOUBT not in world.kinds(one)


async def test_what_the_venue_refuses_is_a_definite_end(world: World) -> None:
    """Beyond the margin; reduce-only where there is nothing to reduce: REJECT by the core's numbers, nothing in the books."""
    [account] = await world.follow(balance="20")
    large, nothing = world.order(account, 500 * world.unit(), px=world.buy_px()), world.order(account, 5, -1, reduce_only=True)
    world.send(large)
    world.send(nothing)
    await settled(world, large, nothing)
    # The core acts on these two, by numbers of its own: no money for it; nothing there to reduce.
    assert (world.about(large)[0]["code"], world.about(nothing)[0]["code"]) == (-2019, -2022)
    for one in (large, nothing):
        assert [row["kind"] for row in world.about(one)] == [facts.REJECT]
        assert all(row["executedQty"] in ("0", "0.000") for row in world.true_order(one))


@pytest.mark.parametrize("action", ["drop_reply", "error_live", "disconnect_live", "delay_reply", "stall"])
async def test_an_order_that_lived_is_found_whatever_became_of_its_answer(world: World, action: str) -> None:
    """The answer is lost, late, an unknown error, or the connection is cut: it is booked once, and never sent again."""
    [account] = await world.follow()
    world.faults({"action": action, "account": world.names[account], "method": "place", "count": 1, "delay_ms": 1_500})
    one = world.order(account, 4 * world.unit(), px=world.buy_px())
    world.send(one)
    await settled(world, one)
    assert world.filled(one) == 4 * world.unit()
    assert len(world.true_order(one)) == 1 and world.lots(account) == 4


@pytest.mark.parametrize("action", ["drop_request", "error_dead", "disconnect"])
async def test_an_order_that_never_arrived_is_proven_dead_and_not_before_the_fence(world: World, action: str) -> None:
    """No answer, an unknown error, or a cut connection: IN_DOUBT, then DEAD by evidence later than the fence; not resent."""
    [account] = await world.follow()
    world.faults({"action": action, "account": world.names[account], "method": "place", "count": 1})
    one = world.order(account, 4 * world.unit(), px=world.buy_px())
    signed = world.orders[one][1].ts_decided
    world.send(one)
    await settled(world, one)
    assert world.kinds(one) == [facts.IN_DOUBT, facts.DEAD]
    assert world.about(one)[-1]["event"] >= signed + world.contract.fence_ns()
    assert world.true_order(one) == [] and world.lots(account) == 0


async def test_unavailable_is_a_definite_refusal_or_a_doubt_that_ends(world: World) -> None:
    """What the venue documents as refused for being unavailable never leaves an order hanging."""
    [account] = await world.follow()
    world.faults({"action": "unavailable", "account": world.names[account], "method": "place", "count": 1})
    one = world.order(account, 4 * world.unit(), px=world.buy_px())
    world.send(one)
    await settled(world, one)
    assert world.kinds(one)[-1] in (facts.REJECT, facts.DEAD)
    assert world.true_order(one) == []


async def test_what_was_sent_on_a_lost_connection_is_in_doubt_and_found(world: World) -> None:
    """All the account's sockets are cut right after the write: each order ends as the books have it, none is sent twice."""
    [account] = await world.follow()
    world.faults({"action": "delay_reply", "account": world.names[account], "method": "place", "count": 3, "delay_ms": 400})
    cids = [world.order(account, (1 + at) * world.unit(), px=world.buy_px()) for at in range(3)]
    world.send(*cids)
    await asyncio.sleep(0.05)
    for line in world.parts.sessions.lines(account):
        if line.session is not None:
            line.session.abort("cut by the test")
    await settled(world, *cids)
    for one in cids:
        assert len(world.true_order(one)) <= 1
        traded = sum(facts.money_e8(row["executedQty"]) // 10**5 for row in world.true_order(one))
        assert world.filled(one) == traded * world.unit()
    assert world.lots(account) == sum(world.filled(one) for one in cids) // world.unit()


async def test_an_order_whose_connection_is_down_goes_by_rest(world: World) -> None:
    """Nothing waits for a socket that is being opened anew: the order is placed over REST, once."""
    [account] = await world.follow()
    for line in world.parts.sessions.lines(account):
        if line.channel.orders and line.session is not None:
            line.session.abort("cut by the test")
    one = world.order(account, 2 * world.unit(), px=world.buy_px())
    world.send(one)
    await settled(world, one)
    assert world.filled(one) == 2 * world.unit() and len(world.true_order(one)) == 1
    assert world.parts.gateway.stats.by_rest == 1


async def test_every_side_of_a_hedge_account_is_opened_and_closed(world: World) -> None:
    """Long and short at once; the close of each names its own side as the venue wants it, and leaves the other alone."""
    [account] = await world.follow(hedge=True)
    unit = world.unit()
    sell_px = world.buy_px() * 95 // 100
    long, short = world.order(account, 5 * unit, px=world.buy_px(), position_side=1), world.order(
        account, 3 * unit, -1, px=sell_px, position_side=2)
    world.send(long, short)
    await settled(world, long, short)
    assert world.held(account) == {"LONG": 5, "SHORT": -3}
    close = world.order(account, 5 * unit, -1, kind=1, position_side=1)
    world.send(close)
    await settled(world, close)
    assert world.held(account) == {"SHORT": -3}
    cover = world.order(account, 3 * unit, 1, kind=1, position_side=2)
    world.send(cover)
    await settled(world, cover)
    assert world.lots(account) == 0


async def test_a_placed_order_is_compared_with_what_the_venue_shows(world: World) -> None:
    """An answer that shows another order is no answer: it is said, and the order stays in doubt."""
    [account] = await world.follow()
    one = world.order(account, 2 * world.unit(), px=world.buy_px())
    world.send(one)
    await settled(world, one)
    told = await world.parts.rest.order(world.keys[account], world.btc, cid=one)
    assert told is not None and told.cid == one and told.side == 1 and told.order_qty == 2 * world.unit()
    slot, row = world.orders[one]
    world.orders[one] = slot, type(row)(**{**{name: getattr(row, name) for name in row.names()}, "side": -1})
    world.ask(one)
    await until(lambda: world.mismatches)
    assert world.mismatches[0][0] == one


async def test_an_order_by_rest_that_found_no_connection_never_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens where the request would go: NOT_SENT, which needs no fence, and the exchange has no such order."""
    if not world.parts.gateway.by_rest:
        pytest.skip("orders go over the account's own connection")
    [account] = await world.follow()
    sent = world.parts.gateway.stats.orders_sent
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = Requests(f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr(world.parts.rest, "_orders", [nowhere])
    one = world.order(account, world.unit(), -1, kind=1)
    world.send(one)
    await settled(world, one)
    assert world.kinds(one) == [facts.NOT_SENT] and world.true_order(one) == []
    assert world.parts.gateway.stats.orders_sent == sent and world.parts.gateway.in_flight == 0


async def test_an_order_by_rest_goes_through_a_dropped_connection_once(world: World) -> None:
    """A connection that died between two orders is seen to be gone: the second goes over another, once."""
    if not world.parts.gateway.by_rest:
        pytest.skip("orders go over the account's own connection")
    [account] = await world.follow()
    first, second = (world.order(account, world.unit()) for _ in range(2))
    world.send(first)
    await settled(world, first)
    for connection in world.parts.rest._orders[0]._all:
        connection.transport.abort()
    world.send(second)
    await settled(world, second)
    assert facts.IN_DOUBT not in world.kinds(second) and len(world.true_order(second)) == 1
