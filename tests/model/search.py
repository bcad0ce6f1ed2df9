"""The search: visits every state that can be reached, nearest first, and reports the first broken rule."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tests.model.protocol import first_world, steps
from tests.model.repair import Repair
from tests.model.safety import broken_in_state, broken_in_step, transitions_between
from tests.model.world import Order, Path, Rules, World

# The status of an order and of its payment.
Statuses = tuple[str, str]


@dataclass(slots=True)
class Result:
    """What a search has found: how much it visited, and the broken rule with the path there, if any."""

    states: int
    transitions: int
    repairs: int
    cpu_seconds: float
    # The transitions of orders that were made.
    order_transitions: set[tuple[str, str]]
    # The changes of an order's statuses, each with the label of the step that made it.
    status_changes: set[tuple[Statuses, Statuses, str]]
    reason: str | None = None
    trace: Path = ()


def explore(rules: Rules) -> Result:
    """Visit every state, nearest first, until one breaks a rule or all are visited."""
    started = time.process_time()
    start = first_world(rules)
    parents: dict[World, World | None] = {start: None}
    queue = deque([start])
    repair = Repair(rules)
    transitions, order_transitions, changes = 0, set(), set()
    reason, trace = None, ()
    while queue and reason is None:
        world = queue.popleft()
        for index, label, after in steps(world, rules):
            transitions += 1
            old, new = world.orders[index], after.orders[index]
            if old is not new and old[:2] != new[:2]:
                changes.add((old[:2], new[:2], label))
            if after in parents:
                continue
            parents[after] = world
            queue.append(after)
            order_transitions |= transitions_between(world, after)
            reason, rest = broken_in_step(world, after) or broken_in_state(after), ()
            if reason is None and (failure := repair.find_failure(after)):
                reason, rest = failure
            if reason:
                trace = (*path_to(after, parents, rules), *rest)
                break
    cpu_seconds = time.process_time() - started
    return Result(
        len(parents), transitions, repair.states, cpu_seconds, order_transitions, changes, reason=reason, trace=trace
    )


def path_to(world: World, parents: dict[World, World | None], rules: Rules) -> Path:
    """The steps from the first state to a visited one."""
    path: list[tuple[str, World]] = []
    while (before := parents[world]) is not None:
        index, label = next((index, label) for index, label, after in steps(before, rules) if after == world)
        path.append((f"order {index + 1}: {label}" if rules.orders > 1 else label, world))
        world = before
    return tuple(reversed(path))


def trace_lines(result: Result, rules: Rules) -> Iterator[str]:
    """The trace of a result, a line for each step with what it changed."""
    before = first_world(rules)
    for number, (label, world) in enumerate(result.trace, 1):
        changes = [
            f"{name} {old!r} -> {new!r}"
            for name, old, new in zip(("stock", "rival"), before[:2], world[:2], strict=True)
            if old != new
        ]
        for old_order, new_order in zip(before.orders, world.orders, strict=True):
            for name, old, new in zip(Order._fields, old_order, new_order, strict=True):
                if old != new:
                    value = [tuple(row) for row in new] if name == "refunds" else repr(new)
                    changes.append(f"{name} = {value}")
        yield f"{number:3}. {label}" + (f"   [{', '.join(changes)}]" if changes else "")
        before = world
    yield f"  => {result.reason}" if result.reason else "  => no rule broken"


def summary(result: Result) -> str:
    """The numbers of a search in a line."""
    return (
        f"{result.states:,} states, {result.transitions:,} transitions, {result.repairs:,} states of repair, "
        f"{result.cpu_seconds:.1f} s of CPU"
    )
