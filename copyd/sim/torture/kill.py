"""The daemon killed under load, again and again, on one journal and one exchange; then the books are read.

    python -m copyd.sim.torture.kill --kills 2000 --seed 1

The leader trades all the time, also while the daemon is down. A life ends by SIGKILL: at a random moment, during the start,
at the k-th call of a kind (a data page, a meta page, a sync, an order to a socket, any send; before it, behind it, or with
only its beginning done), or after SIGTERM. The exchange delays, loses and answers wrongly some orders meanwhile.

At the end the leader goes flat, in peace, and:

    nothing lost     every follower is flat; one more opening and close of the leader is copied to the lot by every follower
    nothing twice    no client order id was accepted or refused as a duplicate twice; at no moment did a follower hold more than
                     the leader's own position of the last seconds allows; no decision has more orders than it wanted
    nothing unnamed  every order the exchange ever accepted is named in the journal, once; every execution of the leader is
                     in it; `copyd verify` agrees with all of it
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from copyd.errors import WorldError
from copyd.sim.torture import Summary, Tally
from copyd.sim.torture.nursery import Nursery
from copyd.sim.torture.shim import Act, Control, Op
from copyd.sim.torture.stage import ALLOCATION, LEADER_EQUITY, SYMBOLS, Late, Living, Stage, Trader, proportional, staged

#: The leader is long in one instrument, short in the other, never the other way.
SIDES = dict(zip(SYMBOLS, (1, -1), strict=True))
LEADER_LOTS_MAX = (600, 1500, 3000)
#: A quantity whose copy is far from the next lot, whatever the leader's fees did to the ratio.
PROOF_LOTS = 1055
#: So often the leader goes flat and everybody must follow before the next kill.
KILLS_PER_ERA = 20
ARMED_S = 20.0
#: An order accepted later than this after its decision was held up on the way.
PROMPT_NS = 50_000_000
LIFE_S = 0.7
NAMED_LIFE_S = 1.5


class End(NamedTuple):
    """How one life is to end. ``op``: at the k-th such call; ``start``: while it starts; else after ``after_s``."""

    name: str
    op: Op | None = None
    act: Act = Act.KILL_BEFORE
    k: int = 0
    arg: int = 0
    start: bool = False
    after_s: float = 0.0


def draw_end(source: random.Random) -> End:
    """One way to die."""
    die = source.random()
    if die < 0.30:
        return End("random", after_s=source.uniform(0, LIFE_S))
    if die < 0.42:
        return End("random in start", start=True, after_s=source.uniform(0, 0.4))
    if die < 0.47:
        return End("after SIGTERM", after_s=source.uniform(0, LIFE_S))
    act = source.choice((Act.KILL_BEFORE, Act.KILL_AFTER, Act.KILL_TORN))
    start = die < 0.60
    if start:
        op, most = source.choice(((Op.DATA, 8), (Op.META, 8), (Op.SYNC, 8), (Op.SEND, 160)))
    else:
        op, most = source.choice(((Op.DATA, 60), (Op.META, 60), (Op.SYNC, 60), (Op.ORDER, 60), (Op.ORDER, 60), (Op.SEND, 200)))
    if op in (Op.SYNC, Op.META) and act is Act.KILL_TORN:
        act = Act.KILL_AFTER  # a meta page's few bytes are one write inside one sector: there is no half of it
    name = f"{'start: ' if start else ''}{NAMES[act]} {op.name.lower()}"
    return End(name, op, act, source.randint(1, most), source.randrange(1000), start, NAMED_LIFE_S)


NAMES = {Act.KILL_BEFORE: "before", Act.KILL_AFTER: "after", Act.KILL_TORN: "in"}
#: The faults a point stands for; a random moment is a kill at any step.
FAULTS = {
    Op.DATA: dict.fromkeys(NAMES, "J01"), Op.SYNC: dict.fromkeys(NAMES, "J01"),
    Op.META: {Act.KILL_BEFORE: "J01", Act.KILL_AFTER: "J02"},
    Op.ORDER: {Act.KILL_BEFORE: "J02", Act.KILL_AFTER: "J04", Act.KILL_TORN: "J03"},
    Op.SEND: dict.fromkeys(NAMES, "P01"),
}

REQUEST_FAULTS = (
    "delay", "delay", "delay_reply", "drop_request", "drop_reply", "error_live", "error_dead", "disconnect_live", "stall",
)
FAULT_IDS = {"drop_request": "O02", "drop_reply": "O01", "error_live": "O09", "error_dead": "O09", "delay_reply": "O03",
             "disconnect_live": "O21"}


def draw_faults(source: random.Random, names: list[str]) -> list[dict[str, Any]]:
    """What the exchange does to a few orders of this life."""
    if source.random() < 0.4:
        return []
    rules = [
        {"action": source.choice(REQUEST_FAULTS), "account": source.choice(names), "method": "order.place", "count": 1,
         "delay_ms": source.choice((5, 30, 150, 400)), "skip": source.randrange(4)}
        for _ in range(source.randrange(1, 5))
    ]
    if source.random() < 0.3:
        rules.append({"action": "drop_event", "account": source.choice(names), "count": source.randrange(1, 6)})
    return rules


class Run:
    """So many kills on one journal."""

    def __init__(self, stage: Stage, control: Control, nursery: Nursery, seed: int, tally: Tally, mutant: bool = False) -> None:
        self.stage, self.control, self.nursery, self.tally = stage, control, nursery, tally
        self.source = random.Random(seed)
        self.trader = Trader(stage.exchange, stage.leader)
        self.seed, self.mutant = seed, mutant
        self.patience_s = 5 if mutant else 30
        self.kills = 0
        self.most = LEADER_LOTS_MAX[-1]
        self.eras: list[int] = []  #: exchange times at which everybody was flat

    # -- the leader -----------------------------------------------------------------------------------------------------

    def trade(self) -> None:
        """One move of the leader: mostly small, sometimes all the way out."""
        symbol = self.source.choice(SYMBOLS)
        has = abs(self.trader.lots[symbol])
        draw = self.source.random()
        if has and (draw < 0.12 or has >= self.most):
            to = 0
        elif draw < 0.5:
            to = max(0, has - self.source.choice((300, 500, 777)))
        else:
            to = min(self.most, has + self.source.choice((300, 500, 777, 1500)))
        if to != has:
            self.trader.trade(symbol, SIDES[symbol] * (to - has))

    def trade_until(self, over: Callable[[], bool]) -> None:
        """Go on trading until something happens."""
        while not over():
            self.trade()
            time.sleep(self.source.choice((0.0, 0.002, 0.005, 0.02)))

    # -- lives ----------------------------------------------------------------------------------------------------------

    def launch(self, forked: bool) -> Living:
        """A daemon, on the shim's rules as they stand."""
        if forked:
            self.stage.daemon = self.nursery.run(self.stage.path, self.stage.next_log())
        else:
            self.stage.launch(self.control.environment())
        assert self.stage.daemon is not None
        return self.stage.daemon

    def life(self) -> None:
        """Start, load, end."""
        end = draw_end(self.source)
        rules = draw_faults(self.source, self.stage.names)
        self.stage.exchange.faults(*rules)
        self.control.reset()
        if end.op is not None and end.start:
            self.control.rule(end.op, end.act, end.k, end.arg)
        daemon = self.launch(forked=self.mutant or self.source.random() < 0.95)
        began = time.monotonic()
        if self.source.random() < 0.3:
            self.trade()
        if end.start and end.op is None:
            time.sleep(end.after_s)
        else:
            if self.armed(daemon, began):
                self.load(daemon, end)
            elif not end.start:
                self.tally.violation(f"seed {self.seed}, life {self.stage.lives}: ended in its start: {daemon.tail(600)}")
        hit = not daemon.running
        code = daemon.kill()
        if code == -signal.SIGKILL:
            self.count(end, hit)
        elif code == 0 and end.name == "after SIGTERM":
            self.tally.faults["P03"] += 1
        else:
            self.tally.violation(f"seed {self.seed}, life {self.stage.lives}: ended with {code}: {daemon.tail(600)}")
        for row in self.stage.exchange.call("GET", "/faults"):
            if row["hits"] and row["action"] in FAULT_IDS:
                self.tally.faults[FAULT_IDS[row["action"]]] += row["hits"]
        if self.source.random() < 0.3:
            self.trade()

    def armed(self, daemon: Living, began: float) -> bool:
        """Until it copies, orders in doubt or not; False when it ended before."""
        while daemon.running:
            if self.stage.armed(doubts=True):
                self.tally.counters["starts"] += 1
                self.tally.counters["start ms"] += int((time.monotonic() - began) * 1000)
                return True
            if time.monotonic() - began > ARMED_S:
                raise Late(f"not armed after {ARMED_S} s: {self.stage.readyz()}\n{daemon.tail()}")
            time.sleep(0.005)
        return False

    def load(self, daemon: Living, end: End) -> None:
        """Trade until the end of this life."""
        if end.op is not None and not end.start:
            self.control.rule(end.op, end.act, end.k, end.arg)
        until = time.monotonic() + end.after_s
        self.trade_until(lambda: time.monotonic() > until or not daemon.running)
        if end.name == "after SIGTERM":
            daemon.signal(signal.SIGTERM)
            with contextlib.suppress(Late):
                daemon.wait(self.source.choice((0.0, 0.005, 0.02, 0.3)))

    def count(self, end: End, hit: bool) -> None:
        """What kind of kill it was: a rule may have waited for a call that did not come."""
        self.kills += 1
        self.tally.summary.done += 1
        self.tally.faults["P01"] += 1
        if end.op is None:
            self.tally.points[end.name] += 1
            if end.start:
                self.tally.faults["P02"] += 1
            elif end.name == "after SIGTERM":
                self.tally.faults["P04"] += 1
        elif hit:
            self.tally.points[end.name] += 1
            fault = "P02" if end.start else FAULTS[end.op][end.act]
            if fault != "P01":
                self.tally.faults[fault] += 1
        else:
            self.tally.points["random"] += 1

    def calm(self) -> None:
        """In mid run: no faults, the leader goes flat, everybody follows; from here on the books are read anew."""
        self.stage.exchange.faults()
        self.control.reset()
        daemon = self.launch(forked=True)
        self.settle()
        daemon.kill()
        self.eras.append(time.time_ns())
        self.most = self.source.choice(LEADER_LOTS_MAX)

    def settle(self) -> None:
        """Everybody flat behind the leader, nothing on its way."""
        self.stage.wait_armed(60)
        self.trader.flat()
        for symbol in SYMBOLS:
            self.stage.wait_lots(0, symbol, self.patience_s)
        self.stage.quiet(self.patience_s)

    # -- the end --------------------------------------------------------------------------------------------------------

    def peace(self) -> None:
        """No faults, no kills: everything is settled and flat, and copying works to the lot."""
        stage, violation = self.stage, self.tally.violation
        stage.exchange.faults()
        self.control.reset()
        daemon = self.launch(forked=False)
        try:
            self.settle()
            for symbol, side in SIDES.items():
                self.trader.trade(symbol, side * PROOF_LOTS)
                stage.wait_lots(proportional(side * PROOF_LOTS), symbol)
                self.trader.trade(symbol, -side * PROOF_LOTS)
                stage.wait_lots(0, symbol)
            stage.quiet(30)
        except Late as late:
            violation(f"seed {self.seed}: lost: {late}")
        daemon.signal(signal.SIGTERM)
        if (code := daemon.wait(30)) != 0:
            violation(f"seed {self.seed}: the last life ended with {code}: {daemon.tail(600)}")

    def judge(self) -> None:
        """The books against the journal."""
        for text in judge(self.stage, self.trader.name, self.eras, self.tally.counters):
            self.tally.violation(f"seed {self.seed}: {text}")


