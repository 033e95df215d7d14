# The tables of the engine: one C row per instrument, leader, plan, account, leg, order, ...
#
# Rows, not separate arrays: a fan-out touches nearly every field of a leg, so the walk is sequential.
# Every field is an integer. Units: ticks, lots, Q32 lots (lots << 32), money in 1e-8 of the quote asset ("e8"), nanoseconds.
# copyd/core/rows.py declares the same rows for the readable twin; a test compares sizes and every offset.

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    NONE = 0xFFFFFFFF  # "no row" in any uint32 reference

cdef struct Instrument:
    int64_t value_mul       # notional_e8 = lots * ticks * value_mul // value_div
    int64_t value_div
    int64_t lot_min         # lots
    int64_t lot_max         # lots, limit orders
    int64_t lot_max_market  # lots, market orders
    int64_t min_notional_e8
    int64_t bid             # ticks; 0 = none yet
    int64_t ask
    int64_t mark
    int64_t ts_quote        # ns, when bid/ask were last known good
    int64_t ts_mark         # ns, of the mark when loss limits were last held against it; 0 = never
    int32_t taker_fee_ppm
    int32_t slippage_bps    # default cap of the instrument's class
    uint8_t halted          # kill switch or venue halt: no openings
    uint8_t turbulent       # its mark moves too much to open in
    uint8_t spot            # bought and sold, not held as a position: no short side, no leverage, no reduce-only
    uint8_t clock_off       # this machine's clock disagrees with its venue's: no openings
    uint8_t pad[4]

cdef struct Leader:
    int64_t equity_e8       # latest journaled snapshot; <= 0 = unknown
    int64_t ts_equity       # ns
    int64_t equity_before_e8  # the snapshot before: a fall counts as drawdown when two say so
    int64_t ts_told         # ns, when the latest snapshot was asked for
    int64_t ts_margin_call  # ns, of the venue's last warning to him; 0 = none
    int64_t declared_position_e8   # most one position of his may be worth; 0 = not declared
    uint64_t declared_instruments  # bit i = he declared instrument i
    int32_t declared_leverage      # 0 = not declared
    uint8_t state           # PlanState: active, paused, close only, stopped
    uint8_t killed
    uint8_t eligible
    uint8_t gap             # he was not heard for a while: what he paid in or took out meanwhile is not known

cdef struct LeaderPosition:  # one per (leader, instrument, position side)
    int64_t qty             # lots, signed, the leader's whole quantity
    int32_t leverage
    uint8_t synced          # the fold agrees with what the venue says
    uint8_t instrument      # the one he trades; his followers' legs may stand in its mirror on another venue
    uint8_t pad[2]

cdef struct Plan:
    int64_t allocation_e8
    int64_t amount_e8
    int64_t max_notional_symbol_e8  # 0 = none
    int64_t max_notional_total_e8   # 0 = none
    int64_t multiplier_ppm
    int64_t raise_max_ppm
    int64_t realised_e8             # profit of what was closed, before the three below
    int64_t commission_e8           # paid
    int64_t funding_e8              # received; negative: paid
    int64_t paid_e8                 # left the plan: fees of the leader and the platform
    int64_t loss_base_e8            # profit at the start of the count for the total limit
    int64_t day_pnl_e8              # profit at the reset of the day
    int64_t day_equity_e8           # allocation equity at the reset of the day
    int64_t leader_peak_e8          # the leader's highest equity since the plan began; 0 = not known yet
    uint64_t instruments            # bit i = instrument i allowed
    uint32_t account
    uint32_t leader
    uint32_t version
    uint32_t first_leg              # chain of this plan's legs
    int32_t leverage                # the follower's own
    int32_t leverage_max
    int32_t risk_bps
    int32_t assumed_stop_bps        # 0 = no stop known
    int32_t max_position_bps        # of allocation, initial margin of the leg; 0 = none
    int32_t max_loss_bps            # of allocation at the stop; 0 = none
    int32_t slippage_bps            # 0 = the instrument's
    int32_t slippage_mid_bps        # 0 = the instrument's
    int32_t max_open_trades         # 0 = none
    int32_t total_loss_bps          # of allocation; 0 = no limit
    int32_t daily_loss_bps          # of the allocation equity at the reset; 0 = no limit
    int32_t leader_drawdown_bps     # of the leader's peak; 0 = no limit
    uint8_t mode
    uint8_t ratio_snapshot
    uint8_t min_policy
    uint8_t on_insufficient
    uint8_t require_stop
    uint8_t state
    uint8_t killed
    uint8_t loss_policy             # LossPolicy
    uint8_t stopped_by              # Reason of the loss limit that stopped it, until it is resumed by name; 0 = none
    uint8_t keeping                 # stopped with keep: legs become the follower's own as their orders end
    uint8_t day_pending             # the day's base waits for fresh marks; until then there is no daily limit
    uint8_t pad[5]

