"""`copyd run` in which one opening is changed between its decision and its signature, as a mistake elsewhere might do.

``COPYD_TEST_CORRUPT``: field=value for the order row of the first opening that is rendered. The row is put right afterwards: the
books are to show what was decided.
"""

from __future__ import annotations

import os
import sys
from array import array
from typing import Any

from copyd.cli import main
from copyd.core.engine import ORDERS
from copyd.core.rows import OrderRow
from copyd.venue_side import VenueSide

render = VenueSide.render
name, _, value = os.environ["COPYD_TEST_CORRUPT"].partition("=")
todo = [int(value)]


def corrupted(side: VenueSide, slots: array[int]) -> Any:
    """One opening is another while it is signed."""
    openings = [slot for slot in slots if not OrderRow.unpack(side.engine.columns.get(ORDERS, slot)).kind]
    if not todo or not openings:
        return render(side, slots)
    before = bytes(side.engine.columns.get(ORDERS, openings[0]))
    row = OrderRow.unpack(before)
    setattr(row, name, todo.pop())
    side.engine.columns.put(ORDERS, openings[0], row.pack())
    try:
        return render(side, slots)
    finally:
        side.engine.columns.put(ORDERS, openings[0], before)


VenueSide.render = corrupted  # type: ignore[method-assign]
sys.exit(main(sys.argv[1:]))
