"""The protocol holds in every state of the model, and the model can tell: it finds what is wrong with broken ones."""

from functools import cache

import pytest

from tests.model.protocol import LEGAL_STEPS, SEARCHES, VARIANTS, Found, broken, explore, readable, summary

# What each broken variant comes to.
FAILURES = {
    "no_status_guard": "a CANCELLED order has a payment that is SUCCEEDED",
    "stock_returned_twice": "a CANCELLED order has -1 units out",
    "late_money_ignored": "money was captured that neither bought anything nor was given back",
    "found_by_stored_session": "an order is pending past its hold",
    "cancel_without_asking": "a session of a cancelled order can be paid",
    "gives_up_at_once": "a session of a cancelled order can be paid",
    "new_key_each_time": "a session of a cancelled order can be paid",
    "stored_failure_is_none": "a session of a cancelled order can be paid",
    "attempt_not_compared": "a session of a cancelled order can be paid",
    "refund_with_new_key": "one refund was made twice",
    "refund_without_list": "one refund was made twice",
    "no_reconcile": "money was captured that neither bought anything nor was given back",
    "events_not_fetched": "money was captured that neither bought anything nor was given back",
}


@cache
def searched(name: str) -> Found:
    """A search, made once."""
    return explore(SEARCHES[name])


@pytest.mark.parametrize("name", SEARCHES)
def test_every_state_is_safe_and_ends_well(name: str) -> None:
    found = searched(name)
    print(f"{name}: {summary(found)}")
    assert found.reason is None, "\n".join(readable(found, SEARCHES[name]))


def test_no_search_is_empty() -> None:
    assert set().union(*(searched(name).taken for name in SEARCHES)) == LEGAL_STEPS


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_broken_variant_is_caught(variant: str) -> None:
    found = explore(broken(variant))
    lines = list(readable(found, broken(variant)))
    print(f"{variant}: {summary(found)}", *lines, sep="\n")
    assert found.reason == FAILURES[variant]
    assert len(lines) == len(found.trace) + 1 > 1
