"""The scenarios: each breaks something of a stage under load, and reports the outcome."""

import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGQUIT, Signals
from statistics import mean, median, quantiles
from typing import Any
from uuid import UUID, uuid4

import redis.asyncio

from tests.client import eventually
from tests.faults.attack import FLOODS
from tests.faults.load import Json, Load, settle
from tests.faults.proxy import Proxy, When, anything, calls, statements
from tests.faults.stage import SETTINGS, Stage
from tests.queries import on

ROOT = Path(__file__).parents[2]


@dataclass
class Outcome:
    """What a scenario did and found; `lost_writes`, `violations` and `unexpected` are empty when it passes."""

    times: str
    acknowledged: int
    lost_writes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    # Answers, and errors in the logs.
    unexpected: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def clean(self) -> bool:
        return not (self.lost_writes or self.violations or self.unexpected)


class Trial:
    """A load, the recovery times under it, and the outcome."""

    def __init__(self, stage: Stage, load: Load) -> None:
        self.stage, self.load = stage, load
        self.recoveries: list[float] = []
        self.outcome = Outcome("", 0)

    async def wait_for_recovery(self, start: float) -> None:
        """Record the seconds from `start` until a purchase that begins now is fulfilled."""
        await self.load.buy()
        self.recoveries.append(time.monotonic() - start)


@asynccontextmanager
async def under_load(stage: Stage, times: str, **options: Any) -> AsyncIterator[Trial]:
    """A load around a fault; the trial has its outcome when the block has ended."""
    async with Load(stage, **options) as load:
        trial = Trial(stage, load)
        yield trial
    ledger = load.ledger
    lost_writes, violations = await settle(stage, ledger)
    unexpected = [*ledger.unexpected, *stage.new_errors()]
    trial.outcome = Outcome(times, ledger.acknowledged, lost_writes, violations, unexpected, trial.recoveries)


async def kill(stage: Stage, name: str, times: int, number: Signals = SIGKILL) -> Outcome:
    """A process is killed, and a supervisor starts it again."""
    async with under_load(stage, str(times)) as trial:
        for _ in range(times):
            await trial.load.wait_for_traffic()
            start = time.monotonic()
            stage.signal(name, number)
            await stage.revive(name)
            await trial.wait_for_recovery(start)
    return trial.outcome


async def freeze(stage: Stage, name: str, seconds: list[float]) -> Outcome:
    """A process and its children are frozen for some seconds, and go on."""
    async with under_load(stage, f"{', '.join(map(str, seconds))} s") as trial:
        for duration in seconds:
            await trial.load.wait_for_traffic()
            stage.freeze(name)
            await asyncio.sleep(duration)
            stage.thaw(name)
            await trial.wait_for_recovery(time.monotonic())
    trial.outcome.note = f"the slowest answer took {trial.load.ledger.slowest:.1f} s"
    return trial.outcome


async def wipe(stage: Stage, times: int) -> Outcome:
    """Valkey loses all its data."""
    async with (
        under_load(stage, str(times)) as trial,
        redis.asyncio.Redis.from_url(stage.settings["REDIS_URL"]) as valkey,
    ):
        for _ in range(times):
            await trial.load.wait_for_traffic()
            start = time.monotonic()
            await valkey.flushall()
            await trial.wait_for_recovery(start)
    return trial.outcome


CREATE = {"method": "POST", "path": "/v1/checkout/session[s]"}
STRIPE: dict[str, list[Json]] = {
    "refuses": [{"action": "status", "status": 402, **CREATE}],
    "hangs": [{"action": "hang"}],
    "answers 500 after the effect": [{"action": "status_after"}],
    "answers 500, and no effect": [{"action": "status"}],
    "says half of it": [{"action": "malformed"}],
    "drops the connection": [{"action": "drop"}],
    "drops it after the effect": [{"action": "drop_after"}],
}


