"""The deterministic machine: synchronous, no I/O, no clock, no randomness, no floats.

      1                 2                3                  4         5
 leader_event → copy_instruction → order  ──venue──▶    fill  →  position
  (1 leader)      (N followers)      ▲                              │
                                     └────── risk ◀─────────────────┘

One file per station holds the noun and its rule for one follower, in plain Python. ``engine`` calls the compiled
kernels that do the same for all followers; a test feeds both and compares every byte.
"""
