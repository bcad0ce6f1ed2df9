"""The faults. Each part does to a stage what its name says, under load, and answers what came of it."""

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
from tests.faults.proxy import Proxy, When, calls, statements
from tests.faults.stage import SETTINGS, Stage

ROOT = Path(__file__).parents[2]


@dataclass
class Outcome:
    """What a part did and what came of it; the lists are empty when all is well."""

    times: str
    acknowledged: int
    lost: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)  # answers, and errors in the logs
    recoveries: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.violations or self.unexpected)


class Trial:
    """A load, the recoveries that were timed under it, and how it ended."""

    def __init__(self, stage: Stage, load: Load) -> None:
        self.stage, self.load = stage, load
        self.recoveries: list[float] = []
        self.outcome = Outcome("", 0)

    async def recovered(self, since: float) -> None:
        """Time until a whole purchase, begun by now, is fulfilled."""
        await self.load.buy()
        self.recoveries.append(time.monotonic() - since)


@asynccontextmanager
async def trial(stage: Stage, times: str, **load: Any) -> AsyncIterator[Trial]:
    """A load around a fault; its outcome is there when the block has ended."""
    async with Load(stage, **load) as running:
        attempt = Trial(stage, running)
        yield attempt
    ledger = running.ledger
    lost, violations = await settle(stage, ledger)
    unexpected = [*ledger.unexpected, *stage.errors()]
    attempt.outcome = Outcome(times, ledger.acknowledged, lost, violations, unexpected, attempt.recoveries)


async def kill(stage: Stage, name: str, times: int, number: Signals = SIGKILL) -> Outcome:
    """A process ends without a word, and a supervisor starts it again."""
    async with trial(stage, str(times)) as attempt:
        for _ in range(times):
            await attempt.load.busy()
            since = time.monotonic()
            stage.signal(name, number)
            await stage.revive(name)
            await attempt.recovered(since)
    return attempt.outcome


async def freeze(stage: Stage, name: str, seconds: list[float]) -> Outcome:
    """A process and its children stand still, and go on."""
    async with trial(stage, f"{', '.join(map(str, seconds))} s") as attempt:
        for still in seconds:
            await attempt.load.busy()
            stage.freeze(name)
            await asyncio.sleep(still)
            stage.thaw(name)
            await attempt.recovered(time.monotonic())
    attempt.outcome.note = f"the slowest answer took {attempt.load.ledger.slowest:.1f} s"
    return attempt.outcome


async def wipe(stage: Stage, times: int) -> Outcome:
    """Valkey forgets everything."""
    async with (
        trial(stage, str(times)) as attempt,
        redis.asyncio.Redis.from_url(stage.settings["REDIS_URL"]) as valkey,
    ):
        for _ in range(times):
            await attempt.load.busy()
            since = time.monotonic()
            await valkey.flushall()
            await attempt.recovered(since)
    return attempt.outcome


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
    """Everything that Stripe can do wrong, for a while each; at last it is not there at all."""

    async def rules(faults: list[Json]) -> None:
        async with attempt.load.http.put(f"{stage.standin}/_control/faults", json=faults) as answer:
            assert answer.status == 200

    async with trial(stage, f"{len(STRIPE) + 1} × {seconds:g} s", expected=502) as attempt:
        for faults in STRIPE.values():
            await attempt.load.busy()
            await rules(faults)
            await asyncio.sleep(seconds)
            await rules([])
            await attempt.recovered(time.monotonic())
        stage.signal("standin", SIGKILL)
        await asyncio.sleep(seconds)
        await stage.revive("standin")
        await attempt.recovered(time.monotonic())
    return attempt.outcome


@asynccontextmanager
async def proxied(stage: Stage, *names: str) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """These processes behind a proxy before PostgreSQL and one before Stripe."""
    plain = {name: stage.settings[name] for name in ("DATABASE_URL", "STRIPE_API_BASE")}
    async with Proxy(stage.ports["postgres"], statements) as postgres, Proxy(stage.ports["standin"], calls) as standin:
        through = {
            "DATABASE_URL": plain["DATABASE_URL"].replace(f":{stage.ports['postgres']}/", f":{postgres.port}/"),
            "STRIPE_API_BASE": f"http://127.0.0.1:{standin.port}",
        }
        for name in names:
            await stage.restart(name, **through)
        yield postgres, standin
        for name in names:
            await stage.restart(name, **plain)


