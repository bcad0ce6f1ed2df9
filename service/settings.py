"""All settings, read from the environment here and nowhere else."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import parse_qsl, urlsplit

import psycopg
from dotenv import dotenv_values
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

DAY = 86_400
# A payment session lives this much longer than its hold, so that our expiry closes it before Stripe does.
SESSION_MARGIN_SECONDS = 300


class UnsafeSettings(Exception):
    """Settings are missing, invalid or unsafe in combination; the text says which and why."""


def _comma_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _networks(proxies: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if proxies == ("none",):
        return ()
    for proxy in proxies or ():
        try:
            network = ip_network(proxy)
        except ValueError:
            raise ValueError("must be a list of addresses and networks, such as 10.0.0.0/8, or none") from None
        if network.prefixlen == 0:
            raise ValueError("must not trust every address: any client could then choose its own address")
    return proxies


# What a database URL may say beside the login and the hosts: what both drivers can do, or what can be left to them.
_DATABASE_PARAMETERS = frozenset(
    (
        "host port user password dbname passfile options target_session_attrs application_name "
        "fallback_application_name client_encoding connect_timeout keepalives keepalives_idle keepalives_interval "
        "keepalives_count tcp_user_timeout load_balance_hosts channel_binding gssencmode sslmode sslcert sslkey "
        "sslrootcert sslcrl sslpassword ssl_min_protocol_version ssl_max_protocol_version sslnegotiation sslsni "
        "sslcompression"
    ).split()
)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_REDIS_PARAMETERS = {"db", "username", "password", "client_name"}
_REDISS_PARAMETERS = _REDIS_PARAMETERS | {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}


def _database_url(url: str) -> str:
    """Refuse what one driver reads and the other does not: asyncpg serves, psycopg migrates."""
    try:
        parameters = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ValueError(
            "has a parameter that PostgreSQL's clients do not know. Write a server's parameter as "
            "options=-c%20name%3Dvalue"
        ) from None
    if unusable := sorted(parameters.keys() - _DATABASE_PARAMETERS):
        raise ValueError(f"has parameters that the service cannot use: {', '.join(unusable)}")
    hosts, ports = (str(parameters.get(name, "")).split(",") for name in ("host", "port"))
    if len(ports) not in (1, len(hosts)) or not all(port == "" or _is_port(port) for port in ports):
        raise ValueError("must have a port from 1 to 65535 for each host, or one for all, or none")
    if parameters.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError(f"must have one of these as sslmode: {', '.join(_SSL_MODES)}")
    return url


def _redis_url(url: str) -> str:
    """Refuse several hosts, and what the client would ignore or misread."""
    split = urlsplit(url)
    if "," in split.netloc.rpartition("@")[2]:
        raise ValueError("must name one host. For a failover, move the host's name or put a proxy in front")
    port = split.netloc.rpartition("@")[2].rpartition("]")[2].rpartition(":")[2]
    parameters = dict(parse_qsl(split.query, keep_blank_values=True))
    database = parameters.get("db", "" if split.scheme == "unix" else split.path.strip("/"))
    if port.isdigit() and not _is_port(port):
        raise ValueError("must have a port from 1 to 65535")
    if not re.fullmatch("[0-9]*", database):
        raise ValueError("must end with a database's number, such as /0")
    usable = _REDISS_PARAMETERS if split.scheme == "rediss" else _REDIS_PARAMETERS
    if not usable.issuperset(parameters):
        raise ValueError(f"may have only these parameters: {', '.join(sorted(usable))}")
    return url


def _is_port(port: str) -> bool:
    return bool(re.fullmatch("[0-9]{1,5}", port)) and 1 <= int(port) <= 65_535


# A login and hosts. PostgreSQL may have several hosts; a socket has none.
_HOST = r"(\[[^\[\]]+\]|[^\[\]:,@]*)(:[0-9]+)?"
_ADDRESS = re.compile(rf"[^/?#]*://([^/?#\[\]@]*@)?{_HOST}(,{_HOST})*([/?#]|$)")


def _server_url(url: str) -> str:
    """Refuse a malformed URL here, because the drivers' errors quote a part of the password."""
    if not _ADDRESS.match(url):
        raise ValueError("is not a server's URL. In a password, write special characters as %2F and so on")
    return url


