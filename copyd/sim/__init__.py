"""The simulator: seeded worlds around the production parts, a judge that knows the truth, and histories by the million.

Level A (here): the sans-IO core, exactly as it ships, in a world of virtual time: venue, network, leader, followers,
operator, clock and disk are models driven by named random streams (``draws``). One seed is one history (``run``).
Level B (``wire``): the codecs, adapters and connection managers on a virtual-time event loop with in-memory transports.
Level C (``torture``): the real daemon under kills, power cuts, full and failing disks.
"""