async def cut(stage: Stage, times: int) -> Outcome:
    """Connections to PostgreSQL are cut: of three, one wherever it is, one before its COMMIT and one after it."""
    async with proxied(stage, "api", "worker") as (postgres, _), trial(stage, str(times), moment=0) as attempt:
        for number in range(times):
            if number % 3 == 0:
                await attempt.load.busy(1)
                postgres.cut_one()
            else:
                when: When = "before" if number % 3 == 1 else "after"
                await postgres.set("COMMIT", when, random.randint(1, 5)).sprung.wait()
        await attempt.recovered(time.monotonic())
    attempt.outcome.note = f"{times * 2 // 3} of them in COMMIT"
    return attempt.outcome


async def points(stage: Stage, names: tuple[str, ...] = ()) -> Outcome:
    """The API is killed at each point that a checkout and a webhook pass, or at those of these names.

    Before the point, and after it but without its answer. The client asks for the checkout again with its key; Stripe
    sends the webhook again.
    """
    async with proxied(stage, "api") as proxies, trial(stage, "", shoppers=0) as attempt:
        load, killed, placed = attempt.load, 0, []
        for what in ("checkout", "webhook"):
            for proxy, name, nth, when in await _passed(what, attempt, proxies, names):
                cart, key = await load.cart(1), uuid4().hex
                order = await load.place(cart, key) if what == "webhook" else {}
                trap = proxy.set(name, when, nth, lambda: stage.signal("api", SIGKILL))
                if order:
                    await load.pay(order)
                else:
                    await load.send("POST", f"/carts/{cart}/checkout", key=key)
                await asyncio.wait_for(trap.sprung.wait(), 30)
                await stage.revive("api")
                killed += 1
                placed.append((cart, key, what))
        orders = await asyncio.gather(*(load.place(cart, key) for cart, key, what in placed))
        for order in orders:
            await load.pay(order)
            await load.end(order["order_id"])
    attempt.outcome.times = str(killed)
    return attempt.outcome


async def _passed(
    what: str, attempt: Trial, proxies: tuple[Proxy, Proxy], names: tuple[str, ...]
) -> list[tuple[Proxy, str, int, When]]:
    """The points that a checkout or a webhook passes, by trying one."""
    load = attempt.load
    cart = await load.cart(1)
    order = await load.place(cart) if what == "webhook" else {}
    before = [len(proxy.seen) for proxy in proxies]
    if order:
        await load.pay(order)
        # Not asked of the API, whose own questions these would be.
        async with attempt.stage.resources() as resources:
            query = "SELECT status IN ('PAID', 'FULFILLED') FROM orders WHERE id = $1"
            await eventually(lambda: resources.pool.fetchval(query, UUID(order["order_id"])))
    else:
        await load.place(cart)
    points: list[tuple[Proxy, str, int, When]] = []
    for proxy, start in zip(proxies, before, strict=True):
        times: Counter[str] = Counter()
        for name in proxy.seen[start:]:
            times[name] += 1
            if not names or name in names:
                points += [(proxy, name, times[name], "before"), (proxy, name, times[name], "after")]
    return points


async def crowd(stage: Stage, buyers: int, units: int = 100, at_once: int = 400) -> Outcome:
    """So many buyers at once for so many units of one product."""
    # Longer than they take: units whose hold ends would be sold again.
    for name in ("api", "worker"):
        await stage.restart(name, HOLD_SECONDS="1800")
    async with trial(stage, str(buyers), shoppers=0) as attempt, stage.resources() as resources:
        load = attempt.load
        new = {"name": "The tent", "price_minor": 1250, "currency": "EUR", "stock": units}
        product = (await load.ask("POST", "/products", new))["id"]
        carts = [uuid4() for _ in range(buyers)]
        await resources.pool.executemany(
            "INSERT INTO carts (id, currency) VALUES ($1, 'EUR')", [(cart,) for cart in carts]
        )
        lines = [(cart, product) for cart in carts]
        await resources.pool.executemany(
            "INSERT INTO cart_items (cart_id, product_id, quantity) VALUES ($1, $2, 1)", lines
        )
        waiting = [str(cart) for cart in carts]

        async def buyer() -> None:
            while waiting:
                cart = waiting.pop()
                load.ledger.lines[cart][product] = 1
                placed = await load.ask("POST", f"/carts/{cart}/checkout", refusal="insufficient_stock")
                if "order_id" in placed:
                    load.ledger.orders.add(placed["order_id"])

        await asyncio.gather(*(buyer() for _ in range(at_once)))
        sold = len(load.ledger.orders)
        left = (await load.ask("GET", f"/products/{product}"))["stock"]
    if (sold, left) != (units, 0):
        attempt.outcome.unexpected.append(f"{sold} of {units} units sold, {left} left")
    attempt.outcome.note = f"{sold} of {units} units sold"
    return attempt.outcome