def _web_url(url: str) -> str:
    """Refuse what is no http or https URL of a host."""
    try:
        split = urlsplit(url)
        valid = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
    except ValueError:
        valid = False
    if not valid or split.username is not None:
        raise ValueError("must be a URL that begins with http:// or https:// and a host, without a login")
    return url


def _proxy_url(url: str) -> str:
    """A proxy's URL; without a scheme it is http's, as for other programs."""
    url = url if "://" in url else f"http://{url}"
    try:
        split = urlsplit(url)
        if split.scheme in ("http", "https") and split.hostname and split.port != 0:
            return url
    except ValueError:
        pass
    raise ValueError("must be the URL of an HTTP proxy, such as http://proxy.internal:3128")


# The payment methods that Stripe can leave out of a session, as the SDK lists them.
PAYMENT_METHODS = frozenset(
    (
        "acss_debit affirm afterpay_clearpay alipay alma amazon_pay au_becs_debit bacs_debit bancontact billie bizum "
        "blik boleto card cashapp crypto customer_balance eps fpx giropay grabpay ideal kakao_pay klarna konbini "
        "kr_card mb_way mobilepay multibanco naver_pay nz_bank_account oxxo p24 pay_by_bank payco paynow paypal "
        "paypay payto pix promptpay revolut_pay samsung_pay satispay scalapay sepa_debit sequra sofort sunbit swish "
        "twint upi us_bank_account wechat_pay zip"
    ).split()
)


