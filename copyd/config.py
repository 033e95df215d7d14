"""The typed mirror of ``config/copyd.yaml``: frozen Structs, one per section, every key described where it is declared.

The descriptions are the only source of the comments in ``config/copyd.yaml`` (written by ``copyd config init``) and of
the texts an editor shows (``config/schema.json``, written by ``copyd config schema``), so the three cannot drift apart.
Money and factors are decimal *strings*: a YAML float would already have lost what the operator wrote (semantics 42).
People (followers and their plans) are not configured here; they are imported into the journal by command.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from copyd.decimals import FACTOR_PATTERN, MONEY_PATTERN, factor_ppm, money_e8

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Symbol = Annotated[str, Meta(pattern=r"^[A-Z0-9_-]{2,32}$")]
Money = Annotated[str, Meta(pattern=MONEY_PATTERN, extra={"decimal": "money"})]
Factor = Annotated[str, Meta(pattern=FACTOR_PATTERN, extra={"decimal": "factor"})]
HttpUrl = Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/[^\s?#]*)?$")]
WsUrl = Annotated[str, Meta(pattern=r"^wss?://[A-Za-z0-9.\[\]:-]+(/[^\s?#]*)?$")]
FilePath = Annotated[str, Meta(min_length=1, max_length=4096)]
Bps = Annotated[int, Meta(ge=0, le=10_000)]

VenueKind = Literal["binance_usdm", "binance_spot", "okx", "bybit", "bitget", "ccxt"]
InstrumentClass = Literal["majors", "others"]
PresetName = Literal["conservative", "balanced", "aggressive"]
PositionMode = Literal["one_way", "hedge", "keep"]
MarginType = Literal["isolated", "cross"]
RatioSnapshot = Literal["position_open", "each_order", "follow"]
MinPolicy = Literal["carry", "skip", "raise"]
LossPolicy = Literal["close_now", "close_gracefully", "opens_paused", "keep"]
OnInsufficient = Literal["scale", "skip"]
PRESET_NAMES: tuple[str, ...] = get_args(PresetName)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the configuration file: frozen, no unknown keys."""


class SiteConfig(Section, frozen=True, kw_only=True):
    id: Annotated[
        int,
        Meta(
            ge=1,
            le=65_535,
            description="Number of this installation, 16 bits; it is readable in every client order id. Two daemons "
            "that trade on the same accounts must differ, or each takes the other's orders for its own.",
        ),
    ]
    name: Annotated[
        Name,
        Meta(description="What logs and metrics call this installation. Cosmetic: no decision reads it."),
    ] = "copyd"


class JournalConfig(Section, frozen=True, kw_only=True):
    path: Annotated[
        FilePath,
        Meta(
            description="Directory of the LMDB journal; relative to the working directory. On a slow or network disk "
            "every order waits for it; on a volatile one (tmpfs) a power cut loses who was sent what."
        ),
    ] = "/var/lib/copyd/journal"
    map_size_mib: Annotated[
        int,
        Meta(
            ge=16,
            le=16_777_216,
            description="Largest size of the journal, MiB; address space, not disk, is reserved. Too small: openings "
            "stop when it is nearly full and the daemon exits when it is full. Too large: the disk fills "
            "before the map does.",
        ),
    ] = 65_536
    durability: Annotated[
        Literal["strict", "process"],
        Meta(
            description="strict: each record is on the disk before its first order leaves. process: survives a crash "
            "of copyd but not of the machine; a power cut then forgets orders already sent, and followers "
            "may hold positions nobody remembers."
        ),
    ] = "strict"
    checkpoint_every_records: Annotated[
        int,
        Meta(
            ge=16,
            le=100_000_000,
            description="Records between two checkpoints of the whole state. Too few: writing them takes disk and "
            "time from trading. Too many: a restart replays longer.",
        ),
    ] = 20_000
    free_disk_min_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=1_048_576,
            description="Free disk space below which openings stop (journal_low), MiB. Too small: no room to record "
            "the closes of what is open. Too large: openings stop on a healthy machine.",
        ),
    ] = 256


class ContractOverrides(Section, frozen=True, kw_only=True):
    """Corrections of the venue's contract record; null keeps the record's own value."""

    engine_delay_ms: Annotated[
        Annotated[int, Meta(ge=0, le=600_000)] | None,
        Meta(
            description="Longest time a request may wait inside the venue after its signature expired, ms; null = the "
            "venue's contract record. Too low: an order is declared dead that still executes, and its "
            "copy doubles. Too high: openings in doubt are settled late."
        ),
    ] = None
    read_lag_ms: Annotated[
        Annotated[int, Meta(ge=0, le=600_000)] | None,
        Meta(
            description="How far the venue's order query may lag its engine, ms; null = contract record. Too low: "
            "'not found' is believed too early. Too high: settling takes longer."
        ),
    ] = None
    guard_ms: Annotated[
        Annotated[int, Meta(ge=0, le=600_000)] | None,
        Meta(
            description="Margin added to the fence after which 'not found' counts as evidence, ms; null = contract "
            "record. Too low: no margin for what nobody measured. Too high: settling takes longer."
        ),
    ] = None


