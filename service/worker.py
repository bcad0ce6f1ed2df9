"""The worker: jobs that arq delivers, and periodic tasks that need no wake-up."""

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, NamedTuple, cast
from uuid import UUID

import orjson
from arq.worker import Function, Worker, func
from redis.exceptions import RedisError

from service.errors import ShopError
from service.infra import claims, health, logs, metrics, startup
from service.infra.logs import begin_job
from service.infra.metrics import REPAIRED, sampling
from service.infra.queue import QUEUE, QueueReader, open_redis
from service.infra.resources import Resources, open_resources
from service.infra.stripe import StripeRefused, StripeUnknown
from service.settings import Settings
from service.shop import (
    audit,
    deliveries,
    expiry,
    fulfilment,
    pressure,
    reconcile,
    refunds,
    retention,
    search,
    sweep,
)
from service.shop.access import MetricsReaders

# The time limit of a job. It is short: a job whose worker was killed runs again ten seconds after this limit.
JOB_SECONDS = 20
STOP_SECONDS = 10
# A task is late this long after it was due. With Stripe hanging, one batch of the sweep takes less.
LATE_SECONDS = 300
HEARTBEAT_SECONDS = 5
# Beside PERIODIC_TASKS, because it goes on between its runs, which renew the leases.
DELIVERING = "deliver_events"

logger = logging.getLogger(__name__)


class PeriodicTask(NamedTuple):
    """Work that is repeated; `seconds` between two runs.

    With `alone`, one worker at a time runs it. `show` then exports its stored results in every worker.
    """

    seconds: Callable[[Settings], float]
    run: Callable[[Resources], Awaitable[object]]
    alone: bool = False
    show: Callable[[Resources], Awaitable[object]] | None = None


# By their names in Redis. A job is for one order.
JOBS: dict[str, Callable[[Resources, UUID], Awaitable[object]]] = {
    # PAID -> FULFILLED.
    "post_payment_pipeline": fulfilment.fulfil,
    # Cancel an order whose hold has expired.
    "expire_cart_later": expiry.expire,
    # Create an order's refunds at Stripe, and record their status.
    "settle_refunds": refunds.settle,
}

for name in JOBS:
    metrics.JOBS.labels(name, "failed")

# Loops of our own instead of arq's cron jobs, because they must run without Redis. `health` knows them by these names.
PERIODIC_TASKS: dict[str, PeriodicTask] = {
    "sweep": PeriodicTask(lambda settings: settings.sweep_seconds, sweep.sweep),
    "reconcile": PeriodicTask(lambda settings: settings.reconcile_seconds, reconcile.reconcile, alone=True),
    "audit": PeriodicTask(
        lambda settings: audit.SECONDS,
        lambda resources: audit.check_changes(resources.pool),
        alone=True,
        show=lambda resources: audit.export_results(resources.pool),
    ),
    "delete_expired": PeriodicTask(lambda settings: 600, retention.delete_expired),
    "measure_holds": PeriodicTask(lambda settings: pressure.SECONDS, pressure.measure_holds),
    "index_products": PeriodicTask(
        lambda settings: search.INDEX_SECONDS,
        lambda resources: search.index_stale(resources.pool, resources.settings.search_language),
        alone=True,
    ),
}


async def run(settings: Settings) -> None:
    """Run the worker in this process until SIGTERM or SIGINT."""
    settings.refuse_unsafe()
    logs.configure(settings.log_level)
    # Otherwise a full collection walks all objects that the imports created, and blocks the loop for 50 ms.
    gc.collect()
    gc.freeze()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with metrics.serving(settings, MetricsReaders(settings)):
        await work(settings, stopping)


async def work(settings: Settings, stopping: asyncio.Event) -> None:
    """Run jobs and periodic tasks until `stopping` is set; then give running ones STOP_SECONDS to end."""
    async with AsyncExitStack() as stack:
        if settings.otlp_endpoint:
            from service.shop import traces

            stack.enter_context(traces.tracing(settings, "commerce-worker", (sys.modules[__name__], "run_job")))
        resources = await stack.enter_async_context(open_resources(settings, "commerce-worker"))
        await stack.enter_async_context(sampling(resources.sample))
        beat = partial(health.record_heartbeat, resources, health.HEARTBEAT, 3 * HEARTBEAT_SECONDS)
        loops = [
            asyncio.create_task(_serve_jobs(resources, stopping)),
            asyncio.create_task(_repeat(health.HEARTBEAT, beat, HEARTBEAT_SECONDS, stopping)),
        ]
        for name, task in PERIODIC_TASKS.items():
            seconds = task.seconds(settings)
            once = partial(_run_task, resources, name, task, seconds)
            loops.append(asyncio.create_task(_repeat(name, once, seconds, stopping)))
        delivering = await stack.enter_async_context(deliveries.delivering(resources))
        task = PeriodicTask(lambda settings: deliveries.SECONDS, lambda resources: delivering.renew())
        once = partial(_run_task, resources, DELIVERING, task, deliveries.SECONDS)
        loops.append(asyncio.create_task(_repeat(DELIVERING, once, deliveries.SECONDS, stopping)))
        # Beside the tasks: a server that does not answer must not delay them.
        loops.append(asyncio.create_task(startup.report(resources, "worker")))
        try:
            await stopping.wait()
            await asyncio.wait(loops, timeout=STOP_SECONDS)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
    logger.info("worker stopped")