class Accepted(NamedTuple):
    """An order of ours in the exchange's books: how often, when, how much of it was executed (lots)."""

    times: int
    ts: int
    lots: int


def judge(stage: Stage, leader: str, eras: list[int], counters: Counter[str]) -> Iterator[str]:
    """What the exchange's books and the journal say against each other; nothing when all is well."""
    exchange, mine = stage.exchange, set(stage.names)
    accepted: dict[str, Accepted] = {}
    for row in exchange.pages("/truth/orders"):
        if row["account"] in mine:
            cid, before = row["clientOrderId"], accepted.get(row["clientOrderId"], Accepted(0, 0, 0))
            accepted[cid] = Accepted(before.times + 1, row["ts"], before.lots + in_lots(row["executedQty"]))
            if before.times:
                yield f"twice: {cid} was accepted {before.times + 1} times"
    counters["orders accepted"] += len(accepted)
    for row in exchange.pages("/truth/rejects"):
        if row["account"] in mine and (row["code"] == -4116 or "uplicate" in row.get("msg", "")):
            yield f"twice: {row['clientOrderId']} was sent again: {row}"
    if problem := stage.verified():
        yield f"verify: {problem}"
    path, problem = stage.decisions()
    if problem:
        yield f"replay: {problem[-800:]}"
        return
    unsure: dict[tuple[str, str], list[tuple[int, int]]] = {}
    yield from claimed(path, accepted, unsure, counters)
    trades = list(exchange.pages("/truth/trades"))
    told = {row["exec_id"] for row in lines(path) if row["cause"] == "leader_fill"}
    happened = {str(row["id"]) for row in trades if leader in (row["buyer"], row["seller"])}
    counters["leader executions"] += len(happened)
    counters["leader executions never told"] += len(happened - told)
    yield from too_much(trades, leader, mine, eras, unsure)