class OrdersConfig(Section, frozen=True, kw_only=True):
    """How orders reach the venue."""

    path: Annotated[
        Literal["websocket", "batch"],
        Meta(
            description="websocket: the venue's own API, each order signed. batch: record batches to a matching engine "
            "that runs beside copyd (copyd/venues/batch/PROTOCOL.md); leaders and followers are still watched over the "
            "addresses above."
        ),
    ] = "websocket"
    address: Annotated[
        str,
        Meta(
            max_length=4096,
            description="The engine's batch door, HOST:PORT or unix:/PATH. Needed with path batch; nothing is encrypted on it.",
        ),
    ] = ""
    secret_file: Annotated[
        str,
        Meta(
            max_length=4096,
            description="File with the secret that both sides of the session know, 16 bytes or more. Needed with path batch.",
        ),
    ] = ""
    session: Annotated[
        Name,
        Meta(description="Name of the batch session. Two daemons under one name put each other out."),
    ] = "copyd"
    top_leaders: Annotated[
        tuple[Name, ...],
        Meta(
            description="Leaders whose openings may use the share of the engine's window that is kept for reductions. Too many: "
            "a burst of openings makes a close wait."
        ),
    ] = ()


class VenueConfig(Section, frozen=True, kw_only=True):
    name: Annotated[Name, Meta(description="Name by which leaders and instruments refer to this venue.")]
    kind: Annotated[
        VenueKind,
        Meta(
            description="Which dialect it speaks: binance_usdm (USD-M futures) | binance_spot | okx | bybit | bitget (each with "
            "spot and USDT perpetuals) | ccxt (linear perpetuals of any exchange that ccxt knows; slower, nothing is pushed)."
        ),
    ]
    exchange_id: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9]{0,32}$",
            description="ccxt: its name of the exchange (kucoinfutures). Needed with kind ccxt, ignored otherwise.",
        ),
    ] = ""
    python: Annotated[
        str,
        Meta(
            max_length=4096,
            description="ccxt: the Python interpreter of the environment in which ccxt is installed; it is run as a process of "
            "its own. Needed with kind ccxt. Never copyd's own environment: their pins differ.",
        ),
    ] = ""
    environment: Annotated[
        Literal["live", "demo", "testnet"],
        Meta(
            description="Whose addresses are used where none is written below: live | demo | testnet (as far as the venue has "
            "them). Keys of one environment are refused by the others."
        ),
    ] = "live"
    rest_url: Annotated[
        HttpUrl | None,
        Meta(description="Base of the REST interface, without a path; null = the environment's."),
    ] = None
    sapi_url: Annotated[
        HttpUrl | None,
        Meta(
            description="binance_usdm: base of the interface that says what a key may do (/sapi), without a path; null = the "
            "environment's, or rest_url where that is another than the environment's. Wrong: keys cannot be checked."
        ),
    ] = None
    ws_url: Annotated[
        WsUrl | None,
        Meta(
            description="Base of the WebSocket connections, for every kind but binance_usdm; null = the environment's. An "
            "address of another environment refuses every login."
        ),
    ] = None
    ws_api_url: Annotated[
        WsUrl | None,
        Meta(
            description="binance_usdm: WebSocket API that carries the orders; null = the environment's. An address of another "
            "environment answers every order with 'invalid key'."
        ),
    ] = None
    public_stream_url: Annotated[
        WsUrl | None,
        Meta(
            description="binance_usdm: base of the public streams (bookTicker); null = the environment's. On the wrong path a "
            "subscription is acknowledged and stays silent: quotes go stale and openings stop."
        ),
    ] = None
    market_stream_url: Annotated[
        WsUrl | None,
        Meta(
            description="binance_usdm: base of the market streams (markPrice); null = the environment's. Wrong path: as above."
        ),
    ] = None
    private_stream_url: Annotated[
        WsUrl | None,
        Meta(
            description="binance_usdm: base of the user data streams; null = the environment's. Wrong path: the leader appears "
            "to do nothing."
        ),
    ] = None
    order_connections: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Persistent connections that carry orders; each carries many accounts. Too few: one slow "
            "socket holds up everybody on it. Too many: the venue's limit of connections per address, and "
            "more to reconnect.",
        ),
    ] = 4
    accounts_per_stream: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="User data streams (accounts) sharing one connection. Too few: hundreds of sockets at 10,000 "
            "followers. Too many: one disconnect blinds more accounts, and the venue's limit is 1024.",
        ),
    ] = 200
    orders: Annotated[OrdersConfig, Meta(description="How orders reach the venue.")] = OrdersConfig()
    recv_window_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=60_000,
            description="How long the venue may take to accept a signed order, ms. Too short: orders are refused "
            "whenever the clock or the network is off by that much. Too long: an unanswered order stays "
            "in doubt for longer.",
        ),
    ] = 2_000
    clock_error_max_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Largest error of this machine's clock against the venue's that is assumed when the age of an "
            "event or of an order is judged, ms. Too low: a fence is believed too early. Too high: "
            "everything waits longer. A measured error above it keeps the venue's legs from opening.",
        ),
    ] = 250
    contract: Annotated[
        ContractOverrides,
        Meta(description="Corrections of the venue's contract record; only with a measurement in hand."),
    ] = ContractOverrides()
    connect_timeout_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=120_000,
            description="Time for a connection to be made, ms. Too short: a busy venue is never reached. Too long: a "
            "dead address is tried for that long before the next attempt.",
        ),
    ] = 10_000
    order_ack_timeout_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=120_000,
            description="Time without an answer after which an order is asked about, ms; it is never sent again. Too "
            "short: queries eat the rate limit in every burst. Too long: a lost answer delays the leg.",
        ),
    ] = 3_000
    keepalive_interval_s: Annotated[
        int,
        Meta(
            ge=10,
            le=3_300,
            description="Time between two keep-alives of one listen key, s; all accounts' are spread evenly over it. "
            "Too short: request weight is wasted. Too long: keys expire (60 min) and reports are missed "
            "until back-fill.",
        ),
    ] = 1_800
    request_weight_per_min: Annotated[
        Annotated[int, Meta(ge=1, le=100_000_000)] | None,
        Meta(
            description="Requests, by the venue's own weights, that copyd may make per minute and address; null = five sixths of "
            "the venue's limit. Too low: set-up and settling crawl. Above the venue's: it refuses, then bans the address.",
        ),
    ] = None
    source_addresses: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:]{2,45}$")], ...],
        Meta(
            description="Addresses of this machine that connections to the venue go out from, accounts spread over them; empty = "
            "the system's choice. Each has limits of its own at the venue; followers' keys must be bound to all of them."
        ),
    ] = ()
    connects_per_5_min: Annotated[
        Annotated[int, Meta(ge=1, le=100_000_000)] | None,
        Meta(
            description="Connection attempts copyd may make in five minutes; null = a little below the venue's limit. Where each "
            "account has a connection of its own this decides how long a start takes."
        ),
    ] = None
    orders_per_10s: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Orders per account in any 10 s; the venue's limit is 300. Too low: openings are forgone "
            "rate_limited. Above the venue's: it refuses them itself.",
        ),
    ] = 300
    orders_per_min: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Orders per account in any minute; the venue's limit is 1200. Extremes as for orders_per_10s.",
        ),
    ] = 1_200
    reduction_reserve_bps: Annotated[
        Bps,
        Meta(
            description="Share of the order limits that openings may not use, bps. 0: a burst of openings can make a "
            "close wait. 10000: nothing opens."
        ),
    ] = 1_000


