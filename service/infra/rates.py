"""How often a client has asked within its minute, counted in Redis for all processes."""

from redis.asyncio import Redis

from service.infra.patience import Patience

WINDOW_SECONDS = 60


async def count(redis: Redis, patience: Patience, client: bytes) -> tuple[int, int] | None:
    """The requests of the client's present minute, with this one, and the seconds left of it; None without Redis.

    A minute begins with a client's first request.
    """

    async def ask() -> tuple[int, int]:
        async with redis.pipeline(transaction=True) as pipe:
            key = b"rate:" + client
            pipe.incr(key)
            pipe.expire(key, WINDOW_SECONDS, nx=True)
            pipe.ttl(key)
            used, _, left = await pipe.execute()
            return used, max(1, left)

    return await patience.ask(ask)