def in_lots(text: str) -> int:
    """A quantity with all its decimals (both instruments count in thousandths)."""
    return int(text.replace(".", ""))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The decisions a journal claims."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with path.open("rb") as file:
        for line in file:
            yield decode(line)


def claimed(
    path: Path, accepted: dict[str, Accepted], unsure: dict[tuple[str, str], list[tuple[int, int]]], counters: Counter[str]
) -> Iterator[str]:
    """Every accepted order stands in one line of the journal's decisions, and a line's orders fill no more than it wanted.

    ``unsure`` learns, by follower and symbol, of lines whose orders came late or never: (when decided, lots).
    """
    named: Counter[str] = Counter()
    for row in lines(path):
        counters["decisions"] += 1
        orders = row.get("orders", [])
        if not orders:
            continue
        named.update(orders)
        wanted, seq, plan = row["reduce_lots"] + row["open_lots"], row["seq"], row["plan"]
        found = [accepted[cid] for cid in orders if cid in accepted]
        got = sum(one.lots for one in found)
        if got > wanted:
            yield f"twice: record {seq}, {plan}: {got} lots executed by {len(orders)} orders, {wanted} wanted"
        if row["cause"] in ("leader_fill", "release") and len(orders) > (row["reduce"] == "order") + (row["open"] == "order"):
            yield f"twice: record {seq}, {plan}: {len(orders)} orders for one decision"
        if got < wanted or any(one.ts - row["ts_decided"] > PROMPT_NS for one in found):
            unsure.setdefault((plan, row["symbol"]), []).append((row["ts_decided"], wanted))
    for cid, n in named.items():
        if n > 1:
            yield f"twice: {cid} is named {n} times"
    unnamed = accepted.keys() - named.keys()
    if unnamed:
        yield f"lost: {len(unnamed)} accepted orders are not in the journal: {sorted(unnamed)[:3]}"


