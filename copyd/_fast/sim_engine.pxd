"""The simulated exchange's engine: book, accounts and margin of one USD-M style venue, integers only, no clock, no I/O.

The contract for compiled callers (the wire). Python callers see the same in ``sim_engine.pyi``, with the rules spelled out.
Units: ``px`` ticks, ``qty`` lots, ``*_e8`` money in 1e-8 USDT, ``ts`` ns, ``ppm`` parts per million.
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cpdef enum:
    SIDE_BUY = 1
    SIDE_SELL = -1

cpdef enum:
    TYPE_LIMIT = 0
    TYPE_MARKET = 1

cpdef enum:
    TIF_GTC = 0
    TIF_IOC = 1
    TIF_FOK = 2
    TIF_GTX = 3

cpdef enum:
    POS_BOTH = 0
    POS_LONG = 1
    POS_SHORT = 2

cpdef enum:
    STP_NONE = 0
    STP_EXPIRE_TAKER = 1
    STP_EXPIRE_MAKER = 2
    STP_EXPIRE_BOTH = 3

cpdef enum:
    STATUS_NEW = 0
    STATUS_PARTIALLY_FILLED = 1
    STATUS_FILLED = 2
    STATUS_CANCELED = 3
    STATUS_EXPIRED = 4
    STATUS_EXPIRED_IN_MATCH = 5

cpdef enum:
    MARGIN_CROSSED = 0
    MARGIN_ISOLATED = 1

cpdef enum:  # Order.flags
    FLAG_REDUCE_ONLY = 1     # sent with reduceOnly=true
    FLAG_CLOSE_POSITION = 2  # sent with closePosition=true
    FLAG_CLOSING = 4         # may only reduce: reduce-only, close-position, or the closing side of a hedge leg
    FLAG_LIQUIDATION = 8     # made by the engine: client id autoclose-... or adl_autoclose
    FLAG_EPHEMERAL = 16      # of a maker account: no events, forgotten and recycled when done
    FLAG_AMENDED = 32        # changed by modify at least once

cpdef enum:  # Event.kind
    EV_NEW = 1           # order accepted (x=NEW); for MARKET too, before its trades
    EV_TRADE = 2         # one execution of one order (x=TRADE); both sides of a trade have their own
    EV_CANCELED = 3      # x=CANCELED
    EV_EXPIRED = 4       # x=EXPIRED; status EXPIRED or EXPIRED_IN_MATCH
    EV_AMENDED = 5       # x=AMENDMENT
    EV_ACCOUNT = 6       # wallet and one position after a change; reason says why
    EV_PUBLIC_TRADE = 7  # one execution, for the public streams; side is the taker's
    EV_BOOK = 8          # best bid/ask (price or size) of a symbol differs from before the call
    EV_MARK = 9          # mark price changed
    EV_LEVERAGE = 10     # ACCOUNT_CONFIG_UPDATE: leverage of (account, symbol) is now qty
    EV_MARGIN_CALL = 11  # margin ratio above 80 %: one per account and sweep while it lasts

cpdef enum:  # Event.reason of EV_ACCOUNT ("m" of ACCOUNT_UPDATE), and Income.kind
    REASON_ORDER = 1
    REASON_DEPOSIT = 2
    REASON_WITHDRAW = 3
    REASON_FUNDING_FEE = 4
    REASON_INSURANCE_CLEAR = 5
    REASON_MARGIN_TRANSFER = 6   # isolated margin added or removed
    REASON_ADJUSTMENT = 7        # liquidation fee
    REASON_MARGIN_TYPE_CHANGE = 8

cdef struct Order:
    int64_t order_id
    int64_t qty            #: original quantity (after capping a reduce-only one, after modify)
    int64_t cum_qty
    int64_t cum_value_e8   #: sum of px * qty of its executions
    int64_t px             #: limit price; 0 for MARKET
    int64_t ts_new
    int64_t ts_update
    int32_t account
    int32_t slot           #: its own index
    int32_t book_next      #: level queue, -1 = none
    int32_t book_prev
    int32_t open_next      #: open orders of the account
    int32_t open_prev
    int32_t prev_of_account  #: previous order ever of the same account
    uint32_t client_hash
    int16_t symbol
    int8_t side
    int8_t type
    int8_t tif
    int8_t pos_side
    int8_t stp
    int8_t status
    uint8_t flags
    uint8_t client_size
    char[36] client_id     #: not NUL-terminated

cdef struct Trade:
    int64_t trade_id       #: per symbol, from 1, no gaps
    int64_t px
    int64_t qty
    int64_t ts
    int64_t buy_order_id
    int64_t sell_order_id
    int64_t buy_fee_e8
    int64_t sell_fee_e8
    int64_t buy_pnl_e8     #: realised by the buyer in this execution
    int64_t sell_pnl_e8
    int32_t buy_account
    int32_t sell_account
    int32_t prev_of_buyer  #: index of the buyer's previous trade, -1 = none
    int32_t prev_of_seller
    int16_t symbol
    int8_t taker_side      #: SIDE_BUY: the seller was the maker (isBuyerMaker false)
    int8_t buy_pos_side
    int8_t sell_pos_side

cdef struct Event:
    int8_t kind
    int8_t side            #: order side; EV_PUBLIC_TRADE: taker side
    int8_t pos_side        #: EV_ACCOUNT: leg
    int8_t status          #: order status after this event
    int8_t maker           #: EV_TRADE: 1 when this order was the maker
    int8_t reason          #: EV_ACCOUNT
    int16_t symbol
    int32_t account        #: -1 on public events
    int32_t slot           #: order slot, -1 = none
    int64_t ts
    int64_t order_id
    int64_t px             #: EV_TRADE/PUBLIC: last price; EV_BOOK: best bid; EV_MARK: mark
    int64_t qty            #: EV_TRADE/PUBLIC: last quantity; EV_BOOK: bid size; EV_ACCOUNT: position; EV_LEVERAGE: leverage
    int64_t trade_id
    int64_t cum_qty        #: after; EV_BOOK: best ask
    int64_t cum_value_e8   #: after; EV_BOOK: ask size; EV_ACCOUNT: signed entry cost
    int64_t fee_e8
    int64_t pnl_e8         #: EV_TRADE: realised; EV_ACCOUNT: realised by the leg since the engine began
    int64_t wallet_e8      #: EV_ACCOUNT: wallet balance after
    int64_t cross_wallet_e8
    int64_t change_e8      #: EV_ACCOUNT: change except realised P&L and commission ("bc")
    int64_t iso_wallet_e8  #: EV_ACCOUNT: isolated wallet of the leg

cdef struct Leg:           # one position: (account, symbol, pos_side)
    int64_t qty            #: signed lots; the SHORT leg is negative
    int64_t cost_e8        #: signed entry cost: sum of px*qty of what is open, same sign as qty
    int64_t iso_wallet_e8
    int64_t realised_e8    #: since the engine began, without fees
    int64_t ts_update
    int64_t open_buy       #: lots of open orders that may enlarge (not closing)
    int64_t open_sell
    int64_t open_buy_e8    #: their value at their limit prices
    int64_t open_sell_e8

cdef struct Config:        # of (account, symbol)
    int16_t leverage
    int8_t margin_type
    int32_t open_orders    #: all, for MAX_NUM_ORDERS
    int32_t open_closing   #: of them the closing ones
    int64_t cap_e8         #: largest position value at this leverage

cdef struct Account:
    int64_t wallet_e8      #: wallet balance, isolated wallets included
    int64_t iso_total_e8   #: sum of the isolated wallets
    int64_t fees_e8        #: commission paid so far
    int32_t maker_ppm
    int32_t taker_ppm
    int32_t last_order     #: slot, -1 = none
    int32_t last_trade     #: trade index, -1 = none
    int32_t first_open     #: slot of the newest open order, -1 = none
    int32_t open_orders
    int8_t hedge           #: 1 = hedge mode
    int8_t ephemeral
    int8_t no_margin       #: never checked, never liquidated
    int8_t in_call         #: margin call already told

cdef struct Tier:
    int64_t cap_e8         #: notional up to here (inclusive)
    int64_t floor_e8
    int64_t cum_e8         #: maintenance amount
    int32_t mmr_ppm
    int32_t max_leverage

cdef struct Level:
    int64_t px
    int64_t qty
    int32_t head
    int32_t tail
    int32_t count

cdef struct Side:
    Level* levels          #: sorted, best LAST
    int32_t size
    int32_t room

cdef struct Instrument:
    int64_t value_mul      #: notional_e8 = px * qty * value_mul, exact
    int64_t min_px
    int64_t max_px
    int64_t min_qty
    int64_t max_qty
    int64_t market_max_qty
    int64_t min_notional_e8
    int64_t up_ppm         #: PERCENT_PRICE multiplierUp, 1_050_000 = 1.05
    int64_t down_ppm
    int64_t take_bound_ppm  #: marketTakeBound
    int64_t tick_e8        #: tick size in 1e-8 USDT
    int64_t lot_e8         #: lot size in 1e-8 coin
    int64_t liquidation_fee_ppm
    int32_t max_orders
    int32_t max_leverage
    int32_t n_tiers
    int8_t price_precision
    int8_t qty_precision
    Tier[16] tiers
    int64_t mark
    int64_t last_px
    int64_t last_trade_id
    int64_t update_id      #: grows with every change of a level
    int64_t seen_bid       #: top of the book as last told by EV_BOOK
    int64_t seen_bid_qty
    int64_t seen_ask
    int64_t seen_ask_qty
    int64_t logged_bid     #: as last put into the quotes log
    int64_t logged_ask
    int64_t logged_mark
    Side bids
    Side asks
    int32_t dirty_size
    int32_t dirty_room
    int64_t* dirty         #: px of changed levels, sign = side; since the last drain_depth
    int8_t dirty_on

cdef struct Quote:
    int64_t ts
    int64_t bid
    int64_t ask
    int64_t mark
    int16_t symbol

cdef struct Reject:
    int64_t ts
    int64_t qty
    int64_t px
    int32_t account
    int32_t code
    int16_t symbol
    int8_t side
    int8_t type
    int8_t tif
    int8_t pos_side
    uint8_t flags
    uint8_t client_size
    char[36] client_id

cdef struct Income:        # wallet changes that no trade explains
    int64_t ts
    int64_t amount_e8
    int32_t account
    int16_t symbol         #: -1 = none
    int8_t kind            #: REASON_*

cdef struct Chunks:        # append-only log in blocks: no copy when it grows
    char** blocks
    int64_t size
    int32_t n_blocks
    int32_t room
    int32_t item_size

cdef struct Margin:        # of one account at the present marks
    int64_t cross_upnl_e8
    int64_t iso_upnl_e8
    int64_t position_im_e8  #: initial margin of all positions
    int64_t order_im_e8     #: initial margin of open orders, all symbols
    int64_t cross_im_e8     #: position_im of the crossed ones
    int64_t maint_e8        #: maintenance margin, all positions
    int64_t cross_maint_e8
    int64_t available_e8    #: what a new order may use; never below 0 when reported


cdef class Engine:
    cdef readonly int n_symbols
    cdef Instrument* inst
    cdef Account* accounts
    cdef Leg* legs                #: [(account * n_symbols + symbol) * 3 + pos_side]
    cdef Config* configs          #: [account * n_symbols + symbol]
    cdef readonly int32_t n_accounts
    cdef int32_t accounts_room
    cdef Chunks order_log
    cdef Chunks trade_log
    cdef Chunks income_log
    cdef Chunks reject_log
    cdef int32_t free_slot        #: list of recycled maker slots, by book_next
    cdef int64_t ephemeral_ids
    cdef uint64_t* client_table   #: open addressing: hash << 32 | slot + 1, 0 = empty
    cdef int64_t client_room
    cdef int64_t client_used
    cdef Quote* quotes
    cdef int64_t quotes_room
    cdef readonly int64_t n_quotes
    cdef Event* events          #: since the last c_begin; valid until the next call that changes anything
    cdef readonly int n_events
    cdef int events_room
    cdef int64_t fees_total_e8
    cdef int64_t deposits_total_e8
    cdef int64_t funding_residue_e8
    cdef readonly int64_t reject_value  #: number that belongs in the last refusal's message (price ticks, leverage)
    cdef public object specs      #: the instrument specs given to the constructor

    # -- orders: each appends to the event buffer; callers bracket them with c_begin() ... c_end(ts) -------------------
    cdef int32_t c_place(self, int32_t account, int symbol, int side, int type, int tif, int64_t qty, int64_t px,
                         bint reduce_only, bint close_position, int pos_side, const char* client_id, int client_size,
                         int64_t ts, int stp) noexcept nogil
    cdef int c_cancel(self, int32_t account, int32_t slot, int64_t ts) noexcept nogil
    cdef int c_cancel_all(self, int32_t account, int symbol, int64_t ts) noexcept nogil
    cdef int c_modify(self, int32_t account, int32_t slot, int64_t qty, int64_t px, int64_t ts) noexcept nogil
    cdef int c_set_mark(self, int symbol, int64_t px, int64_t ts) noexcept nogil
    cdef void c_begin(self) noexcept nogil
    cdef void c_end(self, int64_t ts) noexcept nogil
    # -- reading -------------------------------------------------------------------------------------------------------
    cdef int32_t c_find_id(self, int32_t account, int symbol, int64_t order_id, int64_t ts) noexcept nogil
    cdef int32_t c_find_client(self, int32_t account, int symbol, const char* client_id, int client_size,
                               int64_t ts) noexcept nogil
    cdef Order* order_ptr(self, int32_t slot) noexcept nogil
    cdef Trade* trade_ptr(self, int64_t index) noexcept nogil
    cdef Leg* leg_ptr(self, int32_t account, int symbol, int pos_side) noexcept nogil
    cdef Config* config_ptr(self, int32_t account, int symbol) noexcept nogil
    cdef void c_margin(self, int32_t account, Margin* out) noexcept nogil
    # -- text to integers: not a number -1100, precision -1111, step -4023, tick -4014, not positive -4003 / -4001 -----
    cdef int64_t c_parse_qty(self, int symbol, const char* text, int size) noexcept nogil
    cdef int64_t c_parse_px(self, int symbol, const char* text, int size) noexcept nogil

    # -- inside: book --------------------------------------------------------------------------------------------------
    cdef Order* new_order(self, int32_t account, int symbol, int side, int type, int tif, int64_t qty, int64_t px,
                          int pos_side, int flags, const char* client_id, int client_size, int64_t ts,
                          int stp) noexcept nogil
    cdef void rest(self, Order* o) noexcept nogil
    cdef void unrest(self, Order* o) noexcept nogil
    cdef void finish(self, Order* o, int status, int64_t ts) noexcept nogil
    cdef void level_changed(self, Instrument* ins, int side, int64_t px) noexcept nogil
    cdef int match(self, Order* taker, int64_t limit, int64_t ts) noexcept nogil
    cdef void execute(self, Order* taker, Order* maker, int64_t qty, int64_t px, int64_t ts) noexcept nogil
    cdef int64_t fillable(self, int32_t account, Instrument* ins, int side, int64_t limit, int64_t need,
                          int stp) noexcept nogil
    cdef void settle(self, Order* o, int self_trade, int64_t ts) noexcept nogil
    cdef void trim_closing(self, int32_t account, int symbol, int64_t ts) noexcept nogil
    cdef int64_t reducible(self, int32_t account, int symbol, int pos_side, int side) noexcept nogil
    cdef void count_open(self, Order* o, int64_t qty) noexcept nogil
    # -- inside: checks ------------------------------------------------------------------------------------------------
    cdef int check_qty(self, Instrument* ins, int64_t qty, bint market) noexcept nogil
    cdef int check_px(self, Instrument* ins, int side, int64_t px) noexcept nogil
    cdef int check_margin(self, int32_t account, int symbol, int pos_side, int side, int64_t qty,
                          int64_t px) noexcept nogil
    cdef int refuse(self, int code, int32_t account, int symbol, int side, int type, int tif, int64_t qty, int64_t px,
                    int pos_side, int flags, const char* client_id, int client_size, int64_t ts) noexcept nogil
    # -- inside: money -------------------------------------------------------------------------------------------------
    cdef int64_t apply_fill(self, Order* o, int64_t qty, int64_t px, int64_t ppm, int64_t ts,
                            int64_t* fee_out) noexcept nogil
    cdef int64_t leg_value(self, Leg* leg, Instrument* ins) noexcept nogil
    cdef int64_t leg_exposure(self, Leg* leg, Instrument* ins, int pos_side) noexcept nogil
    cdef int64_t maintenance(self, Instrument* ins, int64_t notional) noexcept nogil
    cdef int64_t cap_at(self, Instrument* ins, int leverage) noexcept nogil
    cdef void add_wallet(self, int32_t account, int symbol, int pos_side, int64_t amount, int kind,
                         int64_t ts) noexcept nogil
    cdef void move_mark(self, int symbol, int64_t px, int64_t ts) noexcept nogil
    cdef int sweep(self, int symbol, int64_t ts) noexcept nogil
    cdef int sweep_once(self, int symbol, int64_t ts) noexcept nogil
    cdef void liquidate_crossed(self, int32_t account, int64_t ts) noexcept nogil
    cdef void liquidate_leg(self, int32_t account, int symbol, int pos_side, int64_t px, int64_t ts) noexcept nogil
    cdef bint crossed_open(self, int32_t account) noexcept nogil
    cdef int32_t adl_candidate(self, int symbol, int side, int* pos_side) noexcept nogil
    # -- inside: records -----------------------------------------------------------------------------------------------
    cdef Event* emit(self, int kind, int32_t account, int symbol, int64_t ts) noexcept nogil
    cdef void emit_order(self, int kind, Order* o, int64_t ts) noexcept nogil
    cdef void emit_account(self, int32_t account, int symbol, int pos_side, int reason, int64_t change,
                           int64_t ts) noexcept nogil
    cdef int64_t client_place(self, int32_t account, int symbol, const char* client_id, int client_size,
                              uint32_t hash) noexcept nogil
    cdef void client_remember(self, Order* o) noexcept nogil
    cdef void client_grow(self) noexcept nogil
    cdef void grow_accounts(self, int32_t need) noexcept nogil
    cdef int need_account(self, int32_t account) except -1
    cdef int need_symbol(self, int symbol) except -1
    cdef int need_leg(self, int32_t account, int symbol, int pos_side) except -1
    cdef tuple trade_tuple(self, int64_t index)
    cdef tuple income_tuple(self, int64_t index)