async def hot(stage: Stage, seconds: float, shoppers: int = 16) -> Outcome:
    """Carts are filled with one product, checked out, paid, cancelled and expired; staff edits and restocks it."""
    for name in ("api", "worker"):
        await stage.restart(name, HOLD_SECONDS="2")
    async with trial(stage, f"{seconds:g} s", shoppers=0, moment=0.005) as attempt:
        load, end = attempt.load, time.monotonic() + seconds
        product = load.products[0]

        async def shopper() -> None:
            while time.monotonic() < end:
                cart = await load.cart(0)
                for _ in range(random.randint(1, 3)):
                    await load.ask("POST", f"/carts/{cart}/items", {"product_id": product, "quantity": 1})
                    load.ledger.lines[cart][product] += 1
                if random.random() < 0.3:
                    await load.ask("PUT", f"/carts/{cart}/items/{product}", {"quantity": 2})
                    load.ledger.lines[cart][product] = 2
                placed, fate = await load.place(cart), random.random()
                if fate < 0.4:
                    await load.pay(placed)
                elif fate < 0.7:
                    # Some come too late: the hold has ended.
                    await load.ask("POST", f"/orders/{placed['order_id']}/cancel")

        async def staff() -> None:
            while time.monotonic() < end:
                await load.ask("PATCH", f"/products/{product}", {"price_minor": random.randint(1000, 2000)})
                move = {"delta": 1, "reason": f"found {uuid4().hex}"}
                await load.ask("POST", f"/products/{product}/stock", move)
                load.ledger.moves.add(move["reason"])

        await asyncio.gather(*(shopper() for _ in range(shoppers)), staff(), staff())
    async with stage.resources() as resources:
        # A session tells what it has met at its end.
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        await resources.pool.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        deadlocks = await resources.pool.fetchval(query)
    for name in ("api", "worker"):
        await stage.restart(name, HOLD_SECONDS=SETTINGS["HOLD_SECONDS"])
    attempt.outcome.note = f"{len(load.ledger.orders)} orders, {deadlocks} deadlocks"
    if deadlocks:
        attempt.outcome.unexpected.append(f"{deadlocks} deadlocks")
    return attempt.outcome


async def duplicates(stage: Stage, orders: int, copies: int) -> Outcome:
    """Every webhook comes several times, in any order."""

    async def deliver(**how: Any) -> None:
        async with attempt.load.http.put(f"{stage.standin}/_control/webhooks", json=how) as answer:
            assert answer.status == 200

    async with trial(stage, f"{orders} × {copies}", shoppers=0) as attempt, stage.resources() as resources:
        load = attempt.load
        await deliver(paused=True)
        before = await resources.pool.fetchval("SELECT count(*) FROM stripe_events")
        taken = await _webhooks(load)
        todo = list(range(orders))

        async def buyer() -> None:
            while todo:
                todo.pop()
                await load.pay(await load.place(await load.cart(1)))

        await asyncio.gather(*(buyer() for _ in range(8)))
        await deliver(paused=False, copies=copies, shuffle=True)

        async def all_came() -> int:
            events: int = await resources.pool.fetchval("SELECT count(*) FROM stripe_events") - before
            return events if events >= orders and await _webhooks(load) - taken >= events * copies else 0

        events = await eventually(all_came, 600)
        await deliver(copies=1, shuffle=False)
        for order in load.ledger.orders:
            await load.end(order)
        query = (
            "SELECT order_id::text, count(*) FROM order_events WHERE order_id = ANY($1::uuid[])"
            " AND from_status IS DISTINCT FROM to_status GROUP BY order_id HAVING count(*) <> 3"
        )
        wrong = await resources.pool.fetch(query, [UUID(order) for order in load.ledger.orders])
    attempt.outcome.violations += [f"order {order}: {count} transitions" for order, count in wrong]
    attempt.outcome.note = f"{events} events"
    return attempt.outcome


