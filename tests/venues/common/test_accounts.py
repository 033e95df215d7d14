"""Followers' accounts of every session venue: set up, read, and heard, whatever happens on them."""

from __future__ import annotations

import time
from array import array
from types import SimpleNamespace

import pytest

from copyd.core.engine import LEGS
from copyd.core.rows import LegRow
from copyd.funding import FundingReader
from copyd.venues.common import facts
from copyd.venues.common.facts import AccountFunding, AccountLeverage, ExternalFill, OrphanFill, StreamGap
from copyd.venues.common.signing import Key
from tests.exchange.wire_helpers import control
from tests.venues.common.conftest import BTC, ETH, World, until

pytestmark = pytest.mark.asyncio


async def test_mode_margin_and_leverage_are_set_and_verified(world: World) -> None:
    """Whatever an account comes with: afterwards it is as wanted, by the venue's own word (semantics 25)."""
    [account] = await world.follow(leverage=20, margin_type="CROSSED", hedge=True)
    key = world.keys[account]
    states = await world.parts.setup.activate(account, key, [(BTC, 7), (ETH, 9)], hedge=False, isolated=True)
    assert [(s.instrument, s.ready, s.reason, s.hedge, s.isolated, s.leverage) for s in states] == [
        (BTC, True, "", False, True, 7), (ETH, True, "", False, True, 9)]
    for index, leverage in ((BTC, 7), (ETH, 9)):
        now = await world.parts.rest.settings(key, world.parts.instruments[index])
        assert (now.hedge, now.isolated, now.leverage) == (False, True, leverage)
    again = await world.parts.setup.activate(account, key, [(BTC, 7)], hedge=False, isolated=True)
    assert again[0].ready and again[0].reason == ""


async def test_settings_that_a_position_forbids_are_said(world: World) -> None:
    """With a position open the mode cannot change: the leg is not ready, and what is there stays."""
    [account] = await world.follow()
    one = world.order(account, 2 * world.unit(), px=world.buy_px())
    world.send(one)
    await until(lambda: world.filled(one))
    states = await world.parts.setup.activate(account, world.keys[account], [(BTC, 10)], hedge=True)
    assert not states[0].ready and states[0].reason.startswith("venue_refused:")
    assert world.lots(account) == 2