async def stripe(stage: Stage, seconds: float) -> Outcome:
    """Each failure of Stripe for some seconds; at last Stripe is down."""

    async def set_faults(faults: list[Json]) -> None:
        async with trial.load.http.put(f"{stage.standin}/_control/faults", json=faults) as answer:
            assert answer.status == 200

    async with under_load(stage, f"{len(STRIPE) + 1} × {seconds:g} s", expected=502) as trial:
        for faults in STRIPE.values():
            await trial.load.wait_for_traffic()
            await set_faults(faults)
            await asyncio.sleep(seconds)
            await set_faults([])
            await trial.wait_for_recovery(time.monotonic())
        stage.signal("standin", SIGKILL)
        await asyncio.sleep(seconds)
        await stage.revive("standin")
        await trial.wait_for_recovery(time.monotonic())
    return trial.outcome


async def fail_over(stage: Stage, times: int, *, demoted: bool) -> Outcome:
    """The standby becomes the primary. The old one was killed, or it is `demoted` and keeps its connections.

    The time counts from the promotion: to the first order of a new cart, and until one is paid and fulfilled.
    """
    pair, primary, standby, sales = stage.pair, "a", "b", []
    async with under_load(stage, str(times)) as trial:
        for _ in range(times):
            await trial.load.wait_for_traffic()
            await stage.in_thread(pair.demote if demoted else pair.kill, primary)
            await stage.in_thread(pair.promote, standby)
            start = time.monotonic()
            await trial.load.place(await trial.load.cart(1))
            sales.append(time.monotonic() - start)
            await trial.wait_for_recovery(start)
            if demoted:
                await stage.in_thread(pair.stop, primary)
            await stage.in_thread(pair.copy, standby, primary)
            primary, standby = standby, primary
    trial.outcome.note = f"sales again {min(sales):.2f} to {max(sales):.2f} s after the promotion"
    return trial.outcome


