"""One sentence for every reason a decision may give, for people who have to answer for it."""

from __future__ import annotations

from copyd.core.rows import Note, Reason

MEANING: dict[Reason, str] = {
    Reason.NONE: "Nothing was refused.",
    Reason.KILL_SWITCH: "A kill switch was on, or the instrument was paused or close-only: nothing opens while it is.",
    Reason.PLAN_PAUSED: "The plan or its leader was paused: nothing opens, reductions are still followed.",
    Reason.PLAN_CLOSE_ONLY: "The plan or its leader was close-only: nothing opens, reductions are still followed.",
    Reason.PLAN_STOPPED: "The plan or its leader was stopped: nothing opens, reductions are still followed.",
    Reason.LEG_NOT_READY: "Leverage or margin type of this account and instrument was not yet set and verified at the venue.",
    Reason.LEG_DETACHED: "The follower had reduced this position by hand: nothing opens until the leader is flat.",
    Reason.INSTRUMENT_NOT_ALLOWED: "The plan does not copy this instrument.",
    Reason.NO_SHORT: "The leader went short, and the follower's instrument is spot: what nobody holds cannot be sold.",
    Reason.LEADER_NOT_ELIGIBLE: "The leader was suspended, warned of liquidation by the venue, or held more than he declared.",
    Reason.LEADER_UNSYNCED: "The leader's fills did not yet add up to the position the venue shows.",
    Reason.LEADER_EQUITY_STALE: "The leader's equity was not known, not positive, or too old to size by.",
    Reason.QUOTE_STALE: "There was no quote of the instrument, or only one too old to trade on.",
    Reason.STALE_EVENT: "By the time it could be decided, the leader's trade was older than an opening may be.",
    Reason.OBSERVED: "The trade was found afterwards (back-fill or snapshot): such openings are observed, never copied.",
    Reason.LEADER_DRAWDOWN: "The leader had lost more from his peak than the plan accepts.",
    Reason.TOTAL_LOSS: "The plan had lost more of its allocation than it may.",
    Reason.DAILY_LOSS: "The plan had lost more since the daily reset than it may.",
    Reason.MAX_OPEN_TRADES: "The plan already had as many instruments open as it may.",
    Reason.LEVERAGE_ABOVE_MAX: "All positions of the plan together would exceed its maximum leverage on the allocation.",
    Reason.NO_STOP: "The plan sizes by risk or requires a stop, and none is known or assumed.",
    Reason.MAX_LOSS_PER_TRADE: "At the stop the position would lose more of the allocation than one trade may.",
    Reason.MAX_POSITION: "The position's initial margin would exceed its share of the allocation.",
    Reason.MAX_NOTIONAL_SYMBOL: "The plan's limit of notional in this instrument would be exceeded.",
    Reason.MAX_NOTIONAL_TOTAL: "The plan's limit of notional over all instruments would be exceeded.",
    Reason.INSUFFICIENT_MARGIN: "The account's free balance does not carry it.",
    Reason.SLIPPAGE_LEADER: "The market had moved further from the leader's price than the plan accepts.",
    Reason.SLIPPAGE_MID: "The spread was wider than the plan accepts as distance from mid.",
    Reason.RATE_LIMITED: "The account had used up its orders for this window of the venue's rate limit.",
    Reason.BELOW_MINIMUM: "The quantity was below the venue's minimum order.",
    Reason.ABOVE_MAXIMUM: "The quantity is beyond what a leg may ever hold.",
    Reason.JOURNAL_LOW: "The journal was short of room: what is left is kept for closing.",
    Reason.VOLATILITY_PAUSE: "The market moved more within a short time than openings are made in.",
    Reason.PRICE_OUTLIER: "The price told with the leader's trade was nowhere near the market: nothing was sized by it.",
    Reason.CLOCK_OFF: "This machine's clock disagreed with the venue's by more than orders may: nothing was opened by it.",
    Reason.SLIPPAGE: "The order ended without finding this much inside its price limit.",
    Reason.VENUE_REJECTED: "The venue refused the order; its code is given.",
}

NOTES: dict[Note, str] = {
    Note.LATE_FILL: "a fill came after the order had ended; it was booked",
    Note.REPLANNED: "proven never to have reached the venue: planned once more",
    Note.REDUCTION_RETRY: "not fully filled: sent again under a new attempt",
    Note.UNKNOWN_ORDER: "the venue spoke of an order this journal does not know",
    Note.DEAD_BUT_FILLED: "proven absent now although fills of it are known: its fills stand, the rest has ended",
    Note.DUST: "the last of it is less than the venue trades: written off, it is the follower's own now",
    Note.HELD: "the venue's own sources disagree about it: held, no opening before that is settled",
}
