"""A plan that keeps its positions is resumed when its orders have ended, not before (semantics 19)."""

from __future__ import annotations

import pytest

from copyd.errors import OperatorError
from tests.scenarios.language import Runner


def test_not_while_an_order_of_before_the_stop_is_in_doubt() -> None:
    runner = Runner()
    runner.run("""
instrument BTCUSDT
leader L equity 800000
follower F1 allocation 100000 total_loss_bps 100 max_position_bps 0 loss_policy keep

mark 64000
leader buy 1.600 @ 64000
F1 order buy 0.2 limit 64320
F1 trade 0.190 @ 64000
F1 in doubt
mark 58000
F1 stopped total_loss lost 1140 of 1000
""")
    with pytest.raises(OperatorError, match="still has orders"):
        runner.act(["resume", "F1"])
