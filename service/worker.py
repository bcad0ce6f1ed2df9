"""The worker: jobs that arq brings, and the repairers that need nobody to wake them."""

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast
from uuid import UUID

import orjson
from arq.worker import Worker, func

from service.errors import ShopError
from service.infra import health, logs, metrics
from service.infra.logs import cause
from service.infra.metrics import REPAIRED
from service.infra.queue import QUEUE, open_redis
from service.infra.resources import Resources, open_resources
from service.infra.stripe import StripeRefused, StripeUnknown
from service.settings import Settings
from service.shop import audit, expiry, fulfilment, reconcile, refunds, retention, sweep

# A job killed with its worker runs again only after this and ten seconds more, so it is short.
JOB_SECONDS = 20
STOP_SECONDS = 10
TIDY_SECONDS = 600
# It reads the tables whole.
AUDIT_SECONDS = 300
# A repairer that takes longer is late: with Stripe hanging, a batch of the sweep takes less.
LATE_SECONDS = 300
BEAT_SECONDS = 5

Work = Callable[[], Awaitable[object]]

logger = logging.getLogger(__name__)


async def post_payment_pipeline(context: dict[str, Any], order_id: str) -> None:
    """PAID -> FULFILLED."""
    await _job("post_payment_pipeline", lambda: fulfilment.fulfil(context["resources"], UUID(order_id)))


async def expire_cart_later(context: dict[str, Any], order_id: str) -> None:
    """Cancel an order whose hold has ended."""
    await _job("expire_cart_later", lambda: expiry.expire(context["resources"], UUID(order_id)))


async def settle_refunds(context: dict[str, Any], order_id: str) -> None:
    """Take an order's refunds to Stripe, or over from there."""
    await _job("settle_refunds", lambda: refunds.settle(context["resources"], UUID(order_id)))


async def _job(name: str, work: Work) -> None:
    """Run a job once; whatever it could not do is due in the tables, and the sweep comes for it."""
    cause.set(f"job {name}")
    try:
        await work()
    except (ShopError, StripeUnknown, StripeRefused) as error:
        logger.info("left to the sweep", extra={"job": name, "error": str(error)})


async def run(settings: Settings) -> None:
    """`work` as a process: until SIGTERM or SIGINT."""
    settings.refuse_unsafe()
    logs.configure(settings.log_level)
    # As the API does.
    gc.collect()
    gc.freeze()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with metrics.serving(settings):
        await work(settings, stopping)


async def work(settings: Settings, stopping: asyncio.Event) -> None:
    """Run jobs and repairers until `stopping`, then finish or hand back what is in hand."""
    async with open_resources(settings, "commerce-worker") as resources:
        # Repairers as plain loops and not as arq's cron: they must run when Redis does not.
        repairers: dict[str, tuple[float, Work]] = {
            "sweep": (settings.sweep_seconds, lambda: sweep.sweep(resources)),
            "reconcile": (settings.reconcile_seconds, lambda: reconcile.reconcile(resources)),
            "audit": (AUDIT_SECONDS, lambda: audit.audit(resources.pool)),
            "tidy": (TIDY_SECONDS, lambda: retention.delete_expired(resources)),
        }
        turns: list[tuple[float, Work]] = [
            *(
                (seconds, partial(_repair, resources, name, seconds, work))
                for name, (seconds, work) in repairers.items()
            ),
            (BEAT_SECONDS, lambda: health.beat(resources, health.HEARTBEAT, 3 * BEAT_SECONDS)),
        ]
        loops = [
            *(asyncio.create_task(_every(seconds, stopping, work)) for seconds, work in turns),
            asyncio.create_task(_serve_jobs(resources, stopping)),
        ]
        logger.info("worker started")
        try:
            await stopping.wait()
            await asyncio.wait(loops, timeout=STOP_SECONDS)
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
    logger.info("worker stopped")


async def _repair(resources: Resources, name: str, seconds: float, work: Work) -> None:
    """One turn of a repairer, then its sign of life; a turn that fails gives none."""
    await work()
    REPAIRED.labels(name).set_to_current_time()
    await health.beat(resources, name, seconds + LATE_SECONDS)


async def _every(seconds: float, stopping: asyncio.Event, work: Work) -> None:
    """Run `work` now and every `seconds`, whatever becomes of it, until stopping."""
    while not stopping.is_set():
        try:
            await work()
        except (ShopError, StripeUnknown, StripeRefused) as error:
            logger.warning("put off", extra={"error": str(error)})
        except Exception:
            logger.exception("a repairer failed")
        try:
            await asyncio.wait_for(stopping.wait(), seconds)
        except TimeoutError:
            continue


async def _serve_jobs(resources: Resources, stopping: asyncio.Event) -> None:
    """Run jobs as they come, until stopping; arq's worker ends when Redis goes, so it is started again."""
    while not stopping.is_set():
        # One of its own: arq closes the client that it is given.
        redis = open_redis(resources.settings)
        worker = Worker(
            functions=[
                func(cast(Any, job), name=job.__name__, keep_result=0)
                for job in (post_payment_pipeline, expire_cart_later, settle_refunds)
            ],
            queue_name=QUEUE,
            redis_pool=redis,
            ctx={"resources": resources},
            handle_signals=False,
            job_timeout=JOB_SECONDS,
            # What is woken waits for half of it. Asking Redis so often takes 2 % of a core; 0.1 s made a purchase three
            # times as long.
            poll_delay=0.02,
            max_jobs=10,
            # How often it writes. A demoted Redis, which nothing is queued in any more, shows itself by refusing that.
            health_check_interval=5,
            job_serializer=orjson.dumps,
            job_deserializer=orjson.loads,
        )
        working = asyncio.create_task(worker.async_run())
        ending = asyncio.create_task(stopping.wait())
        await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        # Jobs still running are cancelled by this and stay in the queue for the next worker.
        ended = await asyncio.gather(worker.close(), working, return_exceptions=True)
        # Again, as closing stops short where Redis does not answer.
        await redis.aclose(close_connection_pool=True)
        for error in ended:
            if isinstance(error, Exception):
                logger.warning("redis call failed", extra={"error": repr(error)})
        if not stopping.is_set():
            await asyncio.sleep(1)