async def _webhooks(load: Load) -> int:
    """How many the API has acknowledged since it started."""
    async with load.http.get(f"http://127.0.0.1:{load.stage.ports['metrics']}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if 'route="/webhooks/stripe",status="200"' in line[:99])


async def overload(stage: Stage, seconds: float, calm: float = 3.0) -> Outcome:
    """Three times the requests that can be done arrive, whether or not those before them are answered."""
    async with trial(stage, f"{seconds:g} s", shoppers=0) as attempt:
        load = attempt.load
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
            said, _ = await process.communicate(json.dumps(requests).encode())
            became: Json = json.loads(said)
            for number, times in became["done"].items():
                _, path, body = requests[int(number)]
                if body:
                    cart, product = path.split("/")[2], json.loads(body)["product_id"]
                    load.ledger.lines[cart][product] += times
                    load.ledger.unsure[cart] += became["unsure"][number]
                    load.ledger.acknowledged += times
            return became

        async def took() -> float:
            """The seconds of one purchase's first two requests, when nothing else is going on."""
            since = time.monotonic()
            await load.cart(1)
            return time.monotonic() - since

        normal = median([await took() for _ in range(20)])
        await flood(0, 32, calm / 3)
        capacity = (await flood(0, 32, calm))["sent"] / calm
        became = await flood(3 * capacity, 4096, seconds)
        end = time.monotonic()
        while await took() > 2 * normal + 0.01:
            assert time.monotonic() < end + 60, "it does not get back to normal"
        attempt.recoveries.append(time.monotonic() - end)
    answers = Counter({int(status): times for status, times in became["statuses"].items()})
    wrong = {status: times for status, times in answers.items() if status not in (200, 429, 503) and times}
    if wrong or became["abrupt"]:
        attempt.outcome.unexpected.append(f"{wrong} by status, {became['abrupt']} refused without Retry-After")
    attempt.outcome.note = (
        f"{capacity:.0f}/s can be done; of {became['sent']:,} that came in that time {answers[200]:,} were done and"
        f" {answers[429] + answers[503]:,} refused; {became['held']:,} found no connection left of 4,096"
    )
    return attempt.outcome


def _usage(pid: int) -> tuple[float, int]:
    """A process's resident memory in MB, and how many files it has open."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20, len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def soak(stage: Stage, minutes: float) -> Outcome:
    """Nothing but load, for long: memory, file descriptors and connections stay what they are."""
    samples: dict[str, list[float]] = defaultdict(list)
    async with trial(stage, f"{minutes:g} min", shoppers=4) as attempt, stage.resources() as resources:
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            await asyncio.sleep(minutes)  # sixty samples
            for name in ("api", "worker"):
                megabytes, files = _usage(stage.pids[name])
                samples[f"{name} MB"].append(megabytes)
                samples[f"{name} files"].append(files)
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
                samples[f"{name} connections"].append(await resources.pool.fetchval(query, f"commerce-{name}"))
    notes = []
    for what, values in samples.items():
        # Its second quarter, when all is warm, against its last.
        quarter = len(values) // 4
        early, late = mean(values[quarter : 2 * quarter]), mean(values[-quarter:])
        notes.append(f"{what} {values[0]:.0f}, {early:.0f}, {late:.0f}")
        if late > early * 1.1 + 2:
            attempt.outcome.unexpected.append(f"{what} grew from {early:.1f} to {late:.1f}")
    attempt.outcome.note = f"at first, in the second and the last quarter: {'; '.join(notes)}"
    return attempt.outcome


# What may come of a flood for the others, and for the memory of the process that it is aimed at.
SLOWER, MORE_MEGABYTES = 3.0, 60.0


async def edge(stage: Stage, rounds: int, seconds: float) -> Outcome:
    """Floods by strangers: what they do to the others' answers, and to the memory of the API."""
    p99s: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, float] = defaultdict(float)
    async with trial(stage, f"{rounds} × {seconds:g} s", shoppers=0) as attempt:
        load = attempt.load
        await _visit(load, 2)
        for _ in range(rounds):
            for name in ("calm", *FLOODS):
                before, _ = _usage(stage.pids["api"])
                process = (
                    await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "tests.faults.attack", stage.api, name, str(seconds + 3)), cwd=ROOT
                    )
                    if name != "calm"
                    else None
                )
                # The first seconds, when all come at once, count for the memory alone.
                visiting = asyncio.create_task(_visit(load, seconds, later=2))
                while not visiting.done():
                    peaks[name] = max(peaks[name], _usage(stage.pids["api"])[0] - before)
                    await asyncio.sleep(0.02)
                p99s[name].append(quantiles(await visiting, n=100)[-1])
                if process:
                    await process.wait()
    notes = [f"p99 in calm {median(p99s['calm']) * 1000:.1f} ms"]
    for name in FLOODS:
        # Round by round, and their median: a machine that others share stands still now and then.
        ratios = sorted(flood / calm for flood, calm in zip(p99s[name], p99s["calm"], strict=True))
        notes.append(f"{name}: {median(ratios):.1f} × ({ratios[0]:.1f} to {ratios[-1]:.1f}) and {peaks[name]:+.0f} MB")
        if median(ratios) > SLOWER or peaks[name] > MORE_MEGABYTES:
            attempt.outcome.unexpected.append(notes[-1])
    attempt.outcome.note = "; ".join(notes)
    return attempt.outcome