cdef struct Account:
    int64_t balance_e8       # wallet balance, last snapshot or wallet event
    int64_t margin_e8        # initial margin of what copyd holds there
    int64_t reserved_e8      # margin held for openings that are not settled
    int64_t ts_window        # ns, start of the order-count window
    int32_t orders_in_window
    uint8_t hedge            # position mode at the venue
    uint8_t pad[3]

cdef struct AccountInstrument:  # dense: account * instruments_max + instrument
    int64_t net              # lots, signed: venue position as we know it, one-way or LONG side
    int64_t net_short        # lots, signed (<= 0): SHORT side in hedge mode
    int64_t unattributed     # part of net that copyd did not open
    int64_t unattributed_short
    int64_t ts_active        # ns, when the position last moved: a look at the venue soon after proves nothing
    int32_t leverage         # actual, at the venue
    uint8_t ready
    uint8_t isolated
    uint8_t pad[2]

cdef struct Leg:
    int64_t target           # Q32, signed: what the leg should hold
    int64_t anchor_target    # Q32: target after the latest change that was no reduction
    int64_t anchor_leader    # lots: leader's quantity at that moment
    int64_t attributed       # lots, signed: confirmed fills
    int64_t pending          # Q32, signed: share of the target that the opening in flight stands for
    int64_t deferred         # Q32, signed: share of the target that waits to be sent
    int64_t deferred_px_q16  # ticks << 16: quantity-weighted leader price of the deferred part
    int64_t deferred_ts      # ns: oldest leader time in the deferred part
    int64_t k                # Q32 follower lots per leader lot; lives until the target is 0
    int64_t k_order          # leader order the ratio was taken at
    int64_t open_leaves      # lots, unsigned: unfilled part of the opening in flight
    int64_t reduce_leaves    # lots, unsigned: unfilled parts of the reductions in flight
    int64_t cost_e8          # entry cost of attributed, unsigned
    int64_t margin_e8        # initial margin of attributed
    int64_t retry_ts         # ns: earliest next attempt of a reduction that came back unfilled; 0 = none
    int64_t ts_open          # ns: when the opening was decided that took the leg from flat; older trades took nothing of it
    int64_t missed           # Q32, signed: forgone since the leader was flat; target + missed is what perfect copying would hold
    uint32_t open_slot       # order in flight, NONE = none
    uint32_t plan
    uint32_t account
    uint32_t next_leg        # next leg of the same plan
    uint32_t leader_position
    uint16_t instrument
    uint8_t side             # position side of the leader's leg: 0 one-way, 1 long, 2 short
    uint8_t detached         # follower touched it or was liquidated: no openings until the leader is flat
    uint8_t attempt          # counts re-sent orders, part of the client order id
    uint8_t replan           # the deferred part is a dead opening planned once more
    uint8_t retries          # back-off exponent of reductions
    uint8_t touched          # by the batch of reports being booked; 0 between steps
    uint32_t dust_q32        # Q32 lots below one that it holds beside attributed, where fees were kept back of what was bought