def too_much(
    trades: list[dict[str, Any]], leader: str, mine: set[str], eras: list[int],
    unsure: dict[tuple[str, str], list[tuple[int, int]]],
) -> Iterator[str]:
    """A follower never holds the other side, and no more than the leader's largest position of the era gives.

    Orders that came late or never may in their era have left so much more (a reduction) or brought it (an opening).
    """
    ratio = ALLOCATION / LEADER_EQUITY * 1.005
    ends = [*eras, 1 << 63]
    slack: Counter[tuple[str, str, int]] = Counter()
    for (name, symbol), late in unsure.items():
        for ts, n in late:
            slack[name, symbol, bisect.bisect(ends, ts)] += n
    said: set[tuple[str, str]] = set()
    for symbol, side in SIDES.items():
        lots = most = era = 0
        held = dict.fromkeys(mine, 0)
        for row in trades:
            if row["symbol"] != symbol:
                continue
            if row["ts"] >= ends[era]:
                era, most = bisect.bisect(ends, row["ts"]), lots
            qty = in_lots(row["qty"])
            for name, sign in ((row["buyer"], 1), (row["seller"], -1)):
                if name == leader:
                    lots += sign * side * qty
                    most = max(most, lots)
                elif name in held:
                    held[name] += sign * side * qty
                    more = slack[name, symbol, era]
                    if not 0 <= held[name] <= most * ratio + 1 + more and (name, symbol) not in said:
                        said.add((name, symbol))
                        yield f"twice: {name} holds {held[name]} {symbol} at {row['ts']}, {most * ratio:.0f} + {more} at most"


