"""Which keys are kept, and why not."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.vault.policy import Override, Role, gained, judge, sentence
from copyd.venues.common.venue import Rights

GOOD = {"read": True, "trade": True, "moves_funds": (), "ip_bound": True}
OVERRIDE = Override(reason="no fixed address yet", cap_e8=5)


@pytest.mark.parametrize(("more", "role", "reasons", "notes"), [
    ({}, "follower", (), ()),
    ({}, "leader", (), ()),
    ({"moves_funds": ("enableWithdrawals",)}, "follower", ("moves_funds",), ()),
    ({"moves_funds": ("enableWithdrawals",)}, "leader", ("moves_funds",), ()),
    ({"unknown": ("enableTeleport",)}, "follower", ("unknown_right",), ()),
    ({"trade": False}, "follower", ("cannot_trade",), ()),
    ({"trade": False}, "leader", (), ("read_only_ok",)),
    ({"trade": False, "ip_bound": False}, "leader", (), ("read_only_ok",)),
    ({"trade": False, "ip_bound": False}, "follower", ("cannot_trade",), ()),
    ({"ip_bound": False}, "follower", ("ip_not_bound",), ()),
    ({"ip_bound": None}, "follower", ("ip_not_bound",), ()),
    ({"ip_bound": False}, "leader", ("ip_not_bound",), ()),
    ({"read": False}, "leader", ("cannot_read",), ()),
    ({"account_id": "2"}, "follower", ("other_account",), ()),
    ({"account_id": "1"}, "follower", (), ()),
    ({"expires_ms": 50}, "follower", ("expired",), ()),
    ({"expires_ms": 500}, "follower", (), ()),
    ({"moves_funds": ("a", "b"), "unknown": ("c",), "ip_bound": False}, "follower",
     ("moves_funds", "unknown_right", "ip_not_bound"), ()),
])  # fmt: skip
def test_each_reason(more: dict, role: Role, reasons: tuple[str, ...], notes: tuple[str, ...]) -> None:
    """Every reason that holds is named, in one order, and said in a sentence that has the venue's own words."""
    rights = Rights(**{**GOOD, **more})
    verdict = judge(rights, role, account="1", now_ms=100)
    assert (verdict.reasons, verdict.notes, verdict.accepted) == (reasons, notes, not reasons)
    said = sentence(verdict, rights)
    assert all(word in said for word in (*reasons, *rights.moves_funds, *rights.unknown)) and bool(said) is bool(reasons)


def test_an_override_lifts_the_address_alone_and_lowers_the_cap() -> None:
    """``--allow-unbound-ip`` lets an unbound key in under a cap; a bound one is let in without."""
    verdict = judge(Rights(**{**GOOD, "ip_bound": False}), "follower", override=OVERRIDE)
    assert verdict.accepted and verdict.cap_e8 == 5 and verdict.notes == ("unbound_allowed",)
    assert judge(Rights(**GOOD), "follower", override=OVERRIDE).cap_e8 == 0


@given(st.booleans(), st.booleans(), st.sampled_from([True, False, None]), st.sampled_from(["leader", "follower"]), st.booleans(),
       st.tuples(st.booleans(), st.booleans()).filter(any))
def test_nothing_lets_a_key_in_that_moves_funds_or_is_not_understood(read, trade, bound, role, override, bad) -> None:
    """Whatever else holds, and with any override."""
    rights = Rights(
        read=read, trade=trade, ip_bound=bound, moves_funds=("x",) if bad[0] else (), unknown=("y",) if bad[1] else ())
    verdict = judge(rights, role, override=OVERRIDE if override else None)
    assert not verdict.accepted and gained(verdict.reasons)


def test_what_counts_as_a_right_gained() -> None:
    """A key that lost rights stops nothing by itself; one that can do more, or can be used from anywhere, does."""
    more = {"moves_funds", "unknown_right", "ip_not_bound"}
    words = ("moves_funds", "unknown_right", "cannot_read", "cannot_trade", "other_account", "expired", "ip_not_bound")
    for size in range(3):
        for reasons in itertools.combinations(words, size):
            assert gained(reasons) is bool(more & set(reasons))
