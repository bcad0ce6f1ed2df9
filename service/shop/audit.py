"""The invariants of the shop: each is a query under `sql/audit/` that returns a row for every violation."""

from dataclasses import dataclass

from service.infra.db import Pool, connection
from service.infra.metrics import AUDIT
from service.infra.statements import Many, files


@dataclass(slots=True)
class Violation:
    """A row that breaks a rule: what it is about, and what is wrong with it."""

    subject: str
    detail: str


RULES = [Many(name, Violation) for name in files("audit")]


async def audit(pool: Pool) -> dict[str, list[Violation]]:
    """The violations by rule, at most 1000 for each. Their numbers are exported as gauges.

    Raises FileNotFoundError without rules, since an audit that checks nothing must not pass.
    """
    if not RULES:
        raise FileNotFoundError("There is no audit rule.")
    violations: dict[str, list[Violation]] = {}
    for rule in RULES:
        async with connection(pool) as reader:
            violations[rule.name] = await rule.all(reader)
        AUDIT.labels(rule.name).set(len(violations[rule.name]))
    return violations
