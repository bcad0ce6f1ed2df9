"""What must always hold: each rule is a query under `sql/audit/` that finds nothing when all is well."""

from dataclasses import dataclass

from service.infra.db import Pool, connection
from service.infra.metrics import AUDIT
from service.infra.statements import Statement, files


@dataclass(slots=True)
class Violation:
    """A row that should not be: what it is about, and what is wrong with it."""

    subject: str
    detail: str


RULES = [Statement(name, Violation) for name in files("audit")]


async def audit(pool: Pool) -> dict[str, list[Violation]]:
    """The violations of each rule by its name, up to 1000 each; exported as gauges too.

    Raises FileNotFoundError without rules: a check of nothing has found nothing out.
    """
    if not RULES:
        raise FileNotFoundError("There is no audit rule.")
    found: dict[str, list[Violation]] = {}
    for rule in RULES:
        async with connection(pool) as reader:
            found[rule.name] = await rule.all(reader)
        AUDIT.labels(rule.name).set(len(found[rule.name]))
    return found
