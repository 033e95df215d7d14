"""The daemon's look at its keys: every one, paced, a silent venue asked again, and what follows from a right gained."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from copyd.core.engine import Alert, Command
from copyd.credentials import Credential, Credentials, Secret
from copyd.errors import VenueUnavailable
from copyd.vault.checks import BinanceRights
from copyd.vault.duty import KeyDuty
from copyd.vault.envelope import Facts
from copyd.vault.store import Check, load_all, open_keys, open_vault
from copyd.vault.watch import KeyWatch, Outcome, Watched
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Rights
from copyd.yamlcheck import load_config
from tests.vault.conftest import Site

GOOD = Rights(read=True, trade=True, moves_funds=(), ip_bound=True)
BAD = Rights(read=True, trade=True, moves_funds=("enableWithdrawals",), ip_bound=True)


def watched(name: str, **more: Any) -> Watched:
    return Watched(Facts(
        name=name, venue="binance_usdm", account="", version=1, fingerprint="", added_ns=1, **more), "follower")  # fmt: skip


class Scene:
    """A watch over keys whose answers a test sets; no time but the loop's."""

    def __init__(self, names: str, interval_s: float = 0.0, again_after_s: float = 0.0) -> None:
        self.keys: Mapping[str, Watched] = {name: watched(name) for name in names}
        self.answers: dict[str, Any] = {}
        self.seen: list[tuple[str, Outcome]] = []
        self.news = asyncio.Event()
        self.watch = KeyWatch(self.listed, self.ask, self.report, interval_s, lambda: 1, spacing_s=0, again_after_s=again_after_s)

    async def listed(self) -> Mapping[str, Watched]:
        return self.keys

    async def ask(self, name: str) -> Rights:
        answer = self.answers.get(name, GOOD)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def report(self, name: str, outcome: Outcome) -> None:
        self.seen.append((name, outcome))
        self.news.set()

    async def until(self, name: str) -> None:
        """Until a key was looked at."""
        while name not in [seen for seen, _ in self.seen]:
            self.news.clear()
            await self.news.wait()


async def test_every_key_is_looked_at_in_each_round() -> None:
    """At the start and again after the interval; keys that came or went meanwhile are taken into account."""
    scene = Scene("ab")
    task = asyncio.create_task(scene.watch.run())
    await scene.until("b")
    scene.keys = {"c": watched("c")}
    await scene.until("c")
    task.cancel()
    assert [name for name, _ in scene.seen[:2]] == ["a", "b"]
    assert all(outcome.verdict is not None and outcome.verdict.accepted for _, outcome in scene.seen)


@pytest.mark.parametrize(("answer", "problem"), [
    (VenueUnavailable("no answer"), "venue_unavailable: no answer"), (ValueError("not JSON"), "unreadable_answer: not JSON"),
    (KeyError("a"), "credential_missing"),
])  # fmt: skip
async def test_a_look_without_an_answer_is_a_problem_and_not_a_verdict(answer: Exception, problem: str) -> None:
    """The others are looked at all the same, and this one is asked again before the next round."""
    scene = Scene("ab")
    scene.answers["a"] = answer
    left = await scene.watch.round(scene.keys)
    assert scene.seen[0] == ("a", Outcome(None, None, problem)) and scene.seen[1][1].rights == GOOD and set(left) == {"a"}
    del scene.answers["a"]
    assert await scene.watch.round(left) == {}


async def test_the_override_a_key_was_sealed_with_counts() -> None:
    """An unbound key that was let in for a reason stays; without one it is refused."""
    scene = Scene("")
    unbound = Rights(read=True, trade=True, moves_funds=(), ip_bound=False)
    scene.answers = {"a": unbound, "b": unbound}
    await scene.watch.round({"a": watched("a", override="why", cap_e8=5), "b": watched("b")})
    (_, one), (_, two) = scene.seen
    assert one.verdict is not None and one.verdict.accepted and two.verdict is not None and not two.verdict.accepted


class Owner:
    """The daemon as the duty sees it: what it was told is kept."""

    def __init__(self, engine: Any, credentials: Credentials) -> None:
        self.engine, self.credentials = engine, credentials
        self.alerts: list[Alert] = []
        self.commands: list[Command] = []
        self.log = self

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def offer(self, value: Any) -> None:
        self.commands.append(value)
        self.engine.step(1_000_000_000, value)

    async def reread_keys(self) -> None:
        raise AssertionError("nothing was changed")

    def error(self, *_: Any, **more: Any) -> None:
        raise AssertionError(more)

    warning = error