async def test_a_snapshot_is_what_the_books_say(world: World) -> None:
    """Wallet and positions in our own lots, signed."""
    [account] = await world.follow()
    one = world.order(account, 3 * world.unit(), -1, px=world.buy_px() * 95 // 100)
    world.send(one)
    await until(lambda: world.filled(one))
    seen = await world.parts.setup.snapshot(account, world.keys[account])
    assert [(instrument, side, qty) for instrument, side, qty, _ in seen.positions] == [(BTC, 0, -3 * world.unit())]
    [balance] = [row for row in world.truth("/truth/balances?limit=100000") if row["account"] == world.names[account]]
    assert seen.wallet_e8 == facts.money_e8(balance["wallet"])


async def test_a_trade_by_hand_is_told_as_the_followers_own(world: World) -> None:
    """An order without our tag: one external fill with side and size, and no report row about an order of ours."""
    [account] = await world.follow()
    held = world.order(account, 4 * world.unit(), px=world.buy_px())
    world.orders.pop(held)  # not one of ours: its id bears another tag
    slot = world.columns.order_slot(held)
    assert slot is not None
    row = world.columns.get(7, slot)
    foreign = bytes.fromhex("abcd") + held[2:]
    world.columns.put(7, slot, foreign + row[16:])
    gateway = world.parts.gateway
    gateway.send(gateway.render(array("I", [slot])))
    fill = await until(lambda: next((e for e in world.events if isinstance(e, ExternalFill)), None))
    assert (fill.account, fill.instrument, fill.qty, fill.kind) == (account, BTC, 4 * world.unit(), "manual")
    assert not any(r["cid"] == foreign and r["kind"] in (facts.TRADE, facts.STREAM) for r in world.reports)


async def test_a_fill_of_an_order_nobody_knows_that_bears_our_tag_is_an_orphan(world: World) -> None:
    """Of a journal that was lost, or another daemon's: told with its id, never taken for the follower's hand."""
    [account] = await world.follow()
    one = world.order(account, 2 * world.unit(), px=world.buy_px())
    world.unknown.add(one)
    world.send(one)
    orphan = await until(lambda: next((e for e in world.events if isinstance(e, OrphanFill)), None))
    assert (orphan.account, orphan.cid, orphan.qty) == (account, one, 2 * world.unit())
    assert not any(isinstance(e, ExternalFill) for e in world.events)


async def test_a_break_of_the_private_connection_is_said_as_a_gap(world: World) -> None:
    """Events may be missing: once they flow again that is said, for the account and for nobody else."""
    first, second = await world.follow(2)
    for line in world.parts.sessions.lines(first):
        if line.channel.events and line.session is not None:
            line.session.abort("cut by the test")
    gap = await until(lambda: next((e for e in world.events if isinstance(e, StreamGap)), None))
    assert gap.account == first
    assert not any(isinstance(e, StreamGap) and e.account == second for e in world.events)
    one = world.order(first, 2 * world.unit(), px=world.buy_px())
    world.send(one)
    await until(lambda: world.filled(one) == 2 * world.unit())


async def test_a_key_the_venue_refuses_ends_its_own_connections_only(world: World) -> None:
    """A wrong secret: said at once, not tried for ever; the other accounts trade on."""
    [good] = await world.follow()
    [made] = world.made(1)
    bad = Key(made["api_key"].encode(), b"0" * 64, made.get("passphrase", "").encode())
    number = 900
    world.parts.register(number, made["name"], bad)
    problems: dict[int, str] = {}
    await world.parts.streams.add_many([(number, bad)], on_done=problems.__setitem__)
    assert "refused" in problems[number], problems
    assert not any(line.open for line in world.parts.sessions.lines(number))
    # With another key the account is heard again.
    world.parts.register(number, made["name"], world.key(made))
    await until(lambda: all(line.open for line in world.parts.sessions.lines(number)))
    one = world.order(good, 1 * world.unit(), px=world.buy_px())
    world.send(one)
    await until(lambda: world.filled(one) == 1 * world.unit())


async def test_a_key_the_venue_refuses_later_is_said_once(world: World) -> None:
    """An account that was let in and is not any more: said once however many connections it has, never of the others; heard again
    with a good key, it is said again should a later one be refused."""
    first, second = await world.follow(2)
    good = world.keys[first]
    bad = Key(good.api_key, b"0" * 64, good.passphrase().encode())
    lines = world.parts.sessions.lines(first)
    for times in (1, 2):
        world.parts.register(first, world.names[first], bad)
        await until(lambda want=times: len(world.shut_out) >= want)
        await until(lambda: all(line.final or line.problem for line in lines))
        assert [account for account, _ in world.shut_out] == [first] * times
        assert "refused" in world.shut_out[-1][1]
        told: dict[int, str] = {}
        await world.parts.streams.add_many([(first, bad)], on_done=told.__setitem__)
        assert "refused" in told[first]  # who asks with that key is answered at once
        world.parts.register(first, world.names[first], good)
        await until(lambda: all(line.open for line in lines))
    assert all(line.open for line in world.parts.sessions.lines(second))


async def test_a_leverage_changed_by_hand_is_told_or_found(world: World) -> None:
    """From the next opening on sizes follow the actual one: pushed, or read with the settings."""
    [account] = await world.follow()
    key = world.keys[account]
    await world.parts.rest.set_leverage(key, world.btc, 13, True)
    told = [e for e in world.events if isinstance(e, AccountLeverage) and e.leverage == 13]
    assert told or (await world.parts.rest.settings(key, world.btc)).leverage == 13


async def test_rights_of_a_key_are_read(world: World) -> None:
    """What the venue tells the key about itself: may trade, moves no funds; a right to withdraw is named when it is there."""
    made = world.made(1)[0]
    rights = await world.parts.rights(world.key(made))
    assert rights.read and rights.trade and rights.moves_funds == () and rights.unknown == ()
    told = {
        "okx": {"perm": "read_only,withdraw,trade"}, "bitget": {"authorities": ["coow", "stow", "wwow"]},
        "bybit": {"permissions": {"ContractTrade": ["Order", "Position"], "Wallet": ["AccountTransfer", "Withdraw"]}},
    }[world.kind]  # fmt: skip
    control(world.at, "POST", "/restrictions", {"account": made["name"], "restrictions": told})
    assert (await world.parts.rights(world.key(made))).moves_funds


async def test_funding_reaches_the_account_once(world: World) -> None:
    """Pushed by the venue, or asked for where it pushes none: one payment with the venue's amount, sign and number; asked for
    again it has the same number."""
    [account] = await world.follow()
    one = world.order(account, 2 * world.unit(), px=world.buy_px())
    world.send(one)
    await until(lambda: world.filled(one))
    world.columns.add(LEGS, LegRow(account=account, instrument=BTC, attributed=2 * world.unit()).pack())
    heard: list[AccountFunding] = []
    parts, since = world.parts, (time.time_ns() + world.parts.rest.venue_clock.offset_ns) // 10**6
    reader = FundingReader(
        engine=SimpleNamespace(columns=world.columns, names=SimpleNamespace(accounts=world.names)), instruments=parts.instruments,
        fundings=parts.fundings, key_of=world.keys.get, on_funding=heard.append, now_ms=lambda: since, clock=time.time_ns,
        heard_ms=since)
    symbol = world.truth(f"/truth/positions?account={world.names[account]}")[0]["symbol"]
    control(world.at, "POST", "/market", {"symbol": symbol, "funding_ppm": 100})
    [row] = [row for row in world.truth("/truth/incomes?limit=100000")
             if row["account"] == world.names[account] and row["kind"] == "FUNDING_FEE"]
    if parts.funding_by_rest:
        await reader.note_holders()
        await reader.ask()
        assert not [event for event in world.events if isinstance(event, AccountFunding)], "it is booked once"
    else:
        await until(lambda: [event for event in world.events if isinstance(event, AccountFunding)])
        heard = [event for event in world.events if isinstance(event, AccountFunding)]
    [told] = heard
    assert (told.account, told.instrument, told.amount_e8) == (account, BTC, facts.money_e8(row["amount"]))
    assert told.amount_e8 < 0 and told.id
    if parts.funding_by_rest:
        await reader.ask()
        assert len(heard) == 1, "who was asked is not asked again before the next hour"
        await reader.note_holders()
        await reader.ask()
        assert [event.id for event in heard] == [told.id] * 2
