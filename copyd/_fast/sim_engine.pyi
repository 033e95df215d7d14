"""The simulated exchange's engine: price-time book, accounts, margin, liquidation of a USD-M style venue. No I/O, no clock.

One `Engine` holds a fixed list of instruments and any number of accounts (index from 0; account 0 is the insurance fund).
Symbols are indexes into the instruments. Time is always the caller's (`ts_ns`, never going back). All values are integers:
`px_ticks`, `qty_lots`, `*_e8` = 1e-8 USDT, `ppm` = parts per million; `notional_e8 = px * qty * value_mul` is exact.

Calls that change something return >= 0 (a slot, a count, or 0) when they did and a venue error code (< 0) when they were
refused and nothing changed. What they caused is in `event_list()` until the next changing call. Compiled callers use the
structs and `c_...` methods of `sim_engine.pxd`; a `c_...` call appends to the event buffer between `c_begin()` and `c_end(ts)`,
so several may share one buffer; the Python methods do both themselves.

Event tuple (also `struct Event`, same order up to the last):
    (kind, account, symbol, slot, side, pos_side, status, maker, reason, ts_ns, order_id, px, qty, trade_id, cum_qty,
     cum_value_e8, fee_e8, pnl_e8, wallet_e8, cross_wallet_e8, change_e8, iso_wallet_e8)
  EV_NEW / EV_CANCELED / EV_EXPIRED / EV_AMENDED   order fields after; accounts marked ephemeral have none
  EV_TRADE         px, qty, trade_id, fee_e8, pnl_e8 of this execution; cum_qty, cum_value_e8, status after it
  EV_ACCOUNT       reason, wallet, cross wallet, change ("bc"), leg (symbol, pos_side): qty, cum_value_e8 = signed entry cost,
                   pnl_e8 = realised so far, iso wallet. symbol -1 when only the wallet changed.
                   One per maker execution; one per taker order, after its trades.
  EV_PUBLIC_TRADE  px, qty, trade_id, side = taker's; account -1
  EV_BOOK          px = bid, qty = bid size, cum_qty = ask, cum_value_e8 = ask size (0 = side empty); last in a call
  EV_MARK          px = mark
  EV_LEVERAGE      qty = leverage
  EV_MARGIN_CALL   wallet, cross wallet

Order tuple (`order(slot)`; `struct Order`):
    (slot, order_id, account, symbol, client_id: bytes, side, pos_side, type, tif, stp, status, flags, qty, px, cum_qty,
     cum_value_e8, ts_new, ts_update)

Trade tuple:
    (index, trade_id, symbol, px, qty, ts_ns, taker_side, buy_account, buy_order_id, buy_fee_e8, buy_pnl_e8, buy_pos_side,
     sell_account, sell_order_id, sell_fee_e8, sell_pnl_e8, sell_pos_side)
"""

from collections.abc import Sequence
from typing import Any, Protocol

from typing_extensions import disjoint_base

SIDE_BUY: int  # 1
SIDE_SELL: int  # -1
TYPE_LIMIT: int  # 0
TYPE_MARKET: int  # 1
TIF_GTC: int  # 0
TIF_IOC: int
TIF_FOK: int
TIF_GTX: int
POS_BOTH: int  # 0
POS_LONG: int
POS_SHORT: int
STP_NONE: int  # 0
STP_EXPIRE_TAKER: int
STP_EXPIRE_MAKER: int
STP_EXPIRE_BOTH: int
STATUS_NEW: int  # 0
STATUS_PARTIALLY_FILLED: int
STATUS_FILLED: int
STATUS_CANCELED: int
STATUS_EXPIRED: int
STATUS_EXPIRED_IN_MATCH: int
MARGIN_CROSSED: int  # 0
MARGIN_ISOLATED: int
FLAG_REDUCE_ONLY: int
FLAG_CLOSE_POSITION: int
FLAG_CLOSING: int
FLAG_LIQUIDATION: int
FLAG_EPHEMERAL: int
FLAG_AMENDED: int
EV_NEW: int
EV_TRADE: int
EV_CANCELED: int
EV_EXPIRED: int
EV_AMENDED: int
EV_ACCOUNT: int
EV_PUBLIC_TRADE: int
EV_BOOK: int
EV_MARK: int
EV_LEVERAGE: int
EV_MARGIN_CALL: int
REASON_ORDER: int
REASON_DEPOSIT: int
REASON_WITHDRAW: int
REASON_FUNDING_FEE: int
REASON_INSURANCE_CLEAR: int
REASON_MARGIN_TRANSFER: int
REASON_ADJUSTMENT: int
REASON_MARGIN_TYPE_CHANGE: int