async def test_a_right_gained_is_said_once_and_noted(site: Site) -> None:
    """Against the running exchange: an alert, the plan close-only, no second command while it stays so; `key list` shows it."""
    from copyd.bench import world
    from copyd.core.rows import PlanRow, PlanState

    engine = world.make_engine(2)
    names = engine.names.accounts
    config = load_config(site.path)
    rows = {name: site.account(f"duty-{name}", enableWithdrawals=name == names[0]) for name in names}
    keys = Credentials(Credential(name, Secret(row["key"]), Secret(row["secret"])) for name, row in rows.items())
    with open_vault(site.journal, config.keys, create=True) as vault:
        for credential in keys.values():
            vault.add(credential, venue="binance_usdm", account="", now_ns=1, check=Check(ts_ns=1))
    owner = Owner(engine, keys)
    duty = KeyDuty(owner, config, world_clock)
    facts = await duty._keys()
    watch = KeyWatch(duty._keys, duty._ask, duty._report, 60, lambda: 1, spacing_s=0)
    for _ in range(3):
        assert await watch.round(facts) == {}
    assert [alert.name for alert in owner.alerts] == ["key_gained_right"] and "enableWithdrawals" in owner.alerts[0].text
    assert owner.alerts[0].fields == {"account": names[0]} and len(owner.commands) == 1
    assert [PlanRow.unpack(engine.columns.get(3, plan)).state for plan in range(2)] == [PlanState.CLOSE_ONLY, PlanState.ACTIVE]
    assert duty._flush is not None
    duty._flush.cancel()
    duty._note(duty._found)
    with open_keys(site.journal) as ring:
        noted = {name: row.check for name, row in ring.rows()}  # type: ignore[union-attr]
    assert noted[names[0]].reasons == ("moves_funds",) and noted[names[1]].reasons == ()
    for reader in duty._readers.values():
        await reader.close()


def world_clock() -> int:
    from copyd.runtime.clock import SystemClock

    return SystemClock().now_ns()


async def test_the_rights_of_a_binance_key_are_asked_with_the_key_itself(site: Site) -> None:
    """Signed; a key the venue does not know is a refusal, an address that is closed is no answer."""
    made = site.account("asker", enableInternalTransfer=True)
    config = load_config(site.path)
    reader = BinanceRights(config.venues[0], world_clock)
    await reader.open()
    rights = await reader.rights(Key(made["key"].encode(), made["secret"].encode()))
    assert rights.moves_funds == ("enableInternalTransfer",) and rights.trade and rights.ip_bound
    from copyd.vault.checks import REFUSALS, problem_of

    with pytest.raises(REFUSALS) as caught:
        await reader.rights(Key(b"unknown", b"unknown"))
    assert "unknown" not in problem_of(caught.value)
    await reader.close()
    site.config["venues"][0]["rest_url"] = "http://127.0.0.1:9"
    site.write()
    away = BinanceRights(load_config(site.path).venues[0], world_clock)
    with pytest.raises(VenueUnavailable):
        await away.open()


async def test_rights_are_asked_where_they_are_told_and_nothing_else_is(site: Site) -> None:
    """In production a futures key's rights are told by another host than the one that trades."""
    made = site.account("elsewhere")
    site.config["venues"][0]["sapi_url"] = "http://127.0.0.1:9"
    site.write()
    reader = BinanceRights(load_config(site.path).venues[0], world_clock)
    await reader.open()  # the venue's clock, asked of the host that trades
    with pytest.raises(VenueUnavailable, match="apiRestrictions"):
        await reader.rights(Key(made["key"].encode(), made["secret"].encode()))
    await reader.close()


async def test_a_key_that_was_replaced_revoked_or_capped_is_read_again(site: Site) -> None:
    """The watch compares the ring with what the daemon holds at the start of each round, and has it read again once."""
    config = load_config(site.path)
    sealed = {name: Credential(name, Secret(f"key-{name}"), Secret("s")) for name in "abc"}
    with open_vault(site.journal, config.keys, create=True) as vault:
        for credential in sealed.values():
            vault.add(credential, venue="binance_usdm", account="", now_ns=1, check=Check(ts_ns=1))

    class Reader(Owner):
        reread = 0

        async def reread_keys(self) -> None:
            self.reread += 1
            self.credentials = load_all(config)

    owner = Reader(None, load_all(config))
    duty = KeyDuty(owner, config, world_clock)
    assert set(await duty._keys()) == {"a", "b", "c"} and owner.reread == 0
    with open_vault(site.journal, config.keys) as vault:
        row = vault.follow(Credential("a", Secret("key-other"), Secret("t")), now_ns=2, cap_e8=7)
        assert row.following is not None
        vault.promote("a", row.following.facts.version, Check(ts_ns=2))
        vault.revoke("b", "lost", 3)
    assert set(await duty._keys()) == {"a", "c"} and owner.reread == 1
    held = owner.credentials
    assert held["a"].key.reveal() == "key-other" and held["a"].cap_e8 == 7 and set(held) == {"a", "c"}
    assert set(await duty._keys()) == {"a", "c"} and owner.reread == 1


async def test_a_key_that_went_meanwhile_is_asked_about_no_more() -> None:
    """Between two looks at those that were silent the list is read anew: one that was taken away is not judged by what it was."""
    scene = Scene("ab", interval_s=3600.0, again_after_s=0.01)
    scene.answers = {"a": VenueUnavailable("away"), "b": VenueUnavailable("away")}
    running = asyncio.ensure_future(scene.watch.run())
    await scene.until("b")
    scene.keys = {"a": watched("a")}
    scene.seen.clear()
    await scene.until("a")
    scene.seen.clear()
    await scene.until("a")
    running.cancel()
    assert {name for name, _ in scene.seen} == {"a"}