class InstrumentConfig(Section, frozen=True, kw_only=True):
    symbol: Annotated[Symbol, Meta(description="The venue's own name of the instrument.")]
    venue: Annotated[Name, Meta(description="Name of the venue it trades on.")]
    instrument_class: Annotated[InstrumentClass, Meta(description="Which row of instrument_classes gives its slippage caps.")] = (
        msgspec.field(name="class", default="others")
    )


class SymbolOn(Section, frozen=True, kw_only=True):
    venue: Annotated[Name, Meta(description="Name of the venue.")]
    symbol: Annotated[Symbol, Meta(description="The venue's own name of the instrument.")]
    units: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000_000,
            description="How many of the others' base asset one unit of this one's is (1000 for 1000PEPE beside PEPE). Wrong: "
            "followers trade so many times too much or too little.",
        ),
    ] = 1


class SymbolConfig(Section, frozen=True, kw_only=True):
    """One thing that is traded on several venues under different names."""

    name: Annotated[Name, Meta(description="What it is called here.")]
    on: Annotated[tuple[SymbolOn, ...], Meta(description="Where it trades, and under which name.")]


class InstrumentClassConfig(Section, frozen=True, kw_only=True):
    slippage_bps: Annotated[
        Bps,
        Meta(
            description="Worst price of an opening against the leader's fill price, bps, adverse side only; plans and "
            "presets may set their own. Too small: openings expire unfilled (forgone slippage). Too "
            "large: followers pay for a thin book."
        ),
    ]
    slippage_mid_bps: Annotated[
        Bps,
        Meta(
            description="Worst price of an opening against the middle of the book at the decision, bps. Too small: "
            "every wide spread refuses. Too large: an opening may chase a price that has already run "
            "away."
        ),
    ]
    volatility_bps: Annotated[
        Bps,
        Meta(
            description="Range of the mark within copy.volatility_window_s from which openings pause (volatility_pause), bps; "
            "0: never. Too small: every lively market stops copying. Too large: followers enter a crash."
        ),
    ] = 0


class InstrumentClasses(Section, frozen=True, kw_only=True):
    majors: Annotated[InstrumentClassConfig, Meta(description="Instruments with deep books.")] = InstrumentClassConfig(
        slippage_bps=50, slippage_mid_bps=50
    )
    others: Annotated[InstrumentClassConfig, Meta(description="Everything else.")] = InstrumentClassConfig(
        slippage_bps=150, slippage_mid_bps=150
    )

    def of(self, instrument_class: str) -> InstrumentClassConfig:
        return self.majors if instrument_class == "majors" else self.others


class LeaderDeclared(Section, frozen=True, kw_only=True):
    """What a leader declared to stay within. Beyond it nobody opens after him (leader_not_eligible); reductions continue."""

    max_leverage: Annotated[int, Meta(ge=0, le=1_000, description="Highest leverage of his positions; 0 = not declared.")] = 0
    max_position: Annotated[
        Money, Meta(description='Most one of his positions is worth at his price, in the quote asset; "0" = not declared.')
    ] = "0"
    instruments: Annotated[
        tuple[str, ...], Meta(description="Symbols he trades; others of his are not copied. Empty = all that are configured.")
    ] = ()

    @property
    def max_position_e8(self) -> int:
        return money_e8(self.max_position)