INSURANCE_ACCOUNT: int  # 0
ORDER_ID_BASE: int  # order_id of a kept order = ORDER_ID_BASE + slot
EPHEMERAL_ID_BASE: int  # order ids of maker accounts start here

class _TierSpec(Protocol):
    """One leverage bracket."""

    @property
    def cap_e8(self) -> int: ...
    @property
    def floor_e8(self) -> int: ...
    @property
    def cum_e8(self) -> int: ...
    @property
    def mmr_ppm(self) -> int: ...
    @property
    def max_leverage(self) -> int: ...

class _InstrumentSpec(Protocol):
    """What the engine reads of an instrument (`copyd.exchange.model.Instrument` has it)."""

    @property
    def symbol(self) -> str: ...
    @property
    def value_mul(self) -> int: ...
    @property
    def tick_e8(self) -> int: ...
    @property
    def lot_e8(self) -> int: ...
    @property
    def price_precision(self) -> int: ...
    @property
    def qty_precision(self) -> int: ...
    @property
    def min_px(self) -> int: ...
    @property
    def max_px(self) -> int: ...
    @property
    def min_qty(self) -> int: ...
    @property
    def max_qty(self) -> int: ...
    @property
    def market_max_qty(self) -> int: ...
    @property
    def min_notional_e8(self) -> int: ...
    @property
    def up_ppm(self) -> int: ...
    @property
    def down_ppm(self) -> int: ...
    @property
    def take_bound_ppm(self) -> int: ...
    @property
    def liquidation_fee_ppm(self) -> int: ...
    @property
    def max_orders(self) -> int: ...
    @property
    def start_px(self) -> int: ...
    @property
    def tiers(self) -> Sequence[_TierSpec]: ...

