"""The settlement against a real exchange process over its socket: wallets, faults, a kill in the middle, the commands."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from copyd.core.fees import E8
from copyd.errors import OperatorError, TransfersInDoubt
from copyd.settlement import ExchangeExecutor, Report, Snapshot, encode_snapshot, settle
from copyd.settlement.commands import settle as settle_app
from copyd.settlement.commands import statement as statement_app
from copyd.settlement.executor import Outcome
from copyd.settlement.transfers import Transfer
from tests.exchange.wire_helpers import control, make_accounts, running_exchange
from tests.settlement.people import KEY, NOW, first_week

FREE = 25
NUMBER = itertools.count()


@pytest.fixture(scope="module")
def exchange() -> Iterator[dict[str, Any]]:
    with running_exchange("--no-makers") as at:
        yield at


class World:
    """Accounts of one test at the exchange, and an operator who settles with it."""

    def __init__(self, at: dict[str, Any], folder: Path, name: str) -> None:
        self.at, self.folder, self.name = at, folder, name
        plans = [
            msgspec.structs.replace(
                plan, follower_account=f"{name}-{plan.follower_account}", leader_account=f"{name}-{plan.leader_account}",
                free_e8=FREE * E8, plan=f"{name}-{plan.plan}",
            )
            for plan in first_week().plans
        ]  # fmt: skip
        self.snapshot = msgspec.structs.replace(first_week(), plans=plans, platform_account=f"{name}-house")
        self.payers = sorted({plan.follower_account for plan in plans})
        self.others = sorted({plan.leader_account for plan in plans} | {f"{name}-house"})
        make_accounts(at, accounts=[{"name": payer, "balance": str(FREE)} for payer in self.payers])
        make_accounts(at, accounts=[{"name": other, "balance": "0"} for other in self.others])
        self.key = folder / "key"
        self.key.write_text(KEY)
        self.key.chmod(0o600)

    def settle(self, snapshot: Snapshot | None, **more: object) -> Report:
        arguments: dict[str, object] = {"executor": ExchangeExecutor(self.at["control"], 2.0), "now_ns": NOW, **more}
        return settle(snapshot, book=self.folder / "book", out=self.folder / "out", key=self.key, **arguments)  # type: ignore[arg-type]

    def wallets(self) -> dict[str, Decimal]:
        rows = control(self.at, "GET", "/truth/balances")
        return {row["account"]: Decimal(row["wallet"]) for row in rows if row["account"].startswith(f"{self.name}-")}

    def transfers(self) -> list[dict[str, Any]]:
        return [row for row in control(self.at, "GET", "/truth/transfers") if row["from"].startswith(f"{self.name}-")]

    def fault(self, **rule: object) -> None:
        control(self.at, "DELETE", "/faults")
        control(self.at, "POST", "/faults", rule)

    def check(self, report: Report) -> None:
        """The wallets are what the report says, and no money came or went."""
        wallets = self.wallets()
        received = sum(wallets[other] for other in self.others)
        assert received == Decimal(report.paid_e8) / E8
        assert sum(wallets.values()) == FREE * len(self.payers)
        assert len(self.transfers()) == report.transfers == 7
        assert control(self.at, "GET", "/truth/stats")["books_balance"]


@pytest.fixture
def world(exchange: dict[str, Any], tmp_path: Path) -> Iterator[World]:
    yield World(exchange, tmp_path, f"w{next(NUMBER)}")
    control(exchange, "DELETE", "/faults")


def test_fees_move_between_wallets(world: World) -> None:
    """What the report says was paid is in the wallets of leaders and platform."""
    report = world.settle(world.snapshot)
    assert (report.step, report.refused) == ("moved", 0) and report.paid_e8 > 0
    world.check(report)


@pytest.mark.parametrize("action", ["error_live", "error_dead", "unavailable", "drop_reply", "drop_request", "disconnect_live"])
def test_whatever_the_exchange_does_not_say_is_paid_once(world: World, action: str) -> None:
    """Twice no answer, executed or not; and a query that fails once on the way."""
    world.fault(action=action, method="POST /transfers", count=2)
    control(world.at, "POST", "/faults", {"action": "error_dead", "method": "GET /transfers", "count": 1})
    world.check(world.settle(world.snapshot))


def test_a_stale_query_does_not_pay_twice(world: World) -> None:
    """Executed, no answer, and a replica that says it knows nothing: the same id goes out again and moves nothing."""
    world.fault(action="drop_reply", method="POST /transfers", count=1)
    control(world.at, "POST", "/faults", {"action": "stale_read", "method": "GET /transfers", "count": 7})
    world.check(world.settle(world.snapshot))


@pytest.mark.parametrize("point", ["sending", "sent", "confirmed", "statements_written"])
def test_killed_between_order_and_answer(world: World, point: str) -> None:
    """SIGKILL while the exchange lives on: the next run asks by id, and every wallet is as after one run."""

    def end(at: str) -> None:
        if at == point:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            world.settle(world.snapshot, at=end)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    world.check(world.settle(None))


def test_an_account_that_cannot_pay_owes(world: World) -> None:
    """The wallet was emptied meanwhile: refused, a receivable, nobody liquidated, the others paid."""
    payer = next(plan.follower_account for plan in world.snapshot.plans if plan.plan.endswith("gain"))
    control(world.at, "POST", "/deposit", {"account": payer, "amount": str(-FREE)})
    report = world.settle(world.snapshot)
    assert report.refused == 2 and report.owed_e8 >= 10 * E8
    wallets = world.wallets()
    assert wallets[payer] == 0 and sum(wallets[other] for other in world.others) == Decimal(report.paid_e8) / E8


def test_an_exchange_that_is_away_leaves_all_in_doubt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is concluded from a closed port; the run goes on when it is back."""
    monkeypatch.setattr("copyd.settlement.run.ASK_AGAIN_S", 0)
    with pytest.raises(TransfersInDoubt):
        world.settle(world.snapshot, executor=ExchangeExecutor("http://127.0.0.1:9", 0.5))
    world.check(world.settle(None))