async def switch_valkey(stage: Stage, times: int) -> Outcome:
    """The replica becomes the primary, behind one address. Every second time, the old one was killed."""
    direct = stage.settings["REDIS_URL"]
    await stage.start_another("valkey2")
    async with (
        Proxy(stage.ports["valkey"], anything) as proxy,
        redis.asyncio.Redis(port=stage.ports["valkey"]) as first,
        redis.asyncio.Redis(port=stage.ports["valkey2"]) as second,
    ):
        clients, primary, replica = {"valkey": first, "valkey2": second}, "valkey", "valkey2"
        for name in ("api", "worker"):
            await stage.restart(name, REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
        async with under_load(stage, str(times)) as trial:
            for number in range(times):
                await _follow(clients[replica], stage.ports[primary])
                await trial.load.wait_for_traffic()
                if killed := number % 2 == 1:
                    stage.signal(primary, SIGKILL)
                await clients[replica].replicaof("NO", "ONE")
                if not killed:
                    await clients[primary].replicaof("127.0.0.1", stage.ports[replica])
                proxy.to = stage.ports[replica]
                await trial.wait_for_recovery(time.monotonic())
                if killed:
                    await stage.revive(primary)
                primary, replica = replica, primary
        await first.replicaof("NO", "ONE")
        for name in ("api", "worker"):
            await stage.restart(name, REDIS_URL=direct)
    await stage.stop("valkey2")
    return trial.outcome


async def _follow(replica: redis.asyncio.Redis, port: int) -> None:
    """Make a Valkey the replica of another, and wait until it has its data."""
    await replica.replicaof("127.0.0.1", port)

    async def is_connected() -> bool:
        return (await replica.info("replication")).get("master_link_status") == "up"

    await eventually(is_connected)


@asynccontextmanager
async def proxied(stage: Stage, *names: str) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """These processes reach PostgreSQL and Stripe through proxies until the block ends."""
    direct = {name: stage.settings[name] for name in ("DATABASE_URL", "STRIPE_API_BASE")}
    async with Proxy(stage.ports["postgres"], statements) as postgres, Proxy(stage.ports["standin"], calls) as standin:
        through = {
            "DATABASE_URL": direct["DATABASE_URL"].replace(f":{stage.ports['postgres']}/", f":{postgres.port}/"),
            "STRIPE_API_BASE": f"http://127.0.0.1:{standin.port}",
        }
        for name in names:
            await stage.restart(name, **through)
        yield postgres, standin
        for name in names:
            await stage.restart(name, **direct)


async def cut(stage: Stage, times: int) -> Outcome:
    """Connections to PostgreSQL are cut: a third at random, a third before their COMMIT, a third after it."""
    async with proxied(stage, "api", "worker") as (postgres, _), under_load(stage, str(times), moment=0) as trial:
        for number in range(times):
            if number % 3 == 0:
                await trial.load.wait_for_traffic(1)
                postgres.cut_one()
            else:
                when: When = "before" if number % 3 == 1 else "after"
                await postgres.set("COMMIT", when, random.randint(1, 5)).sprung.wait()
        await trial.wait_for_recovery(time.monotonic())
    trial.outcome.note = f"{times * 2 // 3} of them in COMMIT"
    return trial.outcome


async def points(stage: Stage, names: tuple[str, ...] = ()) -> Outcome:
    """The API is killed at each point that a checkout and a webhook pass, or only at the points of these names.

    It is killed before the point, and after it but before its answer. The client repeats the checkout with its key;
    Stripe repeats the webhook.
    """
    async with proxied(stage, "api") as proxies, under_load(stage, "", shoppers=0) as trial:
        load, kills, checkouts = trial.load, 0, []
        for request in ("checkout", "webhook"):
            for proxy, name, nth, when in await _passed_points(request, trial, proxies, names):
                cart, key = await load.cart(1), uuid4().hex
                order = await load.place(cart, key) if request == "webhook" else {}
                trap = proxy.set(name, when, nth, lambda: stage.signal("api", SIGKILL))
                if order:
                    await load.pay(order)
                else:
                    await load.send("POST", f"/carts/{cart}/checkout", key=key)
                await asyncio.wait_for(trap.sprung.wait(), 30)
                await stage.revive("api")
                kills += 1
                checkouts.append((cart, key))
        orders = await asyncio.gather(*(load.place(cart, key) for cart, key in checkouts))
        for order in orders:
            await load.pay(order)
            await load.end(order["order_id"])
    trial.outcome.times = str(kills)
    return trial.outcome


async def _passed_points(
    request: str, trial: Trial, proxies: tuple[Proxy, Proxy], names: tuple[str, ...]
) -> list[tuple[Proxy, str, int, When]]:
    """Make one checkout or webhook; the points that it passes."""
    load = trial.load
    cart = await load.cart(1)
    order = await load.place(cart) if request == "webhook" else {}
    passed_before = [len(proxy.passed) for proxy in proxies]
    if order:
        await load.pay(order)
        # Read from the tables: requests of the API would pass the proxies, too.
        async with trial.stage.resources() as resources:
            query = "SELECT status IN ('PAID', 'FULFILLED') FROM orders WHERE id = $1"
            await eventually(lambda: on(resources.pool).fetchval(query, UUID(order["order_id"])))
    else:
        await load.place(cart)
    points: list[tuple[Proxy, str, int, When]] = []
    for proxy, start in zip(proxies, passed_before, strict=True):
        times: Counter[str] = Counter()
        for name in proxy.passed[start:]:
            times[name] += 1
            if not names or name in names:
                points += [(proxy, name, times[name], "before"), (proxy, name, times[name], "after")]
    return points


async def crowd(stage: Stage, buyers: int, units: int = 100, at_once: int = 400) -> Outcome:
    """Many concurrent buyers of a few units of one product."""
    # Longer than the scenario: a unit whose hold ends would be sold again.
    for name in ("api", "worker"):
        await stage.restart(name, HOLD_SECONDS="1800")
    async with under_load(stage, str(buyers), shoppers=0) as trial, stage.resources() as resources:
        load = trial.load
        tent = {"name": "The tent", "price_minor": 1250, "currency": "EUR", "stock": units}
        product = (await load.call("POST", "/products", tent))["id"]
        carts = [uuid4() for _ in range(buyers)]
        await on(resources.pool).executemany(
            "INSERT INTO carts (id, currency) VALUES ($1, 'EUR')", [(cart,) for cart in carts]
        )
        lines = [(cart, product) for cart in carts]
        await on(resources.pool).executemany(
            "INSERT INTO cart_items (cart_id, product_id, quantity) VALUES ($1, $2, 1)", lines
        )
        remaining = [str(cart) for cart in carts]

        async def buyer() -> None:
            while remaining:
                cart = remaining.pop()
                load.ledger.lines[cart][product] = 1
                answer = await load.call("POST", f"/carts/{cart}/checkout", refusal="insufficient_stock")
                if "order_id" in answer:
                    load.ledger.orders.add(answer["order_id"])

        await asyncio.gather(*(buyer() for _ in range(at_once)))
        sold = len(load.ledger.orders)
        stock = (await load.call("GET", f"/products/{product}"))["stock"]
    if (sold, stock) != (units, 0):
        trial.outcome.unexpected.append(f"{sold} of {units} units sold, {stock} left")
    trial.outcome.note = f"{sold} of {units} units sold"
    return trial.outcome


async def hot(stage: Stage, seconds: float, shoppers: int = 16) -> Outcome:
    """Three products are put into carts, sold, cancelled, expired and refunded, while staff edit and restock them.

    Two API processes and two workers do it. Lines come in any order, so an order of locks that follows them deadlocks.
    """
    for name in ("api", "worker"):
        await stage.restart(name, HOLD_SECONDS="2")
    for name in ("api2", "worker2"):
        await stage.start_another(name)
    async with under_load(stage, f"{seconds:g} s", shoppers=0, moment=0.005) as trial:
        load, end = trial.load, time.monotonic() + seconds
        load.bases.append(f"http://127.0.0.1:{stage.ports['api2']}")
        products = load.products[:3]

        async def shopper() -> None:
            while time.monotonic() < end:
                cart = await load.cart(0)
                # The first product is in every cart.
                chosen = [products[0], *random.sample(products[1:], random.randint(0, 2))]
                for product in random.sample(chosen, len(chosen)):
                    await load.call("POST", f"/carts/{cart}/items", {"product_id": product, "quantity": 1})
                    load.ledger.lines[cart][product] += 1
                if random.random() < 0.3:
                    await load.call("PUT", f"/carts/{cart}/items/{products[0]}", {"quantity": 2})
                    load.ledger.lines[cart][products[0]] = 2
                placed_order, choice = await load.place(cart), random.random()
                if choice < 0.5:
                    await load.pay(placed_order)
                elif choice < 0.8:
                    # Some holds have already ended.
                    await load.call("POST", f"/orders/{placed_order['order_id']}/cancel")
                if choice < 0.1 and (await load.end(placed_order["order_id"]))["status"] == "FULFILLED":
                    await load.call("POST", f"/orders/{placed_order['order_id']}/refund", {"restock": True})
                    load.ledger.refunds.add(placed_order["order_id"])

        async def staff() -> None:
            while time.monotonic() < end:
                product = random.choice(products)
                await load.call("PATCH", f"/products/{product}", {"price_minor": random.randint(1000, 2000)})
                move = {"delta": 1, "reason": f"counted {uuid4().hex}"}
                await load.call("POST", f"/products/{product}/stock", move)
                load.ledger.moves.add(move["reason"])

        await asyncio.gather(*(shopper() for _ in range(shoppers)), staff(), staff())
    for name in ("api2", "worker2"):
        await stage.stop(name)
    async with stage.resources() as resources:
        # A connection reports its deadlocks when it ends.
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        await on(resources.pool).execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        deadlocks = await on(resources.pool).fetchval(query)
    for name in ("api", "worker"):
        await stage.restart(name, HOLD_SECONDS=SETTINGS["HOLD_SECONDS"])
    trial.outcome.note = f"{len(load.ledger.orders)} orders, {deadlocks} deadlocks"
    if deadlocks:
        trial.outcome.unexpected.append(f"{deadlocks} deadlocks")
    return trial.outcome


async def duplicates(stage: Stage, orders: int, copies: int) -> Outcome:
    """Every webhook is delivered several times, in any order."""

    async def set_webhooks(**changes: Any) -> None:
        async with trial.load.http.put(f"{stage.standin}/_control/webhooks", json=changes) as answer:
            assert answer.status == 200

    async with under_load(stage, f"{orders} × {copies}", shoppers=0) as trial, stage.resources() as resources:
        load = trial.load
        await set_webhooks(paused=True)
        events_before = await on(resources.pool).fetchval("SELECT count(*) FROM stripe_events")
        acknowledged_before = await _count_webhooks(load)
        remaining = list(range(orders))

        async def buyer() -> None:
            while remaining:
                remaining.pop()
                await load.pay(await load.place(await load.cart(1)))

        await asyncio.gather(*(buyer() for _ in range(8)))
        await set_webhooks(paused=False, copies=copies, shuffle=True)

        async def all_delivered() -> int:
            events: int = await on(resources.pool).fetchval("SELECT count(*) FROM stripe_events") - events_before
            acknowledged = await _count_webhooks(load) - acknowledged_before
            return events if events >= orders and acknowledged >= events * copies else 0

        events = await eventually(all_delivered, 600)
        await set_webhooks(copies=1, shuffle=False)
        for order in load.ledger.orders:
            await load.end(order)
        query = (
            "SELECT order_id::text, count(*) FROM order_events WHERE order_id = ANY($1::uuid[])"
            " AND from_status IS DISTINCT FROM to_status GROUP BY order_id HAVING count(*) <> 3"
        )
        wrong = await on(resources.pool).fetch(query, [UUID(order) for order in load.ledger.orders])
    trial.outcome.violations += [f"order {order}: {count} transitions" for order, count in wrong]
    trial.outcome.note = f"{events} events"
    return trial.outcome


async def _count_webhooks(load: Load) -> int:
    """How many webhooks the API has acknowledged since it started."""
    async with load.http.get(f"http://127.0.0.1:{load.stage.ports['metrics']}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if 'route="/webhooks/stripe",status="200"' in line[:99])


async def overload(stage: Stage, seconds: float, calm: float = 3.0) -> Outcome:
    """Requests arrive at three times the capacity, whether earlier ones are answered or not."""
    async with under_load(stage, f"{seconds:g} s", shoppers=0) as trial:
        load = trial.load
        carts = [await load.cart(0) for _ in range(200)]
        requests = []
        for cart in carts:
            product = random.choice(load.products)
            requests.append(("GET", f"/products/{product}", ""))
            requests.append(("POST", f"/carts/{cart}/items", f'{{"product_id": {product}, "quantity": 1}}'))

        async def flood(rate: float, connections: int, seconds: float) -> Json:
            command = (sys.executable, "-m", "tests.faults.flood", stage.api, rate, connections, seconds)
            process = await asyncio.create_subprocess_exec(
                *map(str, command), cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate(json.dumps(requests).encode())
            results: Json = json.loads(output)
            for number, times in results["succeeded"].items():
                _, path, body = requests[int(number)]
                if body:
                    cart, product = path.split("/")[2], json.loads(body)["product_id"]
                    load.ledger.lines[cart][product] += times
                    load.ledger.unanswered[cart] += results["unanswered"][number]
                    load.ledger.acknowledged += times
            return results

        async def measure() -> float:
            """The seconds that it takes to create a cart with a line."""
            start = time.monotonic()
            await load.cart(1)
            return time.monotonic() - start

        normal = median([await measure() for _ in range(20)])
        await flood(0, 32, calm / 3)
        capacity = (await flood(0, 32, calm))["sent"] / calm
        results = await flood(3 * capacity, 4096, seconds)
        end = time.monotonic()
        while await measure() > 2 * normal + 0.01:
            assert time.monotonic() < end + 60, "it does not return to normal"
        trial.recoveries.append(time.monotonic() - end)
    answers = Counter({int(status): times for status, times in results["statuses"].items()})
    wrong = {status: times for status, times in answers.items() if status not in (200, 429, 503) and times}
    without_retry_after = results["refused_without_retry_after"]
    if wrong or without_retry_after:
        trial.outcome.unexpected.append(f"{wrong} by status, {without_retry_after} refused without Retry-After")
    trial.outcome.note = (
        f"capacity {capacity:.0f}/s; of {results['sent']:,} requests {answers[200]:,} succeeded and"
        f" {answers[429] + answers[503]:,} were refused; {results['without_connection']:,} found none of 4,096"
        " connections free"
    )
    return trial.outcome


def _megabytes(pid: int) -> float:
    """A process's resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _usage(pid: int) -> tuple[float, int]:
    """A process's resident memory in MB and its number of open files."""
    return _megabytes(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def soak(stage: Stage, minutes: float) -> Outcome:
    """A long load: memory, open files and connections do not grow."""
    samples: dict[str, list[float]] = defaultdict(list)
    async with under_load(stage, f"{minutes:g} min", shoppers=4) as trial, stage.resources() as resources:
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            # Sixty samples.
            await asyncio.sleep(minutes)
            for name in ("api", "worker"):
                megabytes, files = _usage(stage.pids[name])
                samples[f"{name} MB"].append(megabytes)
                samples[f"{name} files"].append(files)
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
                samples[f"{name} connections"].append(await on(resources.pool).fetchval(query, f"commerce-{name}"))
    notes = []
    for name, values in samples.items():
        # The second quarter, when everything is warm, against the last one.
        quarter = len(values) // 4
        second, last = mean(values[quarter : 2 * quarter]), mean(values[-quarter:])
        notes.append(f"{name} {values[0]:.0f}, {second:.0f}, {last:.0f}")
        if last > second * 1.1 + 2:
            trial.outcome.unexpected.append(f"{name} grew from {second:.1f} to {last:.1f}")
    trial.outcome.note = f"at first, in the second and the last quarter: {'; '.join(notes)}"
    return trial.outcome


# The limits of a flood: how much slower the others' p99 may be, and how many MB the API may use more, and in all.
MAX_RATIO, MAX_MEGABYTES, MAX_MEGABYTES_IN_ALL = 3.0, 60.0, 150.0


async def edge(stage: Stage, rounds: int, seconds: float, flood: int = 0) -> Outcome:
    """Floods from another address: their effect on the answers to others and on the memory of the API.

    `flood` is the number of the only one; 0 means each. Without rounds, all floods come at once, and only the answers
    and the rise of the memory are judged.
    """
    floods = tuple(FLOODS)[flood - 1 : flood] if flood else tuple(FLOODS)
    p99s: dict[str, list[float]] = defaultdict(list)
    rises: dict[str, float] = defaultdict(float)
    most = 0.0
    async with under_load(stage, f"{rounds} × {seconds:g} s" if rounds else "all", shoppers=0) as trial:
        load = trial.load
        await _visit(load, 2)
        for name in rounds * floods or ("all",):
            p99s["calm"].append(quantiles(await _visit(load, seconds / 3), n=100)[-1])
            before = _megabytes(stage.pids["api"])
            command = (sys.executable, "-m", "tests.faults.attack", stage.api, name, str(seconds + 3))
            process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
            # In the first two seconds all connections open; only the memory is measured then.
            visiting = asyncio.create_task(_visit(load, seconds, delay=2))
            while not visiting.done():
                used = _megabytes(stage.pids["api"])
                rises[name], most = max(rises[name], used - before), max(most, used)
                await asyncio.sleep(0.02)
            p99s[name].append(quantiles(await visiting, n=100)[-1])
            await process.wait()
    # Medians, as a shared machine stalls now and then.
    calm = median(p99s.pop("calm"))
    notes = [f"p99 in calm {calm * 1000:.1f} ms, at most {most:.0f} MB"]
    if (most if rounds else rises["all"]) > MAX_MEGABYTES_IN_ALL:
        trial.outcome.unexpected.append(notes[0])
    for name, times in p99s.items():
        spread = f" ({min(times) / calm:.1f} to {max(times) / calm:.1f})" if rounds > 1 else ""
        notes.append(f"{name}: {median(times) / calm:.1f} ×{spread} and {rises[name]:+.0f} MB")
        if rounds and (median(times) / calm > MAX_RATIO or rises[name] > MAX_MEGABYTES):
            trial.outcome.unexpected.append(notes[-1])
    trial.outcome.note = "; ".join(notes)
    return trial.outcome


async def _visit(load: Load, seconds: float, delay: float = 0, rate: float = 100) -> list[float]:
    """Visitors who arrive at a fixed rate; the seconds that each request took."""
    await asyncio.sleep(delay)
    loop = asyncio.get_running_loop()
    end, visits = loop.time() + seconds, []

    async def visit(number: int) -> list[float]:
        times = []
        product = load.products[number % len(load.products)]
        for method, path, body in (
            ("GET", "/products", None),
            ("GET", f"/products/{product}", None),
            ("POST", "/carts", {}),
        ):
            start = loop.time()
            status, _ = await load.send(method, path, body)
            times.append(loop.time() - start)
            if status not in (200, 201):
                load.ledger.unexpected.append(f"{method} {path}: {status}")
        return times

    while loop.time() < end:
        visits.append(asyncio.create_task(visit(len(visits))))
        await asyncio.sleep(1 / rate)
    return [seconds for visit in visits for seconds in await visit]


@dataclass(frozen=True)
class Scenario:
    """The name in the report, the function, and its settings in `make test` (None: not there) and in `make faults`."""

    fault: str
    run: Callable[..., Awaitable[Outcome]]
    short: dict[str, Any] | None
    full: dict[str, Any]
    # Whether it needs a stage with a primary and its standby.
    replicated: bool = False


immediate = partial(kill, name="postgres", number=SIGQUIT)
# Six seconds is longer than a request waits for PostgreSQL.
SIX, FREEZES = {"seconds": [6]}, [3, 3, 6, 12]
FEW, MANY = {"orders": 200, "copies": 5}, {"orders": 5000, "copies": 10}
COMMITS = ("COMMIT", "POST /v1/checkout/sessions")
SCENARIOS = {
    "kill-api": Scenario("API: kill -9", partial(kill, name="api"), {"times": 5}, {"times": 50}),
    "kill-worker": Scenario("worker: kill -9", partial(kill, name="worker"), {"times": 5}, {"times": 50}),
    "kill-postgres": Scenario("PostgreSQL: kill -9", partial(kill, name="postgres"), {"times": 2}, {"times": 20}),
    "kill-valkey": Scenario("Valkey: kill -9", partial(kill, name="valkey"), {"times": 2}, {"times": 20}),
    "immediate": Scenario("PostgreSQL: stopped in immediate mode", immediate, {"times": 1}, {"times": 20}),
    "freeze-api": Scenario("API: frozen", partial(freeze, name="api"), {"seconds": [1]}, {"seconds": FREEZES}),
    "freeze-worker": Scenario("worker: frozen", partial(freeze, name="worker"), {"seconds": [1]}, {"seconds": FREEZES}),
    "freeze-postgres": Scenario("PostgreSQL: frozen", partial(freeze, name="postgres"), SIX, {"seconds": FREEZES}),
    "freeze-valkey": Scenario("Valkey: frozen", partial(freeze, name="valkey"), {"seconds": [1]}, {"seconds": FREEZES}),
    "fail-over": Scenario(
        "PostgreSQL: primary killed -9, standby promoted",
        partial(fail_over, demoted=False),
        {"times": 1},
        {"times": 10},
        replicated=True,
    ),
    "demote": Scenario(
        "PostgreSQL: primary demoted, its connections alive, standby promoted",
        partial(fail_over, demoted=True),
        {"times": 1},
        {"times": 10},
        replicated=True,
    ),
    "switch-valkey": Scenario("Valkey: replica promoted", switch_valkey, {"times": 2}, {"times": 20}),
    "wipe": Scenario("Valkey: wiped", wipe, {"times": 1}, {"times": 20}),
    "cut": Scenario("connections to PostgreSQL: cut", cut, {"times": 50}, {"times": 2000}),
    "points": Scenario("API: kill -9 at each point of checkout and webhook", points, {"names": COMMITS}, {}),
    "stripe": Scenario("Stripe: refuses, hangs, fails, garbles, is gone", stripe, {"seconds": 0.5}, {"seconds": 5}),
    "crowd": Scenario("one product for 100 units, all buyers at once", crowd, None, {"buyers": 20_000}),
    "hot": Scenario(
        "three products: carts filled, sold, expired, refunded, edited at once", hot, {"seconds": 5}, {"seconds": 120}
    ),
    "duplicates": Scenario("webhooks: each several times, shuffled", duplicates, FEW, MANY),
    "overload": Scenario(
        "requests: three times what can be done", overload, {"seconds": 15, "calm": 1}, {"seconds": 120}
    ),
    "edge": Scenario(
        "floods by strangers", edge, {"rounds": 0, "seconds": 3}, {"rounds": 1, "seconds": 30, "flood": 0}
    ),
    "soak": Scenario("nothing but load", soak, None, {"minutes": 20}),
}
