"""The promises of every session venue, kept for an exchange behind ccxt: orders, their ends, and their doubts."""

from __future__ import annotations

from tests.venues.common.test_orders import (
    test_a_placed_order_is_compared_with_what_the_venue_shows,
    test_an_ioc_that_finds_nothing_ends_without_a_fill,
    test_an_order_that_lived_is_found_whatever_became_of_its_answer,
    test_an_order_that_never_arrived_is_proven_dead_and_not_before_the_fence,
    test_orders_of_many_accounts_fill_as_the_books_say,
    test_unavailable_is_a_definite_refusal_or_a_doubt_that_ends,
    test_what_the_venue_refuses_is_a_definite_end,
)

__all__ = [
    "test_a_placed_order_is_compared_with_what_the_venue_shows",
    "test_an_ioc_that_finds_nothing_ends_without_a_fill",
    "test_an_order_that_lived_is_found_whatever_became_of_its_answer",
    "test_an_order_that_never_arrived_is_proven_dead_and_not_before_the_fence",
    "test_orders_of_many_accounts_fill_as_the_books_say",
    "test_unavailable_is_a_definite_refusal_or_a_doubt_that_ends",
    "test_what_the_venue_refuses_is_a_definite_end",
]
