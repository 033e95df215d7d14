"""Transfers between wallets on the control port: each id once, whatever is sent how often and whatever goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.exchange.wire_client import Bench, exchange


@pytest_asyncio.fixture
async def x() -> AsyncIterator[Bench]:
    async with exchange() as bench:
        await bench.accounts(accounts=[{"name": "fred", "balance": "100"}, {"name": "lea", "balance": "0"}])
        yield bench


def fee(number: str = "t1", amount: str = "30", source: str = "fred", to: str = "lea") -> dict[str, str]:
    return {"id": number, "from": source, "to": to, "amount": amount}


async def send(x: Bench, *transfers: dict[str, str]) -> Any:
    return await x.tell("POST", "/transfers", {"transfers": transfers})


async def wallets(x: Bench) -> tuple[str, str]:
    rows = {row["account"]: row["wallet"].rstrip("0").rstrip(".") for row in await x.tell("GET", "/truth/balances")}
    return rows["fred"], rows["lea"]


async def test_an_id_is_carried_out_once_however_often_it_is_sent(x: Bench) -> None:
    """Money moves from one wallet to the other; the same order again gets the same answer and moves nothing."""
    first = await send(x, fee())
    assert first["results"][0]["state"] == "executed"
    assert await send(x, fee(), fee()) == {"results": first["results"] * 2}
    assert await wallets(x) == ("70", "30")
    assert await x.tell("GET", "/transfers/t1") == first["results"][0]
    assert (await x.tell("GET", "/truth/stats"))["books_balance"]
    kinds = [(row["account"], row["kind"], row["amount"]) for row in await x.tell("GET", "/truth/incomes")]
    assert kinds[-2:] == [("fred", "WITHDRAW", "-30.00000000"), ("lea", "DEPOSIT", "30.00000000")]


async def test_what_is_not_free_is_refused_for_good(x: Bench) -> None:
    """More than is free, or an account that is not there: refused, and the id never executes later."""
    refused = (await send(x, fee(amount="100.00000001")))["results"][0]
    assert refused["state"] == "refused" and "more than fred has free" in refused["reason"]
    await x.tell("POST", "/deposit", {"account": "fred", "amount": "1000"})
    assert (await send(x, fee(amount="100.00000001")))["results"][0] == refused
    assert "unknown account 'nobody'" in (await send(x, fee("t2", to="nobody")))["results"][0]["reason"]
    assert await wallets(x) == ("1100", "0")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"transfers": [fee("a"), fee("t1", "31")]}, "ordered before with other terms"),
        ({"transfers": [fee("a", "0")]}, "must be above 0"),
        ({"transfers": [fee("a", "99999999999")]}, "at most 10 billion"),
        ({"transfers": [fee("a", "-1")]}, "amount"),
        ({"transfers": [fee("a", "1e3")]}, "amount"),
        ({"transfers": [fee("")]}, "1 to 64 characters"),
        ({"transfers": [{"id": "a"}]}, "missing required field"),
    ],
)
async def test_a_bad_batch_changes_nothing(x: Bench, body: dict[str, Any], sentence: str) -> None:
    """One bad order refuses the whole request, with the reason."""
    await send(x, fee())
    assert sentence in (await x.tell("POST", "/transfers", body))["error"]
    assert await wallets(x) == ("70", "30")


@pytest.mark.parametrize(
    ("action", "executed"),
    [("error_live", True), ("error_dead", False), ("unavailable", False), ("drop_reply", True), ("drop_request", False)],
)
async def test_after_no_answer_only_the_query_knows(x: Bench, action: str, executed: bool) -> None:
    """An error or silence says nothing; the id asked about says what happened, and sent again it happens once."""
    await x.tell("POST", "/faults", {"action": action, "method": "POST /transfers", "count": 1})
    try:
        assert "error" in await send(x, fee())
    except aiohttp.ClientError:
        assert action.startswith("drop")
    assert (await x.tell("GET", "/transfers/t1"))["state"] == ("executed" if executed else "unknown")
    assert (await send(x, fee()))["results"][0]["state"] == "executed"
    assert await wallets(x) == ("70", "30")


async def test_a_stale_query_does_not_see_what_is_there(x: Bench) -> None:
    """A replica that lags says unknown; sending the same id again is safe all the same."""
    await send(x, fee())
    await x.tell("POST", "/faults", {"action": "stale_read", "method": "GET /transfers", "count": 1})
    assert (await x.tell("GET", "/transfers/t1"))["state"] == "unknown"
    await send(x, fee())
    assert (await x.tell("GET", "/transfers/t1"))["state"] == "executed"
    assert [row["id"] for row in await x.tell("GET", "/truth/transfers")] == ["t1"]
    assert await wallets(x) == ("70", "30")