def test_the_executor_tells_answers_apart(exchange: dict[str, Any]) -> None:
    """Never decided is absent; a request the exchange calls bad is the operator's; an address must be one."""
    executor = ExchangeExecutor(exchange["control"])
    assert executor.query("never seen").outcome is Outcome.ABSENT
    bad = Transfer("x" * 65, "p", "leader", "a", "b", 1)
    with pytest.raises(OperatorError, match="1 to 64 characters"):
        executor.execute([bad])
    with pytest.raises(OperatorError, match="http://host:port"):
        ExchangeExecutor("localhost:9472")


def test_the_commands(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Dry run, file, pay, check: what an operator types."""
    folder = world.folder
    snapshot = folder / "snapshot.json"
    snapshot.write_bytes(encode_snapshot(world.snapshot))
    common = ["--book", str(folder / "book"), "--out", str(folder / "out"), "--key", str(world.key)]

    def tell(*words: str) -> dict[str, Any]:
        assert settle_app([*words, *common], result_action="return_value", exit_on_error=False) == 0
        answer: dict[str, Any] = orjson.loads(capsys.readouterr().out)
        return answer

    assert tell(str(snapshot), "--dry-run")["step"] == "dry run" and not (folder / "book").exists()
    assert tell(str(snapshot))["step"] == "filed" and not world.transfers()
    assert tell("--exchange", world.at["control"])["step"] == "moved"
    statements = [str(path) for path in sorted((folder / "out").glob("*/*ers/*"))]
    assert statement_app(["verify", *statements], result_action="return_value", exit_on_error=False) == 0
    assert f"{len(statements)} of {len(statements)} statements hold" in capsys.readouterr().out
    file = folder / "out/2026-W02/transfers.jsonl"
    assert statement_app(["transfers", str(file), "--key", str(world.key)], result_action="return_value") == 0
    assert "7 transfers" in capsys.readouterr().out
    Path(statements[0]).write_text(Path(statements[0]).read_text().replace("1000", "1001", 1))
    assert statement_app(["verify", *statements], result_action="return_value", exit_on_error=False) == 65
    assert f"{statements[0]}:" in capsys.readouterr().err


def test_an_operator_confirms_by_file(world: World) -> None:
    """No exchange of ours: the operator carries the file out and says so; what he does not name waits."""
    from copyd.settlement import ConfirmationFile, read_transfers
    from copyd.settlement.transfers import load_key

    assert world.settle(world.snapshot, executor=None).step == "filed"
    file = read_transfers(world.folder / "out/2026-W02/transfers.jsonl", load_key(world.key))
    said = [{"id": one.id, "state": "executed" if number else "refused"} for number, one in enumerate(file.transfers)]
    path = world.folder / "confirmations.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, said[:3])))
    with pytest.raises(TransfersInDoubt, match="4 of 7"):
        world.settle(None, executor=ConfirmationFile(path))
    path.write_bytes(b"\n".join(map(orjson.dumps, said)))
    report = world.settle(None, executor=ConfirmationFile(path))
    assert (report.step, report.refused) == ("moved", 1)
    for line, sentence in (
        (b"{}", "give id and state"),
        (b"x", "not JSON"),
        (b'{"id":"a","state":"unknown"}', "give id and state"),
        (b'{"id":"a","state":"executed"}\n{"id":"a","state":"refused"}', "executed and refused"),
    ):
        path.write_bytes(line)
        with pytest.raises(OperatorError, match=sentence):
            ConfirmationFile(path)