cdef struct Order:
    uint8_t cid[16]          # client order id, 128 bits, big-endian
    int64_t order_qty        # lots
    int64_t limit_px         # ticks; 0 = market
    int64_t cum_qty          # lots
    int64_t cost_e8          # notional of what is filled
    int64_t exec_qty         # lots booked from trade reports (price and fee known)
    int64_t exec_cost_e8
    int64_t fee_e8
    int64_t reserve_e8       # margin still held for the unfilled part
    int64_t ref_px           # ticks: leader price this order is measured against
    int64_t ts_event         # ns: (oldest) leader time behind it
    int64_t ts_decided       # ns
    int64_t seq              # journal record that names it
    int64_t venue_order_id
    uint32_t leg
    uint32_t account
    uint32_t plan
    int32_t code             # last venue code
    uint16_t instrument
    int8_t side              # +1 buy, -1 sell
    uint8_t kind             # 0 opening, 1 reduction
    uint8_t state
    uint8_t attempt
    uint8_t position_side    # as sent: 0 BOTH, 1 LONG, 2 SHORT
    uint8_t reduce_only
    uint8_t replanned        # second life of a dead opening
    uint8_t estimated        # cost_e8 holds a value nobody told yet: replaced when the venue tells its own
    uint8_t pad[6]

cdef struct Report:
    uint8_t cid[16]
    int64_t cum_qty          # lots
    int64_t cost_e8          # cumulative quote filled, 0 = not told; for BALANCE rows the wallet balance
    int64_t last_qty         # lots of this trade
    int64_t last_px          # ticks of this trade
    int64_t fee_e8
    int64_t trade_id
    int64_t venue_order_id
    int64_t ts_event         # ns
    uint32_t account         # for BALANCE rows
    int32_t code
    uint8_t kind
    uint8_t status
    uint8_t fee_base         # fee_e8 is Q32 lots of the base asset, kept back of what was bought
    uint8_t pad[5]

cdef struct Trade:           # a trade already booked on an order, so that it is booked once
    int64_t trade_id
    uint32_t slot
    uint8_t pad[4]

cdef class Columns:
    cdef Instrument* instruments
    cdef Leader* leaders
    cdef LeaderPosition* positions
    cdef Plan* plans
    cdef Account* accounts
    cdef AccountInstrument* account_instruments
    cdef Leg* legs
    cdef Order* orders
    cdef Trade* trades
    cdef uint32_t counts[9]
    cdef uint32_t capacity[9]
    cdef void* tables[9]
    cdef uint64_t* index          # open addressing: client order id -> half of its hash, slot + 1
    cdef uint32_t index_mask
    cdef uint32_t* trade_index    # open addressing: (slot, trade id) -> row + 1
    cdef uint32_t trade_mask
    cdef uint32_t order_free      # head of the free list, NONE = none
    cdef uint32_t orders_free     # rows on it
    cdef uint32_t* first_order    # by account: its newest linked order, NONE = none
    cdef uint32_t* next_order     # by order: the one linked before it
    cdef uint32_t* fresh          # orders that are in no chain yet
    cdef uint32_t accounts_linked
    cdef uint32_t orders_linked   # capacity of next_order
    cdef uint32_t fresh_count
    cdef uint32_t unindexed       # the newest of them that are in no index yet
    cdef uint32_t fresh_capacity
    cdef bint relink              # every chain is to be made anew
    cdef public int instruments_max
    cdef uint32_t find_order(self, const uint8_t* cid) noexcept nogil
    cdef uint32_t new_order(self, const uint8_t* cid) except? 0xFFFFFFFE nogil
    cdef uint32_t index_fresh(self) except? 0xFFFFFFFE
    cdef bint index_put(self, uint32_t slot) noexcept nogil
    cdef void fetch_index(self, const uint8_t* cid) noexcept nogil
    cdef void fetch_order(self, const uint8_t* cid) noexcept nogil
    cdef int book_trade(self, uint32_t slot, int64_t trade_id) except -1
    cdef _rehash_trades(self)
    cdef _retire_trades(self)
    cdef int _reserve(self, int table, uint32_t rows) except -1 nogil
    cdef uint32_t _reindex(self) noexcept
    cdef uint32_t _rehash(self, uint32_t orders=*) except? 0xFFFFFFFE
    cdef int _link(self) except -1
    cdef int _note_fresh(self, uint32_t slot) except -1 nogil

cdef class ReportBatch:
    cdef Report* rows
    cdef public uint32_t count
    cdef uint32_t capacity
    cdef Report* push(self) except NULL
