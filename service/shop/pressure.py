"""Which products are mostly in unpaid holds. Checkout reads it, and gives new holds of such products less time."""

from service.infra.db import connection
from service.infra.metrics import UNITS_ON_HOLD
from service.infra.resources import Resources
from service.infra.sql import statement

# Between two measurements, by whichever worker. checkout/close_cart ignores one that is older than a minute.
SECONDS = 10.0

MEASURE_HOLDS = statement("pressure/measure_holds", float)


async def measure_holds(resources: Resources) -> None:
    """Measure, unless another worker has just done so; the gauge shows the last measurement."""
    async with connection(resources.pool) as writer:
        UNITS_ON_HOLD.set(await MEASURE_HOLDS.one(writer, seconds=SECONDS - 1))