def _payment_methods(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a name that Stripe does not know: a typing error would let the method in, or fail every checkout."""
    if not PAYMENT_METHODS.issuperset(names):
        raise ValueError("must be a list of Stripe's payment methods, such as boleto or sepa_debit")
    return names


# The countries to which Stripe Checkout collects addresses: Stripe's list.
SHIPPING_COUNTRIES = frozenset(
    "AC AD AE AF AG AI AL AM AO AQ AR AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY "
    "BZ CA CD CF CG CH CI CK CL CM CN CO CR CV CW CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FO FR GA "
    "GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HN HR HT HU ID IE IL IM IN IO IQ IS IT JE JM JO JP "
    "KE KG KH KI KM KN KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MK ML MM MN MO MQ MR MS MT "
    "MU MV MW MX MY MZ NA NC NE NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PY QA RE RO RS RU "
    "RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SZ TA TC TD TF TG TH TJ TK TL TM TN TO TR TT TV "
    "TW TZ UA UG US UY UZ VA VC VE VG VN VU WF WS XK YE YT ZA ZM ZW ZZ".split()
)


def _countries(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a code that Stripe does not know: it would fail every checkout."""
    if not SHIPPING_COUNTRIES.issuperset(codes):
        raise ValueError("must be a list of ISO 3166-1 alpha-2 codes that Stripe ships to, such as DE or AT")
    return codes


# Asymmetric only: with a shared secret, everybody who can verify a token can also make one.
AUTH_ALGORITHMS = ("ES256", "EdDSA", "RS256")


def _algorithms(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or not set(AUTH_ALGORITHMS).issuperset(names):
        raise ValueError(f"must be a list of these: {', '.join(AUTH_ALGORITHMS)}")
    return names


def identity_url(url: str) -> str:
    """Refuse plain http, except on this machine: a person who changes the keys on their way can sign any token."""
    split = urlsplit(_web_url(url))
    if split.scheme != "https" and not is_loopback(split.hostname or ""):
        raise ValueError("must begin with https://, or name this machine")
    return url


# Stripe's prefix and its random part.
_WEBHOOK_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{24,}")

# Every other key may move real money.
TEST_KEYS = ("sk_test_", "rk_test_")
_LIVE = "A key that does not begin with sk_test_ or rk_test_ counts as a live Stripe key. With it, "

DatabaseUrl = Annotated[str, AfterValidator(_server_url), AfterValidator(_database_url)]
RedisUrl = Annotated[str, AfterValidator(_server_url), AfterValidator(_redis_url)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
IdentityUrl = Annotated[str, AfterValidator(identity_url)]
CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]


class Settings(BaseModel):
    """The settings, named like their environment variables in lower case. Times are in seconds."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: DatabaseUrl = Field(pattern="^postgresql://", repr=False)
    migrate_database_url: DatabaseUrl = Field(default="", pattern="^postgresql://", repr=False)
    redis_url: RedisUrl = Field(default="redis://127.0.0.1:6379/0", pattern="^(redis|rediss|unix)://", repr=False)
    db_pool_size: int = Field(default=10, ge=1, le=1000)
    # The default is more than there are statements: a connection prepares each only once. 0: none is kept prepared.
    db_statement_cache_size: int = Field(default=200, ge=0, le=10_000)
    max_in_flight: int = Field(default=1024, ge=1, le=100_000)

    # Only characters that are allowed in a header.
    stripe_api_key: str = Field(default="", pattern="^[!-~]*$", repr=False)
    stripe_api_base: WebUrl = "https://api.stripe.com"
    # For calls to Stripe and to the identity provider, as other programs understand them.
    https_proxy: Annotated[str, AfterValidator(_proxy_url)] = Field(default="", repr=False)
    no_proxy: CommaList = ()
    stripe_timeout_seconds: float = Field(default=10, gt=0, le=60)
    # All secrets of a comma-separated list are accepted, so that a secret can be rotated.
    stripe_webhook_secret: CommaList = Field(default=(), repr=False)
    allow_insecure_webhook: bool = False
    # Events that name another connected account are ignored; if this is empty, events that name any account.
    stripe_account: str = ""
    stripe_success_url: WebUrl = "http://localhost:8080/payments/success"
    stripe_cancel_url: WebUrl = "http://localhost:8080/payments/cancel"
    # Never offered: vouchers, for example, hold the units for days.
    excluded_payment_methods: Annotated[CommaList, AfterValidator(_payment_methods)] = ()
    # Where the shop ships to. Stripe Checkout then collects an address and a phone number.
    shipping_countries: Annotated[CommaList, AfterValidator(_countries)] = ()

    # Longer ones could not be sent: service/infra/credentials.py.
    admin_token: str = Field(default="", min_length=32, max_length=4096, pattern=r"^\S*$", repr=False)
    # Whether the staff calls of a demo without ADMIN_TOKEN and AUTH_ISSUER may be open to other machines.
    allow_open_staff: bool = False
    # The identity provider whose access tokens are accepted; empty: none. Tokens name it exactly like this.
    auth_issuer: IdentityUrl = ""
    # How tokens name this service.
    auth_audience: str = Field(default="", max_length=255, pattern=r"^(\S(.*\S)?)?$")
    # The provider's keys; by default where its metadata says.
    auth_jwks_url: IdentityUrl = ""
    auth_algorithms: Annotated[CommaList, AfterValidator(_algorithms)] = AUTH_ALGORITHMS
    # The `typ` of access tokens. RFC 9068 has a type of its own, so that an ID token is not taken for one.
    auth_types: CommaList = Field(default=("at+jwt",), min_length=1)
    # The claim with the roles, or a path to it with dots.
    auth_roles_claim: str = Field(default="roles", min_length=1)
    # How much the provider's clock may differ from ours.
    auth_leeway_seconds: int = Field(default=30, ge=0, le=300)
    # The longest life of a token that is accepted.
    auth_max_token_seconds: int = Field(default=DAY, ge=60, le=7 * DAY)
    cors_origins: CommaList = ()
    # None: not set. A live key needs it, and `none` is an empty list.
    trusted_proxies: Annotated[CommaList | None, AfterValidator(_networks)] = None
    rate_limit_per_minute: int = Field(default=0, ge=0, le=1_000_000)
    # 0: no limits of one client's pending orders and their units.
    max_pending_per_client: int = Field(default=5, ge=0, le=1_000_000)
    # For products without a limit of their own.
    max_per_order: int = Field(default=100, ge=1, le=9_999)

    hold_seconds: int = Field(default=1800, ge=1, le=DAY)
    # Of new holds with a product whose units are mostly in unpaid holds; never longer than hold_seconds.
    hold_pressure_seconds: int = Field(default=600, ge=1, le=DAY)
    sweep_seconds: float = Field(default=10, gt=0, le=DAY)
    reconcile_seconds: float = Field(default=300, gt=0, le=DAY)
    cart_days: int = Field(default=30, ge=1, le=3650)
    # How long a payment that takes days may keep its units.
    processing_days: int = Field(default=21, ge=1, le=365)
    # Longer than the 30 days in which Stripe may send an event again.
    event_days: int = Field(default=90, ge=31, le=3650)
    # Also over http; for development, and for receivers in the same private network.
    allow_private_event_endpoints: bool = False
    # The text search configuration of the catalogue's language; its words are indexed anew when it changes.
    search_language: str = Field(default="simple", pattern="^[a-z_][a-z0-9_]{0,62}$")
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65_535)
    # Where spans are sent by OpenTelemetry's protocol over HTTP; empty: no traces.
    otlp_endpoint: str = Field(default="", pattern="^https?://[^/]", repr=False)
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @classmethod
    def load(cls, environ: Mapping[str, str | None] | None = None) -> Self:
        """Read the environment, and `.env` for what it does not set. An empty value counts as not set.

        Any value may come from a file, by NAME_FILE. Raises UnsafeSettings with the name of every missing or invalid
        setting, but never with its value.
        """
        environ = environment() if environ is None else _with_files(environ)
        values = {name: environ[name.upper()] for name in cls.model_fields if environ.get(name.upper())}
        for name in ("database_url", "migrate_database_url"):
            if url := values.get(name):
                values[name] = plain_database_url(url)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            mistakes = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
            raise UnsafeSettings(mistakes) from None

    @property
    def live(self) -> bool:
        """Whether the Stripe key may move real money: whether it is anything but a test key."""
        return not self.stripe_api_key.startswith(TEST_KEYS)

    def proxy_for(self, url: str) -> str | None:
        """The proxy for calls to this URL: for https, and not for a host or domain in NO_PROXY."""
        base = urlsplit(url)
        domains = [name.lower().lstrip(".") for name in self.no_proxy]
        bypassed = any(name == "*" or f".{base.hostname}".endswith(f".{name}") for name in domains)
        return self.https_proxy if self.https_proxy and base.scheme == "https" and not bypassed else None

    @property
    def open_staff(self) -> bool:
        """Whether everybody has the rights of staff: in a demo without ADMIN_TOKEN and AUTH_ISSUER."""
        return not (self.admin_token or self.auth_issuer)

    @property
    def session_seconds(self) -> int:
        """How long a payment session lives. Stripe allows 30 minutes to 24 hours."""
        return max(self.hold_seconds, 1800) + SESSION_MARGIN_SECONDS

    def refuse_unsafe_calls(self) -> None:
        """Raise UnsafeSettings if Stripe cannot be called, or if a live key could be read on the way."""
        if not self.stripe_api_key:
            raise UnsafeSettings("STRIPE_API_KEY is not set.")
        if self.live and urlsplit(self.stripe_api_base).scheme != "https":
            raise UnsafeSettings(f"{_LIVE}STRIPE_API_BASE must begin with https://.")

    def refuse_unsafe(self) -> None:
        """Raise UnsafeSettings if these settings could cost the shop money."""
        self.refuse_unsafe_calls()
        if not self.stripe_webhook_secret and not self.allow_insecure_webhook:
            raise UnsafeSettings(
                "STRIPE_WEBHOOK_SECRET is empty: anybody could report a payment. "
                "Set it, or ALLOW_INSECURE_WEBHOOK=true for local testing."
            )
        if self.live:
            self._refuse_unsafe_with_live_key()
        if self.metrics_port and not is_loopback(self.metrics_host) and self.open_staff:
            raise UnsafeSettings(
                "METRICS_HOST is not a loopback address, and neither ADMIN_TOKEN nor AUTH_ISSUER is set: "
                "the metrics would be open to everybody."
            )
        if self.auth_issuer and not self.auth_audience:
            raise UnsafeSettings("AUTH_ISSUER needs AUTH_AUDIENCE: tokens for other services would be accepted.")
        if not self.auth_issuer and (self.auth_audience or self.auth_jwks_url):
            raise UnsafeSettings("AUTH_AUDIENCE and AUTH_JWKS_URL need AUTH_ISSUER: no token would be accepted.")
        if self.otlp_endpoint and not has_tracing():
            raise UnsafeSettings("OTLP_ENDPOINT needs the extra `tracing`: pip install 'commerce-core[tracing]'.")
        if self.hold_seconds > DAY - SESSION_MARGIN_SECONDS:
            raise UnsafeSettings(
                f"HOLD_SECONDS is over {DAY - SESSION_MARGIN_SECONDS}: a Stripe session lives at most 24 hours "
                f"and must outlive the hold by {SESSION_MARGIN_SECONDS} seconds."
            )

    def _refuse_unsafe_with_live_key(self) -> None:
        if self.allow_insecure_webhook:
            raise UnsafeSettings(f"{_LIVE}ALLOW_INSECURE_WEBHOOK is not allowed.")
        if not all(map(_WEBHOOK_SECRET.fullmatch, self.stripe_webhook_secret)):
            raise UnsafeSettings(
                f"{_LIVE}each STRIPE_WEBHOOK_SECRET must be whsec_ and at least 24 characters of Stripe's."
            )
        if self.open_staff:
            raise UnsafeSettings(
                f"{_LIVE}ADMIN_TOKEN or AUTH_ISSUER must be set: staff calls would be open to everybody."
            )
        for name in ("stripe_success_url", "stripe_cancel_url", "auth_issuer", "auth_jwks_url"):
            if (url := getattr(self, name)) and urlsplit(url).scheme != "https":
                raise UnsafeSettings(f"{_LIVE}{name.upper()} must begin with https://.")
        if self.trusted_proxies is None:
            raise UnsafeSettings(
                f"{_LIVE}TRUSTED_PROXIES must be set: the proxies in front of the service, or none. "
                "All customers behind an unknown proxy would count as one client."
            )

    def refuse_open_staff(self, host: str) -> None:
        """Raise UnsafeSettings if staff calls would be open to other machines on this address to listen on."""
        if self.open_staff and not (self.allow_open_staff or is_loopback(host)):
            raise UnsafeSettings(
                f"ADMIN_TOKEN and AUTH_ISSUER are empty, and --host {host} is not a loopback address: staff calls "
                "would be open to everybody. Set one of them, or ALLOW_OPEN_STAFF=true for a demo."
            )


def has_tracing() -> bool:
    """Whether the extra `tracing` is installed."""
    try:
        return all(map(find_spec, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")))
    except ModuleNotFoundError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to this address."""
    try:
        address = ip_address(host)
        # Python 3.13 counts ::ffff:127.0.0.1 as loopback, 3.11 does not: refused on both.
        return address.is_loopback and not getattr(address, "ipv4_mapped", None)
    except ValueError:
        return host == "localhost"


def environment() -> dict[str, str]:
    """The environment, and `.env` for what it does not set, without empty values. Settings in files are read.

    Raises UnsafeSettings if such a file cannot be read.
    """
    return {**_with_files(dotenv_values(".env")), **_with_files(os.environ)}


def _with_files(environ: Mapping[str, str | None]) -> dict[str, str]:
    """The values that are not empty; each setting NAME_FILE becomes NAME with the content of that file.

    Raises UnsafeSettings if a file is empty or cannot be read, or if NAME is set too: a missing secret would count as
    not set.
    """
    values = {name: value for name, value in environ.items() if value}
    for name in ("HTTPS_PROXY", "NO_PROXY"):
        # Many programs know these in lower case only.
        if lower := values.pop(name.lower(), None):
            values.setdefault(name, lower)
    for name in map(str.upper, Settings.model_fields):
        if (path := values.pop(f"{name}_FILE", None)) is None:
            continue
        if name in values:
            raise UnsafeSettings(f"{name} and {name}_FILE are both set.")
        try:
            values[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
            raise UnsafeSettings(f"{name}_FILE: the file cannot be read: {reason}.") from None
        if not values[name]:
            raise UnsafeSettings(f"{name}_FILE: the file is empty.")
    return values


def plain_database_url(url: str) -> str:
    """A database URL without a driver: `postgresql+psycopg://…` and `postgres://…` become `postgresql://…`."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql://{rest}" if separator and scheme.split("+")[0] in ("postgresql", "postgres") else url
