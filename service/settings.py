"""Every setting the service has, read in one place."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Annotated, Self

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

DAY = 86_400
# A session outlives its hold by this much, so that the expiry closes it before Stripe does by itself.
SESSION_MARGIN_SECONDS = 300


class UnsafeSettings(Exception):
    """Settings that are missing, unreadable or dangerous together; the text says which and why."""


def _comma_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _networks(proxies: tuple[str, ...]) -> tuple[str, ...]:
    for proxy in proxies:
        try:
            network = ip_network(proxy)
        except ValueError:
            raise ValueError("is a list of addresses and networks like 10.0.0.0/8") from None
        if network.prefixlen == 0:
            raise ValueError("trusts everybody, so anybody could say who they are")
    return proxies


# Who, and where: several servers, for PostgreSQL; none, for a socket.
_HOST = r"(\[[^\[\]]+\]|[^\[\]:,@]*)(:[0-9]+)?"
_ADDRESS = re.compile(rf"[^/?#]*://([^/?#\[\]]*@)?{_HOST}(,{_HOST})*([/?#]|$)")


def _server_url(url: str) -> str:
    """Refuse what the drivers would refuse, in words that have a part of the password in them."""
    if not _ADDRESS.match(url):
        raise ValueError("is no server's URL; is the password written with its special characters as %2F and so on?")
    return url


ServerUrl = Annotated[str, AfterValidator(_server_url)]
CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]


class Settings(BaseModel):
    """The settings under their environment names in lower case; times are seconds."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: ServerUrl = Field(pattern="^postgresql://", repr=False)
    migrate_database_url: ServerUrl = Field(default="", pattern="^postgresql://", repr=False)
    redis_url: ServerUrl = Field(default="redis://127.0.0.1:6379/0", pattern="^(redis|rediss|unix)://", repr=False)
    db_pool_size: int = Field(default=10, ge=1, le=1000)
    max_in_flight: int = Field(default=1024, ge=1)

    # As a header takes it.
    stripe_api_key: str = Field(default="", pattern="^[!-~]*$", repr=False)
    stripe_api_base: str = "https://api.stripe.com"
    stripe_timeout_seconds: float = Field(default=10, gt=0, le=60)
    # Several secrets, separated by commas, are all accepted: that is how one is rotated.
    stripe_webhook_secret: CommaList = Field(default=(), repr=False)
    allow_insecure_webhook: bool = False
    # Events that name another account, or any account while this is empty, are not about our payments.
    stripe_account: str = ""
    stripe_success_url: str = "http://localhost:8080/payments/success"
    stripe_cancel_url: str = "http://localhost:8080/payments/cancel"

    admin_token: str = Field(default="", repr=False)
    cors_origins: CommaList = ()
    trusted_proxies: Annotated[CommaList, AfterValidator(_networks)] = ()
    rate_limit_per_minute: int = Field(default=0, ge=0)
    max_pending_per_client: int = Field(default=0, ge=0)

    hold_seconds: int = Field(default=1800, ge=1)
    sweep_seconds: float = Field(default=10, gt=0, le=DAY)
    reconcile_seconds: float = Field(default=300, gt=0, le=DAY)
    cart_days: int = Field(default=30, ge=1, le=3650)
    # Longer than Stripe keeps an event, and so can send it again.
    event_days: int = Field(default=90, ge=31, le=3650)
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65_535)
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @classmethod
    def load(cls, environ: Mapping[str, str | None] | None = None) -> Self:
        """Read the environment, then `.env` for what it does not set; an empty value counts as not set.

        Raises UnsafeSettings, naming each setting that is missing or unreadable but never its value.
        """
        if environ is None:
            environ = environment()
        given = {name: environ[name.upper()] for name in cls.model_fields if environ.get(name.upper())}
        if url := given.get("database_url"):
            given["database_url"] = plain_database_url(url)
        if url := given.get("migrate_database_url"):
            given["migrate_database_url"] = plain_database_url(url)
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
            raise UnsafeSettings(wrong) from None

    @property
    def live(self) -> bool:
        """Whether the Stripe key moves real money."""
        return self.stripe_api_key.startswith(("sk_live_", "rk_live_"))

    @property
    def session_seconds(self) -> int:
        """How long a Stripe session lives: Stripe allows 30 minutes to 24 hours."""
        return max(self.hold_seconds, 1800) + SESSION_MARGIN_SECONDS

    def refuse_unsafe(self) -> None:
        """Raise UnsafeSettings where serving with these settings could cost the shop money."""
        if not self.stripe_api_key:
            raise UnsafeSettings("STRIPE_API_KEY is not set.")
        if not self.stripe_webhook_secret and not self.allow_insecure_webhook:
            raise UnsafeSettings(
                "STRIPE_WEBHOOK_SECRET is empty, so anybody could report a payment. "
                "Set it, or ALLOW_INSECURE_WEBHOOK=true for local testing."
            )
        if self.live and self.allow_insecure_webhook:
            raise UnsafeSettings("ALLOW_INSECURE_WEBHOOK is not allowed with a live Stripe key.")
        if self.live and not self.admin_token:
            raise UnsafeSettings("ADMIN_TOKEN is empty: staff calls would be open to all, with a live Stripe key.")
        if self.metrics_port and not is_loopback(self.metrics_host) and not self.admin_token:
            raise UnsafeSettings(
                "METRICS_HOST is not an address of this machine alone, and ADMIN_TOKEN is empty: "
                "the metrics would be open to everybody."
            )
        if self.hold_seconds > DAY - SESSION_MARGIN_SECONDS:
            raise UnsafeSettings(
                f"HOLD_SECONDS is over {DAY - SESSION_MARGIN_SECONDS}: a Stripe session lives at most 24 hours "
                f"and must outlive the hold by {SESSION_MARGIN_SECONDS} seconds."
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def environment() -> dict[str, str]:
    """The environment over `.env`, without what is empty."""
    return {name: value for name, value in (*dotenv_values(".env").items(), *os.environ.items()) if value}


def plain_database_url(url: str) -> str:
    """A database URL without a driver: `postgresql+psycopg://…` and `postgres://…` become `postgresql://…`."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql://{rest}" if separator and scheme.split("+")[0] in ("postgresql", "postgres") else url