class LeaderConfig(Section, frozen=True, kw_only=True):
    id: Annotated[Name, Meta(description="Name by which plans refer to this leader. Never reuse it for another person.")]
    venue: Annotated[Name, Meta(description="Name of the venue the leader trades on.")]
    credential: Annotated[
        Name,
        Meta(
            description="Name of the leader's key in the credentials; reading rights are enough. The key itself never "
            "stands in this file."
        ),
    ]
    equity_poll_interval_ms: Annotated[
        int,
        Meta(
            ge=200,
            le=3_600_000,
            description="Time between two polls of the leader's equity, ms. Too short: request weight. Too long: "
            "ratios are taken from an old equity, and past equity_max_age_ms openings stop.",
        ),
    ] = 5_000
    equity_max_age_ms: Annotated[
        int,
        Meta(
            ge=500,
            le=3_600_000,
            description="Age of the leader's equity above which openings are forgone (leader_equity_stale), ms. Too "
            "short: one slow poll stops openings. Too long: followers are sized on money the leader no "
            "longer has.",
        ),
    ] = 30_000
    position_poll_interval_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            le=3_600_000,
            description="Time between two comparisons of the leader's positions with the venue, ms. Too short: "
            "request weight. Too long: a missed fill stays unnoticed for that long.",
        ),
    ] = 30_000
    suspended: Annotated[
        bool,
        Meta(description="true: no follower opens after this leader (leader_not_eligible); reductions continue."),
    ] = False
    min_volume: Annotated[
        Money,
        Meta(
            description="What he must have traded within 30 days, as copyd has heard it, before anybody opens after him "
            '(leader_not_eligible), quote asset; "0": nothing. Too much: a good leader waits for weeks.'
        ),
    ] = "0"
    declared: Annotated[LeaderDeclared, Meta(description="What he declared to stay within.")] = LeaderDeclared()

    @property
    def min_volume_e8(self) -> int:
        """The same in 1e-8."""
        return money_e8(self.min_volume)


class CopyDefaults(Section, frozen=True, kw_only=True):
    max_event_age_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=600_000,
            description="Age of a leader's fill, by venue time, above which its opening is forgone stale_event, ms. "
            "Too short: a small network delay loses openings. Too long: followers enter where the price "
            "no longer is. Reductions are never too old.",
        ),
    ] = 2_000
    replan_max_age_s: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400,
            description="After a restart, how old an opening proven dead may be to be planned once more, s; 0 = "
            "never. Too long: openings appear long after the leader's, still inside the price cap.",
        ),
    ] = 120
    quote_max_age_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=600_000,
            description="Age of the best bid/ask or mark above which openings are forgone quote_stale, ms. Too short: "
            "a quiet book refuses. Too long: the price check is made against the past.",
        ),
    ] = 5_000
    mark_max_age_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            le=3_600_000,
            description="Age of a mark price above which no loss limit acts on it and openings hold, ms. Too short: a slow feed "
            "pauses copying. Too long: a stop acts on the past.",
        ),
    ] = 60_000
    mark_band_bps: Annotated[
        int,
        Meta(
            ge=100,
            le=100_000,
            description="A mark further than this from the last one is not believed until the book has agreed with it for a "
            "while, bps. Too narrow: a real crash is believed late. Too wide: a wrong price stops plans.",
        ),
    ] = 3_000
    volatility_window_s: Annotated[
        int,
        Meta(
            ge=5,
            le=86_400,
            description="Window over which a market's range is held against its class's volatility_bps, s; a pause ends when a "
            "whole window has stayed below. Too short: a slide passes unseen. Too long: one spike pauses for hours.",
        ),
    ] = 60
    runaway_orders_per_min: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="Orders a minute, per follower on average, above which the kill switch trips (openings stop, exits go "
            "on); 0: never. Too few: a busy leader trips it.",
        ),
    ] = 600
    maintenance_margin_bps: Annotated[
        Bps,
        Meta(
            description="Share of a position's worth the venue wants as maintenance margin, bps, for the distance to "
            "liquidation. Too small: warnings come late."
        ),
    ] = 50
    liquidation_warn_bps: Annotated[
        Bps,
        Meta(
            description="Distance to liquidation, bps of a position's worth, below which it is alarmed (near_liquidation); "
            "0: never. Too large: every leveraged position is alarmed."
        ),
    ] = 300
    daily_reset_utc: Annotated[
        str,
        Meta(
            pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
            description='Time of day, UTC, at which the daily loss limit starts anew, "HH:MM".',
        ),
    ] = "00:00"
    default_preset: Annotated[
        PresetName,
        Meta(description="Risk preset of plans that name none. Changing it does not change plans already imported."),
    ] = "balanced"
    position_mode: Annotated[
        PositionMode,
        Meta(
            description="Position mode set on followers' accounts at activation: one_way | hedge | keep (use the one each "
            "account has). The leader's hedge mode needs hedge; one_way nets a follower's own opposite "
            "position."
        ),
    ] = "one_way"
    margin_type: Annotated[
        MarginType,
        Meta(
            description="Margin type set on followers' accounts: isolated | cross. cross puts the follower's whole "
            "balance behind every copied position."
        ),
    ] = "isolated"
    leverage: Annotated[
        int,
        Meta(
            ge=1,
            le=150,
            description="Leverage set for plans that name none. Too low: margin runs out (insufficient_margin). Too "
            "high: liquidation is near.",
        ),
    ] = 5
    ratio_snapshot: Annotated[
        RatioSnapshot,
        Meta(
            description="When the copy ratio is taken: position_open | each_order | follow. Anything but "
            "position_open lets the leader's and the follower's position drift apart by deposits."
        ),
    ] = "position_open"
    min_policy: Annotated[
        MinPolicy,
        Meta(
            description="An opening below the venue's minimum: carry (wait for more) | skip (forgo) | raise (to the "
            "minimum). skip: small followers never trade; raise: they take more risk than their ratio."
        ),
    ] = "carry"
    raise_max_factor: Annotated[
        Factor,
        Meta(
            description="With raise: most times the wanted quantity may be enlarged, decimal string. 1 = never; too "
            "large: a tiny follower takes many times its share."
        ),
    ] = "2"
    on_insufficient: Annotated[
        OnInsufficient,
        Meta(description="Not enough free margin: scale (open what fits) | skip (forgo the whole opening)."),
    ] = "scale"
    multiplier_min: Annotated[
        Factor, Meta(description="Smallest multiplier a plan may have, decimal string; hard limit 0.1.")
    ] = "0.5"
    multiplier_max: Annotated[
        Factor,
        Meta(
            description="Largest multiplier a plan may have, decimal string; hard limit 10. A slip of the pen (15 for "
            "1.5) passes if this is wide."
        ),
    ] = "2"

    @property
    def raise_max_factor_ppm(self) -> int:
        return factor_ppm(self.raise_max_factor)

    @property
    def daily_reset_min(self) -> int:
        """Minutes after midnight, UTC."""
        return int(self.daily_reset_utc[:2]) * 60 + int(self.daily_reset_utc[3:])


