"""Limiters: first come, first served; short bursts are admitted, and an overload is refused at once."""

import asyncio

import pytest

from service.errors import ShopError
from service.infra.limiters import KeyedLimiter, Limiter


class Line:
    """Users that wait for a limiter, and the order in which they got their slot."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.served: list[int] = []
        self.users: list[asyncio.Task[None]] = []

    async def join(self, count: int) -> None:
        """Add users, and return when all of them wait."""
        self.users += [asyncio.create_task(self._use(number)) for number in range(count)]
        await asyncio.sleep(0)

    async def end(self) -> None:
        await asyncio.gather(*self.users)

    async def _use(self, number: int) -> None:
        async with self.limiter:
            self.served.append(number)


async def assert_refused(limiter: Limiter) -> None:
    with pytest.raises(ShopError, match=r"^busy: "):
        await limiter.__aenter__()


async def test_users_are_served_in_their_order() -> None:
    limiter = Limiter(1)
    line = Line(limiter)

    async with limiter:
        await line.join(50)
        assert line.served == []
        line.users.pop(7).cancel()
    await line.end()

    assert line.served == [number for number in range(50) if number != 7]


async def test_an_overload_is_refused_at_once() -> None:
    limiter = Limiter(1, max_waiting=2, rush_seconds=0)
    line = Line(limiter)

    async with limiter:
        await line.join(2)
        for _ in range(3):
            await assert_refused(limiter)
    await line.end()

    assert line.served == [0, 1]


async def test_after_an_overload_users_may_wait_again() -> None:
    limiter = Limiter(1, max_waiting=2, rush_seconds=0)
    async with limiter:
        first = Line(limiter)
        await first.join(2)
        await assert_refused(limiter)
    await first.end()

    second = Line(limiter)
    async with limiter:
        await second.join(2)
    await second.end()

    assert second.served == [0, 1]


async def test_a_short_burst_is_admitted_whole() -> None:
    limiter = Limiter(1, max_waiting=2, rush_seconds=3600)
    line = Line(limiter)

    async with limiter:
        await line.join(1000)
    await line.end()

    assert line.served == list(range(1000))


async def test_a_long_wait_ends_as_busy() -> None:
    limiter = Limiter(1, max_wait_seconds=0.01)

    async with limiter:
        await assert_refused(limiter)

    async with limiter:
        pass


async def use(limiter: KeyedLimiter, keys: str, entered: list[str]) -> None:
    """Enter with each letter as a key."""
    async with limiter.enter(*keys):
        entered.append(keys)


async def test_keys_are_independent() -> None:
    limiter = KeyedLimiter(1)
    entered: list[str] = []

    async with limiter.enter("a", "b"):
        waiting = [asyncio.create_task(use(limiter, keys, entered)) for keys in ("a", "b", "bc")]
        await use(limiter, "c", entered)
        assert entered == ["c"]
    await asyncio.gather(*waiting)

    assert sorted(entered) == ["a", "b", "bc", "c"]


async def test_a_key_that_nobody_uses_takes_no_memory() -> None:
    limiter = KeyedLimiter(1)

    await use(limiter, "ab", [])

    assert len(limiter._limiters) == 0


async def test_more_keys_are_added_only_if_none_of_them_is_full() -> None:
    limiter = KeyedLimiter(1)

    async with limiter.enter("a") as try_add:
        assert await try_add("a", "b")
        async with limiter.enter("c") as try_add_other:
            assert not await try_add("c", "d")
            # The refused call took none of its keys.
            assert await try_add_other("d")
            assert not await try_add_other("b")


async def test_it_is_contended_while_somebody_waits() -> None:
    limiter = KeyedLimiter(1)

    async with limiter.enter("a"):
        assert not limiter.contended
        waiting = asyncio.create_task(use(limiter, "a", []))
        await asyncio.sleep(0)
        assert limiter.contended
    await waiting

    assert not limiter.contended