def main(
    kills: int = 50, seed: int = 1, followers: int = 20, progress: Callable[[int], None] | None = None, mutant: str = ""
) -> Summary:
    """So many kills of one daemon on one journal; ``progress`` hears of each. ``mutant``: a rule broken on purpose."""
    tally = Tally("kills", "kills")
    with staged(followers) as stage:
        control = Control(stage.folder / "control")
        nursery = Nursery({**control.environment(), **({"TORTURE_MUTANT": mutant} if mutant else {})})
        try:
            run = Run(stage, control, nursery, seed, tally, bool(mutant))
            run.launch(forked=True)
            stage.enrol()
            assert stage.daemon is not None
            stage.daemon.kill()
            try:
                while run.kills < kills and len(tally.summary.violations) < 5:
                    run.life()
                    if run.kills // KILLS_PER_ERA > len(run.eras):
                        run.calm()
                    if progress is not None:
                        progress(run.kills)
                run.peace()
                run.judge()
            except (Late, WorldError) as error:
                tally.violation(f"seed {seed}, life {stage.lives}: {error}")
            tally.counters["leader orders"] = run.trader.orders
            if tally.counters["starts"]:
                tally.counters["start ms"] //= tally.counters["starts"]
        finally:
            if stage.daemon is not None:
                stage.daemon.kill()
            nursery.close()
            control.close()
        if tally.summary.violations:
            keep(stage)
    return tally.finish()


def keep(stage: Stage) -> None:
    """The folder of a run with violations stays, and is named."""
    kept = stage.folder.with_name(stage.folder.name + "-kept")
    for name in ("orders", "trades"):
        with (stage.folder / f"{name}.jsonl").open("wb") as file:
            file.writelines(msgspec.json.encode(row) + b"\n" for row in stage.exchange.pages(f"/truth/{name}"))
    with contextlib.suppress(OSError):
        stage.folder.rename(kept)
    print(f"journal and logs are kept in {kept}", file=sys.stderr)


def command() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--followers", type=int, default=20)
    options = parser.parse_args()
    began = time.monotonic()

    def progress(done: int) -> None:
        if done % 25 == 0:
            print(f"{done} of {options.kills} kills, {done / (time.monotonic() - began) * 60:.0f}/min", flush=True)

    summary = main(options.kills, options.seed, options.followers, progress)
    print(summary.text())
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(command())