class RiskPreset(Section, frozen=True, kw_only=True):
    leverage_max: Annotated[
        int,
        Meta(
            ge=1,
            le=150,
            description="Highest leverage; above it the opening is cut. 1: no leverage. 150: no protection.",
        ),
    ]
    max_position_bps: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Largest initial margin of one leg, bps of the allocation. Too small: openings are cut "
            "(max_position). Above 10000: one leg may use more than the allocation.",
        ),
    ]
    max_notional_symbol: Annotated[
        Money,
        Meta(
            description='Largest notional of one instrument, quote asset, decimal string; "0" = none. Too small: '
            "openings are cut (max_notional_symbol)."
        ),
    ] = "0"
    max_notional_total: Annotated[
        Money,
        Meta(
            description='Largest notional of all legs of the plan, quote asset, decimal string; "0" = none. Too '
            "small: openings are cut (max_notional_total)."
        ),
    ] = "0"
    max_open_trades: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Most legs open at a time; 0 = none. Too few: the leader's later positions are not copied.",
        ),
    ] = 0
    max_loss_per_trade_bps: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Largest loss at the known or assumed stop, bps of the allocation; binds only where a stop is "
            "known. Too small: openings are cut (max_loss_per_trade).",
        ),
    ]
    require_stop: Annotated[bool, Meta(description="true: an opening without a known or assumed stop is forgone (no_stop).")] = (
        False
    )
    total_loss_bps: Annotated[
        Bps,
        Meta(
            description="Loss since the plan began (or was last resumed) at which it stops, bps of the allocation, realised and "
            "unrealised at mark; 0 = none. Too small: an ordinary bad week stops it. 0: nothing stops it."
        ),
    ] = 2_000
    daily_loss_bps: Annotated[
        Bps,
        Meta(
            description="Loss since the day's reset at which the plan stops, bps of what it was worth then; 0 = none. A restart "
            "does not reset it. Too small: an ordinary bad day stops it."
        ),
    ] = 500
    leader_drawdown_bps: Annotated[
        Bps,
        Meta(
            description="Fall of the leader's equity from its peak since the plan began at which the plan stops, bps; 0 = none. "
            "His withdrawals do not count."
        ),
    ] = 1_500
    on_loss_stop: Annotated[
        LossPolicy,
        Meta(
            description="What a stop does: close_now (closes what the plan holds, at market) | close_gracefully (openings end, "
            "the leader's reductions are followed until he is flat) | opens_paused (the same, until resumed) | keep (positions "
            "become the follower's own). Each needs a resume by name."
        ),
    ] = "close_now"
    slippage_bps: Annotated[Bps, Meta(description="Worst price against the leader's fill, bps; 0 = by instrument class.")] = 0
    slippage_mid_bps: Annotated[
        Bps, Meta(description="Worst price against the middle of the book, bps; 0 = by instrument class.")
    ] = 0

    @property
    def max_notional_symbol_e8(self) -> int:
        return money_e8(self.max_notional_symbol)

    @property
    def max_notional_total_e8(self) -> int:
        return money_e8(self.max_notional_total)


class RiskPresets(Section, frozen=True, kw_only=True):
    conservative: Annotated[RiskPreset, Meta(description="For followers who would rather miss a trade.")] = RiskPreset(
        leverage_max=3,
        max_position_bps=1_500,
        max_open_trades=5,
        max_loss_per_trade_bps=100,
        total_loss_bps=1_000,
        daily_loss_bps=300,
        leader_drawdown_bps=1_000,
        slippage_bps=30,
        slippage_mid_bps=30,
    )
    balanced: Annotated[RiskPreset, Meta(description="The default set of limits.")] = RiskPreset(
        leverage_max=10, max_position_bps=3_000, max_loss_per_trade_bps=200
    )
    aggressive: Annotated[RiskPreset, Meta(description="For followers who would rather follow than be safe.")] = RiskPreset(
        leverage_max=50,
        max_position_bps=6_000,
        max_loss_per_trade_bps=500,
        total_loss_bps=4_000,
        daily_loss_bps=1_500,
        leader_drawdown_bps=3_000,
        slippage_bps=200,
        slippage_mid_bps=200,
    )

    def of(self, name: str) -> RiskPreset:
        """The preset called ``name``; KeyError for a name that is none."""
        if name not in PRESET_NAMES:
            raise KeyError(name)
        preset: RiskPreset = getattr(self, name)
        return preset