async def _run_task(resources: Resources, name: str, task: PeriodicTask, seconds: float) -> None:
    """Run a task once, then record its heartbeat. A failed run records none, nor does one that another worker has."""
    if not task.alone:
        await _run_once(resources, name, task, seconds)
        return
    try:
        # Less than the interval, so that a worker whose clock ticks a little early does not skip a run.
        async with claims.claimed(resources.pool, name, pause_seconds=0.9 * seconds) as is_ours:
            if is_ours:
                await _run_once(resources, name, task, seconds)
    finally:
        if task.show:
            await task.show(resources)


async def _run_once(resources: Resources, name: str, task: PeriodicTask, seconds: float) -> None:
    await task.run(resources)
    REPAIRED.labels(name).set_to_current_time()
    await health.record_heartbeat(resources, name, seconds + LATE_SECONDS)


async def _repeat(name: str, run: Callable[[], Awaitable[object]], seconds: float, stopping: asyncio.Event) -> None:
    """Run at once, then again after pauses of `seconds`, until stopping. A failed run is logged."""
    while not stopping.is_set():
        begin_job(name)
        try:
            await run()
        except (ShopError, StripeUnknown, StripeRefused) as error:
            logger.warning("periodic task deferred", extra={"task": name, "error": str(error)})
        except Exception:
            logger.exception("periodic task failed", extra={"task": name})
        try:
            await asyncio.wait_for(stopping.wait(), seconds)
        except TimeoutError:
            continue


async def run_job(name: str, resources: Resources, order_id: UUID) -> None:
    """Run one job. The traced worker replaces this."""
    await JOBS[name](resources, order_id)


def _arq_function(name: str) -> Function:
    async def run(context: dict[str, Any], order_id: str) -> None:
        begin_job(name, UUID(order_id))
        started, outcome = time.perf_counter(), "done"
        # If it fails, the order is still due in the tables, where the sweep finds it.
        try:
            await run_job(name, context["resources"], UUID(order_id))
        except (ShopError, StripeUnknown, StripeRefused) as error:
            outcome = "deferred"
            logger.info("job deferred to the sweep", extra={"job": name, "error": str(error)})
        except Exception:
            outcome = "failed"
            logger.exception("job failed and was deferred", extra={"job": name})
        metrics.JOBS.labels(name, outcome).observe(time.perf_counter() - started)

    return func(cast(Any, run), name=name, keep_result=0)


async def _serve_jobs(resources: Resources, stopping: asyncio.Event) -> None:
    """Run jobs until stopping. arq's worker ends when Redis is lost, so it is started again."""
    while not stopping.is_set():
        # A client of its own, because arq closes it.
        redis = open_redis(resources.settings, QueueReader)
        worker = Worker(
            functions=[_arq_function(name) for name in JOBS],
            queue_name=QUEUE,
            redis_pool=redis,
            ctx={"resources": resources},
            handle_signals=False,
            job_timeout=JOB_SECONDS,
            # While there are jobs. Without, QueueReader waits for the next one.
            poll_delay=0.02,
            max_jobs=10,
            # How often arq writes. A demoted Redis refuses writes, and that ends this worker.
            health_check_interval=5,
            job_serializer=orjson.dumps,
            job_deserializer=orjson.loads,
        )
        working = asyncio.create_task(worker.async_run())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        # This cancels running jobs, which stay in the queue for the next worker.
        results = await asyncio.gather(worker.close(), working, return_exceptions=True)
        # `worker.close` stops halfway when Redis does not answer.
        await redis.aclose(close_connection_pool=True)
        for result in results:
            if isinstance(result, Exception):
                logger.warning("redis call failed", extra={"error": repr(result)})
                # The other connections lead to the same server, which may have been demoted. Nobody writes there.
                with suppress(RedisError, OSError):
                    await resources.redis.connection_pool.disconnect()
        if not stopping.is_set():
            await asyncio.sleep(1)
