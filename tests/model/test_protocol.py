"""The protocol holds in every state of the model, and the model catches every broken variant of it."""

from functools import cache

import pytest

from tests.model.picture import drawn_picture, picture
from tests.model.search import Result, explore, summary, trace_lines
from tests.model.searches import SEARCHES, VARIANTS, search_for
from tests.model.world import LEGAL_TRANSITIONS

# The rule that each broken variant breaks first.
FAILURES = {
    "no_status_guard": "a CANCELLED order has a payment that is SUCCEEDED",
    "stock_returned_twice": "a CANCELLED order has -1 units out",
    "late_money_ignored": "captured money bought nothing and was not refunded",
    "found_by_stored_session": "an order is pending past its hold",
    "cancel_without_asking": "a session of a cancelled order can be paid",
    "gives_up_at_once": "a session of a cancelled order can be paid",
    "new_key_each_time": "a session of a cancelled order can be paid",
    "stored_failure_is_none": "a session of a cancelled order can be paid",
    "attempt_not_compared": "a session of a cancelled order can be paid",
    "refund_with_new_key": "one refund was made twice",
    "refund_without_list": "one refund was made twice",
    "no_reconcile": "captured money bought nothing and was not refunded",
    "events_not_fetched": "captured money bought nothing and was not refunded",
}


@cache
def search_once(name: str) -> Result:
    return explore(SEARCHES[name])


@pytest.mark.parametrize("name", SEARCHES)
def test_every_state_is_safe_and_ends_well(name: str) -> None:
    result = search_once(name)

    print(f"{name}: {summary(result)}")
    assert result.reason is None, "\n".join(trace_lines(result, SEARCHES[name]))


def test_the_searches_make_every_legal_transition() -> None:
    assert set().union(*(search_once(name).order_transitions for name in SEARCHES)) == LEGAL_TRANSITIONS


def test_the_picture_shows_the_states_of_the_model() -> None:
    """`python -m tests.model --picture` draws it anew."""
    assert drawn_picture() == picture(search_once(name) for name in SEARCHES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_broken_variant_is_caught(variant: str) -> None:
    rules = search_for(variant)

    result = explore(rules)

    lines = list(trace_lines(result, rules))
    print(f"{variant}: {summary(result)}", *lines, sep="\n")
    assert result.reason == FAILURES[variant]
    assert len(lines) == len(result.trace) + 1 > 1