class KycTier(Section, frozen=True, kw_only=True):
    name: Annotated[Name, Meta(description="What the follower record says in its column kyc_tier.")]
    allocation_max: Annotated[
        Money, Meta(description='Most that all plans of such a follower may allocate together; "0" = no limit.')
    ]

    @property
    def allocation_max_e8(self) -> int:
        return money_e8(self.allocation_max)


class KycConfig(Section, frozen=True, kw_only=True):
    """How much a follower may allocate, by how well he is known."""

    tiers: Annotated[tuple[KycTier, ...], Meta(description="Tiers of followers who are verified.")] = ()
    unverified_allocation_max: Annotated[
        Money, Meta(description='The same for followers whose record names no tier; "0" = no limit.')
    ] = "0"

    def allocation_max_e8(self, tier: str) -> int:
        """0 = no limit; KeyError for a tier nobody configured."""
        if not tier:
            return money_e8(self.unverified_allocation_max)
        return {known.name: known.allocation_max_e8 for known in self.tiers}[tier]


class FeesConfig(Section, frozen=True, kw_only=True):
    """What followers pay, settled by `copyd settle`; the daemon itself moves no money."""

    performance_bps: Annotated[
        int,
        Meta(
            ge=0,
            le=5_000,
            description="Leader's share of the gain above the high-water mark on NAV per unit, bps. Takes effect at the next "
            "settlement.",
        ),
    ] = 1_000
    management_bps_per_year: Annotated[
        Bps, Meta(description="Leader's fee on what the plan is worth, bps a year, counted by the day.")
    ] = 0
    management: Annotated[Money, Meta(description="Leader's fixed fee per period, quote asset, counted by the day.")] = "0"
    subscription: Annotated[Money, Meta(description="Subscription per period, quote asset, counted by the day.")] = "0"
    platform_share_bps: Annotated[Bps, Meta(description="The platform's part of the leader's fee, bps.")] = 0
    period: Annotated[
        Literal["weekly", "monthly", "on_close"],
        Meta(description="When the performance fee is charged, apart from withdrawals and stops. Weeks begin on Monday, UTC."),
    ] = "weekly"
    average_guard: Annotated[
        bool, Meta(description="true: charge on the lower of NAV per unit now and its 72 h average.")
    ] = False
    platform_account: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$", description="The account that receives the platform's part.")
    ] = "platform"

    @property
    def management_e8(self) -> int:
        return money_e8(self.management)

    @property
    def subscription_e8(self) -> int:
        return money_e8(self.subscription)


class CredentialSource(Section, frozen=True, kw_only=True):
    """Where keys are read from; exactly one of the three."""

    file: Annotated[
        FilePath | None,
        Meta(
            description="A file of mode 0600 owned by the daemon's user, one JSON object per line with name, key and "
            "secret. A wider mode is refused."
        ),
    ] = None
    credential: Annotated[
        Name | None,
        Meta(description="Or the name of a systemd credential (LoadCredential= in the unit) with the same content."),
    ] = None
    vault: Annotated[
        bool,
        Meta(description="Or true: the sealed keys that `copyd key` keeps beside the journal, opened with keys.kek."),
    ] = False


class TransitConfig(Section, frozen=True, kw_only=True):
    """A key in the transit engine of HashiCorp Vault or OpenBao; it never leaves it."""

    address: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[A-Za-z0-9.\[\]:-]+(/[^\s?#]*)?)?$",
            description="Base of its HTTP interface, https://HOST:8200. Needed with source vault. Away at a start: no key can be "
            "opened and the daemon does not start; a running one goes on.",
        ),
    ] = ""
    transit_key: Annotated[Name, Meta(description="Name of the transit key (type aes256-gcm96).")] = "copyd"
    mount: Annotated[Name, Meta(description="Where the engine is mounted.")] = "transit"
    namespace: Annotated[str, Meta(max_length=256, description="Its namespace, where there are any.")] = ""
    token_file: Annotated[
        str,
        Meta(
            max_length=4096,
            description="File of mode 0600 with a token that may encrypt, decrypt and rewrap by that key, and nothing else.",
        ),
    ] = ""
    token_credential: Annotated[
        Name, Meta(description="Without token_file: the systemd credential that holds the token.")
    ] = "vault-token"
    ca_file: Annotated[
        str, Meta(max_length=4096, description="Certificates that may sign its own; empty: the system's.")
    ] = ""


class KekConfig(Section, frozen=True, kw_only=True):
    """Where a key-encryption key comes from: 32 bytes, raw or in base64, or a key in Vault."""

    source: Annotated[
        Literal["systemd", "file", "vault"],
        Meta(
            description="systemd: a credential of the unit (LoadCredentialEncrypted=, sealed to this machine). file: a file of "
            "mode 0600; whoever copies it and the journal's folder has the keys. vault: the transit engine of HashiCorp "
            "Vault or OpenBao."
        ),
    ] = "systemd"
    credential: Annotated[Name, Meta(description="Name of the systemd credential. With source systemd.")] = "copyd-kek"
    file: Annotated[str, Meta(max_length=4096, description="Path of the file. Needed with source file.")] = ""
    vault: Annotated[TransitConfig, Meta(description="With source vault.")] = TransitConfig()