async def _visit(load: Load, seconds: float, later: float = 0, rate: float = 100) -> list[float]:
    """Visitors who come at a pace of their own; how long each waited for an answer."""
    await asyncio.sleep(later)
    loop = asyncio.get_running_loop()
    end, visits = loop.time() + seconds, []

    async def visit(number: int) -> list[float]:
        taken = []
        product = load.products[number % len(load.products)]
        for method, path, body in (
            ("GET", "/products", None),
            ("GET", f"/products/{product}", None),
            ("POST", "/carts", {}),
        ):
            since = loop.time()
            status, _ = await load.send(method, path, body)
            taken.append(loop.time() - since)
            if status not in (200, 201):
                load.ledger.unexpected.append(f"{method} {path}: {status}")
        return taken

    while loop.time() < end:
        visits.append(asyncio.create_task(visit(len(visits))))
        await asyncio.sleep(1 / rate)
    return [taken for visit in visits for taken in await visit]


@dataclass(frozen=True)
class Part:
    """A part's name in the report, what it does, and how often in `make test` and in `make faults`."""

    fault: str
    do: Callable[..., Awaitable[Outcome]]
    short: dict[str, Any] | None
    full: dict[str, Any]


immediate = partial(kill, name="postgres", number=SIGQUIT)
# Six seconds are more than a request waits for PostgreSQL.
SIX, FREEZES = {"seconds": [6]}, [3, 3, 6, 12]
FEW, MANY = {"orders": 200, "copies": 5}, {"orders": 5000, "copies": 10}
COMMITS = ("COMMIT", "POST /v1/checkout/sessions")
PARTS = {
    "kill-api": Part("API: kill -9", partial(kill, name="api"), {"times": 5}, {"times": 50}),
    "kill-worker": Part("worker: kill -9", partial(kill, name="worker"), {"times": 5}, {"times": 50}),
    "kill-postgres": Part("PostgreSQL: kill -9", partial(kill, name="postgres"), {"times": 2}, {"times": 20}),
    "kill-valkey": Part("Valkey: kill -9", partial(kill, name="valkey"), {"times": 2}, {"times": 20}),
    "immediate": Part("PostgreSQL: stopped in immediate mode", immediate, {"times": 1}, {"times": 20}),
    "freeze-api": Part("API: frozen", partial(freeze, name="api"), {"seconds": [1]}, {"seconds": FREEZES}),
    "freeze-worker": Part("worker: frozen", partial(freeze, name="worker"), {"seconds": [1]}, {"seconds": FREEZES}),
    "freeze-postgres": Part("PostgreSQL: frozen", partial(freeze, name="postgres"), SIX, {"seconds": FREEZES}),
    "freeze-valkey": Part("Valkey: frozen", partial(freeze, name="valkey"), {"seconds": [1]}, {"seconds": FREEZES}),
    "wipe": Part("Valkey: wiped", wipe, {"times": 1}, {"times": 20}),
    "cut": Part("connections to PostgreSQL: cut", cut, {"times": 50}, {"times": 2000}),
    "points": Part("API: kill -9 at each point of checkout and webhook", points, {"names": COMMITS}, {}),
    "stripe": Part("Stripe: refuses, hangs, fails, garbles, is gone", stripe, {"seconds": 0.5}, {"seconds": 5}),
    "crowd": Part("one product for 100 units, all buyers at once", crowd, None, {"buyers": 20_000}),
    "hot": Part("one product: carts filled, sold, expired, edited at once", hot, {"seconds": 5}, {"seconds": 120}),
    "duplicates": Part("webhooks: each several times, shuffled", duplicates, FEW, MANY),
    "overload": Part("requests: three times what can be done", overload, {"seconds": 15, "calm": 1}, {"seconds": 120}),
    "edge": Part("floods by strangers", edge, None, {"rounds": 5, "seconds": 8}),
    "soak": Part("nothing but load", soak, None, {"minutes": 20}),
}
