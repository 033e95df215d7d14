"""Orders that go by REST: each is put on the wire once, and none is believed dead while it may yet go (semantics 32, 35)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from copyd.venues.common import facts
from tests.venues.common.conftest import World
from tests.venues.common.test_orders import settled

pytestmark = pytest.mark.asyncio


class Gate:
    """A venue's REST orders behind a gate: as if the ways to it were all taken."""

    def __init__(self, rest: Any) -> None:
        self.rest, self.opened = rest, asyncio.Event()

    async def place(self, key: Any, order: Any) -> Any:
        await self.opened.wait()
        return await self.rest.place(key, order)


async def cut(world: World, account: int) -> None:
    """The account's order connection is down, as long as the test goes on."""
    for line in world.parts.sessions.lines(account):
        if line.channel.orders:
            await line.link.stop()


async def test_an_order_that_waits_for_rest_is_not_proven_dead(world: World) -> None:
    """The stream breaks while a reduction waits its turn, and the daemon asks about all that is unfinished: what the venue does
    not know yet is not dead, for it goes out afterwards. One order, and no report but of what became of it."""
    [account] = await world.follow()
    opened = world.order(account, 4 * world.unit(), px=world.buy_px())
    world.send(opened)
    await settled(world, opened)
    await cut(world, account)
    gate = world.parts.gateway.rest_orders = Gate(world.parts.rest)
    one = world.order(account, 2 * world.unit(), -1, reduce_only=True, kind=1)
    world.position = lambda account, instrument, since: (4 * world.unit(), 0, True)
    world.send(one)
    assert world.parts.gateway.in_flight == 1
    world.ask(one)
    await asyncio.sleep(2.5)  # longer than the fence and every question behind it
    assert world.about(one) == []
    gate.opened.set()
    await settled(world, one)
    assert facts.DEAD not in world.kinds(one) and len(world.true_order(one)) == 1
    assert world.lots(account) == 2 and world.parts.gateway.in_flight == 0


async def test_an_order_that_cannot_be_sent_is_said_to_be_unsent(world: World) -> None:
    """The venue shuts this address out while an order waits for its turn: it is not sent late, and it is in no doubt."""
    [account] = await world.follow()
    await cut(world, account)
    rest, gateway = world.parts.rest, world.parts.gateway
    gate = gateway.rest_orders = Gate(rest)
    cids = [world.order(account, world.unit(), px=world.buy_px()), world.order(account, world.unit(), -1, kind=1)]
    world.send(*cids)
    rest.bans.note(418, 0, "", 30 * 10**9, 0)
    gate.opened.set()
    await settled(world, *cids)
    assert [world.kinds(one) for one in cids] == [[facts.NOT_SENT]] * 2
    rest.bans._address = 0  # the next test's world is another address
    assert [world.true_order(one) for one in cids] == [[], []]


async def test_openings_that_are_on_their_way_hold_up_no_reduction(world: World) -> None:
    """As many openings as there are ways hang at the venue: a reduction that comes behind them goes out at once."""
    [account] = await world.follow()
    opened = world.order(account, 4 * world.unit(), px=world.buy_px())
    world.send(opened)
    await settled(world, opened)
    await cut(world, account)
    gate = world.parts.gateway.rest_orders = Gate(world.parts.rest)
    openings = [world.order(account, world.unit(), px=world.buy_px()) for _ in range(80)]
    world.send(*openings)
    await asyncio.sleep(0.05)
    world.parts.gateway.rest_orders = world.parts.rest
    one = world.order(account, 4 * world.unit(), -1, reduce_only=True, kind=1)
    world.send(one)
    await settled(world, one)
    assert world.filled(one) == 4 * world.unit()
    assert not any(world.about(other) for other in openings[:48])
    world.parts.rest.bans.note(418, 0, "", 30 * 10**9, 0)
    gate.opened.set()
    await settled(world, *openings)
    world.parts.rest.bans._address = 0