class KeysConfig(Section, frozen=True, kw_only=True):
    """Sealed keys, and what a key must not be able to do."""

    kek: Annotated[KekConfig, Meta(description="What the keys are sealed with.")] = KekConfig()
    kek_before: Annotated[
        KekConfig | None,
        Meta(
            description="While it is being replaced (`copyd key rotate-kek`): the one before; null = none. Removed too early: "
            "keys it still seals cannot be opened and the daemon does not start."
        ),
    ] = None
    check_interval_s: Annotated[
        int,
        Meta(
            ge=60,
            le=604_800,
            description="Time between two checks of what every sealed key may do, s; the first is made at the start. Too short: "
            "request weight. Too long: a key that was given the right to withdraw is found late.",
        ),
    ] = 21_600
    unbound_notional_cap: Annotated[
        Money,
        Meta(
            description="Most one order may be worth of a key that is bound to no address and was accepted all the same "
            "(--allow-unbound-ip), quote. Too large: such a key stolen is worth stealing."
        ),
    ] = "1000"


class SyncConfig(Section, frozen=True, kw_only=True):
    compare_interval_s: Annotated[
        int,
        Meta(
            ge=5,
            le=86_400,
            description="Time between two looks at one follower's account, s; where something happened it is looked at "
            "at once. Stretched where weight_share_bps affords fewer. Too short: request weight. Too long: a trade by "
            "the follower's own hand that no event told stays unseen for that long.",
        ),
    ] = 300
    weight_share_bps: Annotated[
        Bps,
        Meta(
            description="Share of request_weight_per_min that the looks may use, bps. 0: none, differences are found only "
            "when the venue refuses something. Too large: orders in doubt wait for their answers."
        ),
    ] = 2_500
    policy: Annotated[
        Literal["alert", "pause", "reduce_only", "catch_up"],
        Meta(
            description="What to do where a leg stays away from what its leader holds: alert | pause (the plan opens "
            "nothing) | reduce_only (it follows out, as close-only) | catch_up (what was forgone is opened when it is "
            "cheap). Reductions go on under every policy."
        ),
    ] = "alert"
    enter_bps: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Distance, bps of the allocation, from which a leg is out of sync. Too small: rounding counts. "
            "Too large: followers drift unseen.",
        ),
    ] = 100
    leave_bps: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Distance, bps of the allocation, below which it is in sync again; less than enter_bps, or it "
            "flaps around one edge.",
        ),
    ] = 50
    after_s: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400,
            description="How long a leg must be away before the policy acts, s. Too short: what would settle by itself "
            "is acted on. Too long: it stays away.",
        ),
    ] = 30
    catch_up_interval_s: Annotated[
        int,
        Meta(
            ge=1,
            le=86_400,
            description="Least time between two catch-ups of one leg, s. Too short: fees on every flicker of the book.",
        ),
    ] = 60
    catch_up_cost_bps_max: Annotated[
        Bps,
        Meta(
            description="Most a catch-up may cost, half the spread and the taker fee, bps. Too small: it never happens. "
            "Too large: followers pay more than the distance is worth."
        ),
    ] = 20


class RuntimeConfig(Section, frozen=True, kw_only=True):
    hot_threads: Annotated[
        int,
        Meta(
            ge=1,
            le=2,
            description="Threads that render and sign a fan-out: 2 halves that time where a core is free for the second, and "
            "costs more than it brings where none is.",
        ),
    ] = 1
    announce_legs: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="A leader's execution that at least so many legs follow is announced in a small record of the journal: "
            "first orders leave once that is committed, while the last are still decided. Too small: two records for what one "
            "commit would have carried as fast. Too large: first orders wait for the decision of the last.",
        ),
    ] = 256
    drain_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600,
            description="After SIGTERM, time to settle orders in flight, s. Too short: they are left in doubt for the "
            "next start. Above TimeoutStopSec of the unit: systemd kills it first.",
        ),
    ] = 20
    on_fatal: Annotated[
        Literal["hold", "keep_stops", "flatten"],
        Meta(
            description="What becomes of followers' positions when the daemon has to give up: hold (as they are, the next "
            "start goes on) | keep_stops (as hold; protective orders resting at the venue stay there) | flatten (every "
            "plan is stopped and closed, reduce-only, before the exit, and is resumed by name). flatten cannot act "
            "where the journal failed or a rule of the engine broke: nothing may be sent then, and it holds."
        ),
    ] = "hold"
    loop_stall_max_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=60_000,
            description="Time without a turn of the loop after which /healthz fails and the watchdog is no longer "
            "fed, ms. Too short: a long fan-out counts as a hang. Too long: a hang is found late.",
        ),
    ] = 1_000
    timer_interval_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Time between two timer inputs (staleness, fences, carried quantity), ms. Too short: journal "
            "and CPU. Too long: what waits for time waits longer.",
        ),
    ] = 50


class ControlConfig(Section, frozen=True, kw_only=True):
    socket: Annotated[
        FilePath,
        Meta(
            description="Unix socket of `copyd ctl`; at most 100 characters. Whoever can open it can stop trading and "
            "change plans."
        ),
    ] = "/run/copyd/control.sock"
    socket_mode: Annotated[
        str,
        Meta(
            pattern=r"^0[0-7]{3}$",
            description='Permissions of that socket, octal in quotes; the last digit must be 0. "0600": only the '
            'daemon\'s own user. "0660": its group too.',
        ),
    ] = "0660"


class HealthConfig(Section, frozen=True, kw_only=True):
    enabled: Annotated[bool, Meta(description="Serve /healthz, /livez, /readyz and /metrics.")] = True
    host: Annotated[
        Literal["127.0.0.1", "::1", "localhost"],
        Meta(description="Address to listen on; loopback only, there is no login on it."),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="TCP port; 0 picks a free one and logs it. A taken port stops the start.",
        ),
    ] = 9_464


