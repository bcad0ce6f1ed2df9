"""Liveness: from any state, with faults off, the repairers alone bring every order to a good end."""

from collections.abc import Iterator

from tests.model.processes import STEPS, begin_ending
from tests.model.protocol import events, refund_events
from tests.model.safety import broken_at_end, broken_in_pause, broken_in_state, broken_in_step
from tests.model.transactions import fulfil, settle
from tests.model.world import REPORTS, Order, Path, Process, Rules, World, with_order

# A rule that is broken, and the steps that lead there.
Failure = tuple[str, Path]


class Repair:
    """Runs the repairers from a state to the end, for every outcome of what is still open at Stripe.

    No process runs, every reply arrives, and no customer acts. Webhooks are lost, except those of bank payments.
    Each state is examined once; its result is stored.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = Rules(rules.variant, rules.orders, rules.same_cart, refunds=rules.refunds, faults=False)
        self._results: dict[World, Failure | None] = {}

    @property
    def states(self) -> int:
        return len(self._results)

    def find_failure(self, world: World) -> Failure | None:
        """How a state ends badly, and the path there; None where it always ends well."""
        orders = tuple(order._replace(claimed=False, creation_in_flight=False) for order in world.orders)
        quiet = World(world.stock, world.rival, orders)
        failure = self._examine_once(quiet)
        return failure and (failure[0], (("from here on no process and no fault", quiet), *failure[1]))

    def _examine_once(self, world: World) -> Failure | None:
        if world not in self._results:
            # Until the result is known: reaching the same state again means that nothing has moved.
            self._results[world] = ("the repairers go round in circles", ())
            self._results[world] = self._examine(world)
        return self._results[world]

    def _examine(self, world: World) -> Failure | None:
        if reason := broken_in_state(world):
            return reason, ()
        for label, repaired in self._repairs(world):
            if repaired != world:
                reason = broken_in_step(world, repaired)
                failure = (reason, ()) if reason else self._examine_once(repaired)
                return failure and (failure[0], ((label, repaired), *failure[1]))
        if reason := broken_in_pause(world):
            return reason, ()
        outcomes = list(self._outcomes(world))
        if not outcomes:
            reason = broken_at_end(world)
            return (reason, ()) if reason else None
        for label, after in outcomes:
            if failure := self._examine_once(after):
                return failure[0], ((label, after), *failure[1])
        return None

    def _repairs(self, world: World) -> Iterator[tuple[str, World]]:
        """What each repairer makes of a state: reconcile.reconcile, and sweep.sweep for each kind of due row."""
        for index, order in enumerate(world.orders):
            for number, state in enumerate(order.sessions, 1):
                for report in REPORTS[state]:
                    if self._is_reported(order, state):
                        yield f"reconcile: {report}", settle(world, index, number, report, self._rules)
            if order.hold_ended and (ending := begin_ending(world, index, self._rules)):
                yield "sweep: expiry", self._run_to_end(*ending)
            if order.refunds:
                yield "sweep: refunds", self._run_to_end(world, Process(index, "refund_list"))
            yield "sweep: fulfilment", fulfil(world, index)

    def _is_reported(self, order: Order, state: str) -> bool:
        """Whether reconcile, a fetched event or expiry._recheck reports a session in this state."""
        by_bank = state in ("paid_later", "failed")
        if self._rules.variant == "no_reconcile":
            return by_bank
        return self._rules.variant != "events_not_fetched" or not by_bank or order.payment == "PROCESSING"

    def _run_to_end(self, world: World, process: Process | None) -> World:
        """Run a process to its end: without faults each step has one result."""
        while process:
            ((_, world, process),) = STEPS[process.step](world, process, self._rules)
        return world._replace(orders=tuple(order._replace(claimed=False) for order in world.orders))

    def _outcomes(self, world: World) -> Iterator[tuple[str, World]]:
        """What happens next without the service, once the repairers have nothing to do."""
        for index, order in enumerate(world.orders):
            expected = [
                (label, after)
                for _, label, after in events(world, index, self._rules)
                if label.startswith(("Stripe: the bank payment", "Stripe: pending refund"))
            ]
            if not expected and any((row.status, row.reply) == ("REQUESTED", "error") for row in order.refunds):
                expected = [step[1:] for step in refund_events(world, index, self._rules) if "forgets" in step[1]]
            if expected:
                yield from expected
                return
            if order.status == "PENDING_PAYMENT":
                if not order.hold_ended:
                    yield "clock: hold ended", with_order(world, index, order._replace(hold_ended=True))
                    return
                if order.session_age < 3:
                    ended = tuple("expired" if state == "open" else state for state in order.sessions)
                    after = order._replace(session_age=3, sessions=ended)
                    yield "clock: session over", with_order(world, index, after)
                    return
