"""Loss limits, judged by the exchange's books: was each stop reached, and was any limit passed that nothing acted on?

A limit is a share of the allocation (total, daily: the run lies inside one day of the daemon's) or of the leader's peak equity as
the exchange served it to him. Times in ns, money in 1e-8.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .history import SECOND, Claim, Truth, VerifyConfig
from .ideal import PlanNumbers
from .worth import Worth

LOSSES = {"total_loss": "total_loss_bps", "daily_loss": "daily_loss_bps", "leader_drawdown": "leader_drawdown_bps"}
"""The reasons, and the plan's column of each limit."""

STEP = SECOND // 4
"""How finely the run is searched for limits that were passed."""

NOTICE = 2 * SECOND
"""From a limit certainly passed, with everything heard, to the stop on disk: marks come once a second."""


class Stopped(NamedTuple):
    """A plan is stopped since ``ts``."""

    ts: int
    reason: str
    policy: str


class Stops:
    """The stops of one run."""

    def __init__(self, truth: Truth, config: VerifyConfig, worth: Worth) -> None:
        self.config, self.worth = config, worth
        self.reads = sorted(read for read in truth.leader_reads)
        self.read_times = [ts for ts, _ in self.reads]
        self.faults = bool(truth.faults)
        self.end = max((order.ts_done or order.ts for order in truth.orders), default=0)
        self.of: dict[str, Stopped] = {}

    # -- what was claimed --------------------------------------------------------------------------------------

    def take(self, claim: Claim, numbers: PlanNumbers) -> str:
        """A stop was claimed: why it may not be one, or ""."""
        known = self.of.setdefault(claim.plan, Stopped(claim.ts_decided, claim.reason, claim.policy))
        if known.ts != claim.ts_decided:
            return f"{known.reason} had stopped it already"
        if claim.reason not in LOSSES:
            return "no such limit is known"
        if claim.policy != numbers.plan.on_loss_stop:
            return f"its policy is {numbers.plan.on_loss_stop}, not {claim.policy}"
        bps = getattr(numbers.plan, LOSSES[claim.reason])
        if not bps:
            return "the plan has no such limit"
        if claim.loss_e8 < claim.limit_e8:
            return f"a loss of {money(claim.loss_e8)} is below the limit of {money(claim.limit_e8)}"
        if claim.reason == "leader_drawdown":
            return self.drawdown_fault(claim, bps)
        if claim.limit_e8 != numbers.allocation_e8 * bps // 10_000:
            return f"{bps} bps of its allocation are not {money(claim.limit_e8)}"
        least, most = self.worth.at(numbers.account, claim.ts_decided)
        if -least < claim.limit_e8:
            return f"it had lost no more than {money(-least)} of {money(claim.limit_e8)}"
        if not least <= -claim.loss_e8 <= most:
            return f"it had lost between {money(-most)} and {money(-least)}, not {money(claim.loss_e8)}"
        return ""

    def drawdown_fault(self, claim: Claim, bps: int) -> str:
        """The peak and what was left of it must both have been served to the leader, the latter lately."""
        now = bisect_right(self.read_times, claim.ts_decided)
        lately = {equity for ts, equity in self.reads[:now] if ts > self.worth.since(claim.ts_decided) - 10 * SECOND}
        for _, peak in self.reads[:now]:
            if peak * bps // 10_000 == claim.limit_e8 and peak - claim.loss_e8 in lately:
                return ""
        return f"the exchange served the leader no equities that are {money(claim.loss_e8)} apart"

    # -- what is asked of it -----------------------------------------------------------------------------------

    def stopped(self, plan: str, ts: int) -> bool:
        """Whether a limit has stopped the plan by then."""
        return plan in self.of and self.of[plan].ts < ts

    def policy(self, plan: str, ts: int) -> str:
        """What the stop in force does, "" without one."""
        return self.of[plan].policy if self.stopped(plan, ts) else ""

    def refusal(self, name: str, numbers: PlanNumbers, ts: int) -> str:
        """Why this limit does not refuse an opening now: it has not stopped the plan, nor is it passed."""
        bps = getattr(numbers.plan, LOSSES[name])
        if not bps:
            return f"the plan has no {name} limit"
        if self.stopped(numbers.plan.follower, ts) and self.of[numbers.plan.follower].reason == name:
            return ""
        if name == "leader_drawdown":
            now = bisect_right(self.read_times, ts)
            peak = max((equity for _, equity in self.reads[:now]), default=0)
            low = min((equity for at, equity in self.reads[:now] if at > self.worth.since(ts) - 10 * SECOND), default=peak)
            return "" if (peak - low) * 10_000 >= peak * bps else f"the leader was down by {money(peak - low)} only"
        least, _ = self.worth.at(numbers.account, ts)
        limit = numbers.allocation_e8 * bps // 10_000
        return "" if -least >= limit else f"it had lost no more than {money(-least)} of {money(limit)}"

    # -- what was never claimed --------------------------------------------------------------------------------

    def missed(self, plans: Mapping[str, PlanNumbers]) -> Iterator[str]:
        """Plans that were beyond a limit for certain, whatever was heard late, and not stopped."""
        moments = list(self.moments())
        for name, numbers in plans.items():
            plan = numbers.plan
            shares = [bps for bps in (plan.total_loss_bps, plan.daily_loss_bps) if bps]
            stop = self.of.get(name)
            if shares:
                limit = numbers.allocation_e8 * min(shares) // 10_000
                for ts in moments:
                    if stop is not None and stop.ts <= ts + NOTICE:
                        break
                    _, most = self.worth.surely(numbers.account, ts)
                    if -most >= limit:
                        yield f"{name} had lost at least {money(-most)} of {money(limit)} and was not stopped"
                        break
            if plan.leader_drawdown_bps:
                ts = self.drawdown_passed(plan.leader_drawdown_bps)
                if ts and (stop is None or stop.ts > ts + NOTICE):
                    yield f"{name}: its leader was down by more than {plan.leader_drawdown_bps} bps and it was not stopped"

    def moments(self) -> Iterator[int]:
        """The run in small steps, without what the daemon did not live through or was still learning."""
        ts = max(self.config.ready_since, self.config.plans_since)
        while ts < self.end:
            if not any(gap.ts_down - NOTICE <= ts <= gap.ts_ready + NOTICE for gap in self.config.outages):
                yield ts
            ts += STEP

    def drawdown_passed(self, bps: int) -> int:
        """When the leader was down by a share of his peak for certain, although some answers to him were lost; 0: never."""
        width = 6 if self.faults else 2  # so many answers in a row say so
        peak = 0
        reads = [(ts, equity) for ts, equity in self.reads if ts > max(self.config.plans_since, self.config.ready_since)]
        for n in range(width, len(reads) + 1):
            ts, window = reads[n - 1][0], [equity for _, equity in reads[n - width : n]]
            away = any(gap.ts_down - NOTICE <= ts <= gap.ts_ready + self.worth.lag for gap in self.config.outages)
            if not away and (peak - max(window)) * 10_000 >= peak * bps and peak:
                return ts + self.worth.lag
            peak = max(peak, min(window))
        return 0


def money(e8: int) -> str:
    """As a person reads it."""
    return f"{e8 / 10**8:,.2f}"