class TelemetryConfig(Section, frozen=True, kw_only=True):
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="auto: console on a terminal, JSON otherwise (journald, files)."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(
            description="Least severity written. debug: megabytes per minute under load. error: reconnects and "
            "refusals pass unseen."
        ),
    ] = "info"


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    mode: Annotated[
        Literal["simulate", "live"],
        Meta(
            description="simulate: only venues on this machine (`copyd exchange`) are accepted, so no mistake below "
            "can reach real money. live: any venue."
        ),
    ] = "simulate"
    site: Annotated[SiteConfig, Meta(description="This installation.")]
    journal: Annotated[JournalConfig, Meta(description="The write-ahead journal: the truth of what was decided.")] = (
        JournalConfig()
    )
    venues: Annotated[tuple[VenueConfig, ...], Meta(min_length=1, description="Where orders go and leaders are watched.")]
    instruments: Annotated[
        tuple[InstrumentConfig, ...],
        Meta(
            min_length=1,
            description="What may be copied. An instrument not listed here is instrument_not_allowed.",
        ),
    ]
    symbol_mapping: Annotated[
        Literal["auto", "listed"],
        Meta(
            description="How a leader's instrument is found on another venue: auto (the same base and quote asset, both spot or "
            "both perpetual; what `symbols` lists goes before) | listed (only what `symbols` lists)."
        ),
    ] = "auto"
    symbols: Annotated[
        tuple[SymbolConfig, ...],
        Meta(description="Instruments of several venues that are the same thing (config/symbols.yaml shows some)."),
    ] = ()
    instrument_classes: Annotated[InstrumentClasses, Meta(description="Slippage caps by class of instrument.")] = (
        InstrumentClasses()
    )
    leaders: Annotated[tuple[LeaderConfig, ...], Meta(min_length=1, description="Who is copied.")]
    credentials: Annotated[
        tuple[CredentialSource, ...],
        Meta(
            min_length=1,
            description="Where the keys of leaders and followers are read from; a name may occur once.",
        ),
    ]
    keys: Annotated[KeysConfig, Meta(description="The sealed keys of `copyd key`, and what they may do.")] = KeysConfig()
    copy: Annotated[CopyDefaults, Meta(description="Rules of copying, and defaults of plans that leave a field empty.")] = (
        CopyDefaults()
    )
    sync: Annotated[SyncConfig, Meta(description="Followers' accounts against ours, and what stays out of sync.")] = SyncConfig()
    presets: Annotated[RiskPresets, Meta(description="Sets of limits a plan can name; its own fields win.")] = RiskPresets()
    kyc: Annotated[KycConfig, Meta(description="Limits of allocation by verification tier.")] = KycConfig()
    fees: Annotated[FeesConfig, Meta(description="What followers pay; charged by `copyd settle`.")] = FeesConfig()
    runtime: Annotated[RuntimeConfig, Meta(description="The process.")] = RuntimeConfig()
    control: Annotated[ControlConfig, Meta(description="The operators' socket.")] = ControlConfig()
    health: Annotated[HealthConfig, Meta(description="Health and metrics on loopback.")] = HealthConfig()
    telemetry: Annotated[TelemetryConfig, Meta(description="Logs: how they look and how much is said.")] = TelemetryConfig()

    def venue(self, name: str) -> VenueConfig:
        return next(venue for venue in self.venues if venue.name == name)

    def leader(self, leader_id: str) -> LeaderConfig:
        return next(leader for leader in self.leaders if leader.id == leader_id)

    def slippage_of(self, symbol: str) -> InstrumentClassConfig:
        """Default slippage caps of an instrument (its class's row)."""
        for instrument in self.instruments:
            if instrument.symbol == symbol:
                return self.instrument_classes.of(instrument.instrument_class)
        return self.instrument_classes.others


#: Sections a running daemon cannot change; a reload that touches one of them is refused by name.
RESTART_ONLY = (
    "mode",
    "site",
    "journal",
    "venues",
    "instruments",
    "leaders",
    "credentials",
    "keys",
    "control",
    "health",
)


def config_hash(config: Config) -> str:
    """64 hex digits over the effective values: however the file is written, the same values give the same hash."""
    return hashlib.blake2b(msgspec.json.encode(config, order="deterministic"), digest_size=32).hexdigest()


def config_version(config: Config) -> int:
    """The first 63 bits of `config_hash`: the number decisions are recorded with."""
    return int(config_hash(config)[:16], 16) >> 1


def changed_sections(old: Config, new: Config) -> list[str]:
    """Names of the top-level sections that differ."""
    return [name for name in Config.__struct_fields__ if getattr(old, name) != getattr(new, name)]


def restart_needed(old: Config, new: Config) -> list[str]:
    """The changed sections that only a restart can change; empty means a reload may proceed."""
    return [name for name in changed_sections(old, new) if name in RESTART_ONLY]


def json_schema() -> dict[str, Any]:
    """The JSON Schema editors use; generated, so that it cannot differ from what the loader accepts."""
    schema = msgspec.json.schema(Config)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "copyd.yaml", **schema}


def json_schema_text() -> str:
    """`json_schema` as the text of ``config/schema.json``."""
    encoded = msgspec.json.encode(json_schema())
    return msgspec.json.format(encoded, indent=2).decode() + "\n"