@disjoint_base
class Engine:
    specs: Any
    n_symbols: int
    n_accounts: int
    n_events: int
    n_quotes: int
    reject_value: int

    def __new__(
        cls,
        instruments: Sequence[_InstrumentSpec],
        *,
        expected_orders: int = 65536,
        quotes_room: int = 200_000,
        insurance_e8: int = 10**14,
    ) -> Engine: ...

    # -- accounts ---------------------------------------------------------------------------------------------------------
    def add_account(
        self,
        balance_e8: int = 0,
        *,
        ephemeral: bool = False,
        no_margin: bool = False,
        maker_ppm: int = 200,
        taker_ppm: int = 500,
        ts_ns: int = 0,
    ) -> int:
        """A new account (one-way mode, crossed, leverage 20): its index. `ephemeral` marks a market maker's account."""

    def add_accounts(self, n: int, balance_e8: int = 0, *, maker_ppm: int = 200, taker_ppm: int = 500, ts_ns: int = 0) -> int:
        """`n` accounts at consecutive indexes: the first index."""

    def set_fees(self, account: int, maker_ppm: int, taker_ppm: int) -> None: ...
    def transfer(self, account: int, amount_e8: int, ts_ns: int) -> int:
        """Deposit (> 0) or withdraw (< 0): 0, or -5013 when more than the available balance is withdrawn."""

    def set_position_mode(self, account: int, hedge: bool, ts_ns: int) -> int:
        """0; -4059 no change, -4067 open orders, -4068 open position."""

    def set_margin_type(self, account: int, symbol: int, margin_type: int, ts_ns: int) -> int:
        """0; -4046 no change, -4047 open orders, -4048 open position."""

    def set_leverage(self, account: int, symbol: int, leverage: int, ts_ns: int) -> int:
        """0; -4028 not valid, -2027 position above the bracket's cap, -2028 margin does not cover it, -4161 isolated with
        a position cannot go down."""

    def move_isolated_margin(self, account: int, symbol: int, pos_side: int, amount_e8: int, ts_ns: int) -> int:
        """Add (> 0) or take (< 0) margin of an isolated position: 0; -4054 no position or crossed, -4051 / -4050 balance."""

    def is_hedge(self, account: int) -> bool: ...
    def account_config(self, account: int, symbol: int) -> tuple[int, int, int]:
        """(leverage, margin_type, open orders)"""

    def max_notional_e8(self, symbol: int, leverage: int) -> int:
        """Largest position value allowed at this leverage."""

    def account_state(self, account: int) -> tuple[int, int, int, int, int, int, int, int, int, int]:
        """(wallet, cross_wallet, cross_upnl, iso_upnl, position_im, order_im, maint, cross_im, available, fees paid), e8."""

    def position(self, account: int, symbol: int, pos_side: int) -> tuple[int, int, int, int, int, int, int]:
        """(qty_lots signed, cost_e8 signed, iso_wallet_e8, realised_e8, ts_update_ns, upnl_e8 at mark, liquidation px ticks
        or 0). Entry price = cost_e8 / (qty * value_mul) ticks."""

    def position_margins(self, account: int, symbol: int, pos_side: int) -> tuple[int, int, int, int]:
        """(notional_e8 signed at mark, position initial margin, open-order initial margin of the symbol, maintenance)"""

    # -- orders -----------------------------------------------------------------------------------------------------------
    def place(
        self,
        account: int,
        symbol: int,
        side: int,
        type: int,
        tif: int,
        qty_lots: int,
        px_ticks: int,
        reduce_only: bool,
        close_position: bool,
        position_side: int,
        client_id: bytes,
        ts_ns: int,
        stp_mode: int = ...,
    ) -> int:
        """Check, match, rest: the order's slot (>= 0) or an error code. Default STP is EXPIRE_MAKER.

        Refusals in the order they are tried: -1121 symbol, -1117 side, -1116 type, -1115 tif, -4015 client id,
        -4061 position side, -1106 reduceOnly in hedge mode, -4116 duplicate open client id, -4003 / -4004 / -4005 quantity,
        -4001 / -4013 / -4002 / -4016 / -4024 price, -4131 market price, -2022 would not reduce, -4164 notional, -2025 open
        orders, -2027 bracket, -2019 margin, -5022 GTX, -5021 FOK. A reduce-only order larger than the position is
        capped to it (its qty is the capped one); a hedge leg's closing order larger than the leg is -2022.
        An empty client id is replaced by a generated one.
        """

    def cancel(self, account: int, slot: int, ts_ns: int) -> int:
        """0, or -2011 when it is not this account's or not open."""

    def cancel_all(self, account: int, symbol: int, ts_ns: int) -> int:
        """Cancel the account's open orders of the symbol (-1 = all): how many."""

    def modify(self, account: int, slot: int, qty_lots: int, px_ticks: int, ts_ns: int) -> int:
        """New quantity and price of an open LIMIT order: 0 or a code (-2013 not open, -5027 nothing to change, filters,
        margin); a refused change leaves the order as it is. Queue place is kept only when the price stays and the quantity
        does not grow. Cancelled by it: new quantity <= executed, or a GTX order that would now take."""

    def find_order(self, account: int, symbol: int, order_id: int, ts_ns: int) -> int:
        """Slot, or -2013. Unfilled cancelled/expired orders are gone after 3 days, everything else after 90."""

    def find_client(self, account: int, symbol: int, client_id: bytes, ts_ns: int) -> int:
        """Slot of the latest order with this client id, or -2013 (same rule of age)."""

    def order(
        self, slot: int
    ) -> tuple[int, int, int, int, bytes, int, int, int, int, int, int, int, int, int, int, int, int, int]: ...
    def open_orders(self, account: int, symbol: int = -1) -> list[int]:
        """Slots, oldest first."""

    def orders_of(
        self, account: int, symbol: int = -1, limit: int = 500, before_slot: int = -1, since_ns: int = 0
    ) -> list[int]:
        """Slots of the newest `limit` orders (below `before_slot` when >= 0), oldest first.

        `since_ns`: those made before it may be left out, which saves reading a long history.
        """

    def trades_of(
        self, account: int, symbol: int = -1, limit: int = 500, from_index: int = 0, since_ns: int = 0,
        first_id: int = 0,
    ) -> list[tuple[int, ...]]:
        """The account's newest `limit` trades with index >= from_index, oldest first; `since_ns` as above.

        `first_id`: with a symbol, trades of a smaller trade id are left out.
        """

    def parse_qty(self, symbol: int, text: bytes) -> int:
        """Lots of a decimal text, or -1100 not a number, -1111 too many digits, -4003 not positive, -4023 not on the step."""

    def parse_px(self, symbol: int, text: bytes) -> int:
        """Ticks of a decimal text, or -1100, -1111, -4001 not positive, -4014 not on the tick."""

    # -- market -----------------------------------------------------------------------------------------------------------
    def top(self, symbol: int) -> tuple[int, int, int, int]:
        """(bid px, bid qty, ask px, ask qty), 0 where a side is empty."""

    def depth(self, symbol: int, limit: int = 100) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
        """(last update id, bids, asks), best first, each (px, qty)."""

    def watch_depth(self, symbol: int, on: bool = True) -> None:
        """Start or stop remembering changed levels for `drain_depth`."""

    def drain_depth(self, symbol: int) -> tuple[int, list[tuple[int, int]], list[tuple[int, int]]]:
        """(last update id, changed bids, changed asks) since the last drain, qty 0 = level gone."""

    def mark(self, symbol: int) -> int: ...
    def last_price(self, symbol: int) -> int: ...
    def set_mark(self, symbol: int, px_ticks: int, ts_ns: int) -> int:
        """Set the mark price, then liquidate what it leaves below maintenance margin: number of accounts liquidated."""

    def apply_funding(self, symbol: int, rate_e8: int, ts_ns: int) -> int:
        """Longs pay shorts qty * mark * rate (rate in 1e-8; may be negative): accounts touched."""

    # -- what happened ----------------------------------------------------------------------------------------------------
    def event_list(self) -> list[tuple[int, ...]]:
        """Of the last changing call."""

    # -- truth ------------------------------------------------------------------------------------------------------------
    def n_orders(self) -> int:
        """Slots used so far (maker slots included)."""

    def n_trades(self) -> int: ...
    def n_rejects(self) -> int: ...
    def orders_after(self, slot: int, limit: int = 1000) -> list[tuple[Any, ...]]:
        """Kept orders with a slot > `slot`, in order of acceptance (makers' orders are not kept)."""

    def trades_after(self, index: int, limit: int = 1000) -> list[tuple[int, ...]]:
        """Trades with an index > `index` (first index 0)."""

    def quotes_after(self, seq: int, limit: int = 1000) -> list[tuple[int, int, int, int, int, int]]:
        """(seq, ts_ns, symbol, bid, ask, mark) with seq > `seq`; bounded: the oldest of the last `quotes_room` may be gone."""

    def rejects_after(self, index: int, limit: int = 1000) -> list[tuple[Any, ...]]:
        """(index, ts_ns, account, symbol, code, client_id, side, pos_side, type, tif, flags, qty, px) of refused orders."""

    def incomes_after(self, index: int, limit: int = 1000) -> list[tuple[int, int, int, int, int, int]]:
        """(index, ts_ns, account, symbol or -1, REASON_*, amount_e8): deposits, funding, insurance, liquidation fees."""

    def incomes_of(self, account: int, limit: int = 1000) -> list[tuple[int, int, int, int, int, int]]:
        """The same of one account, oldest first (walks the whole log)."""

    def totals(self) -> tuple[int, int, int, int]:
        """(sum of wallets - signed entry costs, fees collected, funding residue, deposits), e8: the first three add up to
        the last, exactly, always."""

    def memory_bytes(self) -> int:
        """Bytes the engine has allocated."""
