"""Settings: where they come from, which values are valid, and which combinations are refused."""

import os
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from stripe.params.checkout import SessionCreateParams, SessionCreateParamsShippingAddressCollection

from service.settings import PAYMENT_METHODS, SHIPPING_COUNTRIES, Settings, UnsafeSettings, environment
from tests.client import ADMIN_TOKEN

SAFE = {"DATABASE_URL": "postgresql://db/shop", "STRIPE_API_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRET": "whsec_x"}
LIVE = {
    "STRIPE_API_KEY": "sk_live_x",
    "STRIPE_WEBHOOK_SECRET": "whsec_" + 32 * "S",
    "STRIPE_SUCCESS_URL": "https://shop.example/paid?session={CHECKOUT_SESSION_ID}",
    "STRIPE_CANCEL_URL": "https://shop.example/cart",
    "ADMIN_TOKEN": ADMIN_TOKEN,
    "TRUSTED_PROXIES": "none",
}
# Keys that are not test keys, of any form.
LIVE_KEYS = ("sk_live_x", "rk_live_x", "sk_prod_x", "sk_test", "SK_TEST_x", "pk_test_x", "ek_live_x", "x")


def check(**changed: str) -> Settings:
    settings = Settings.load({**SAFE, **changed})
    settings.refuse_unsafe()
    return settings


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"STRIPE_API_KEY": ""}, "STRIPE_API_KEY"),
        ({"STRIPE_WEBHOOK_SECRET": ""}, "STRIPE_WEBHOOK_SECRET"),
        ({"STRIPE_WEBHOOK_SECRET": " , "}, "STRIPE_WEBHOOK_SECRET"),
        ({"STRIPE_WEBHOOK_SECRET": "", "ALLOW_INSECURE_WEBHOOK": "false"}, "STRIPE_WEBHOOK_SECRET"),
        ({**LIVE, "ALLOW_INSECURE_WEBHOOK": "true"}, "ALLOW_INSECURE_WEBHOOK"),
        ({**LIVE, "ALLOW_INSECURE_WEBHOOK": "true", "STRIPE_WEBHOOK_SECRET": ""}, "ALLOW_INSECURE_WEBHOOK"),
        ({**LIVE, "STRIPE_API_KEY": "rk_live_x", "ALLOW_INSECURE_WEBHOOK": "1"}, "ALLOW_INSECURE_WEBHOOK"),
        *(({**LIVE, "STRIPE_API_KEY": key, "ADMIN_TOKEN": ""}, "ADMIN_TOKEN") for key in LIVE_KEYS),
        *(
            ({**LIVE, "STRIPE_WEBHOOK_SECRET": secret}, "STRIPE_WEBHOOK_SECRET")
            for secret in ("a", "whsec_standin", "we_" + 32 * "S", "whsec_" + 23 * "S", f"whsec_{32 * 'S'},a")
        ),
        ({**LIVE, "STRIPE_API_BASE": "http://api.stripe.com"}, "STRIPE_API_BASE"),
        ({**LIVE, "STRIPE_API_BASE": "http://127.0.0.1:12111"}, "STRIPE_API_BASE"),
        ({**LIVE, "STRIPE_SUCCESS_URL": "http://shop.example/paid"}, "STRIPE_SUCCESS_URL"),
        # The default is a page on localhost.
        ({**LIVE, "STRIPE_SUCCESS_URL": ""}, "STRIPE_SUCCESS_URL"),
        ({**LIVE, "STRIPE_CANCEL_URL": "http://shop.example/cart"}, "STRIPE_CANCEL_URL"),
        ({**LIVE, "TRUSTED_PROXIES": ""}, "TRUSTED_PROXIES"),
        ({"HOLD_SECONDS": "86101"}, "HOLD_SECONDS"),
        ({"AUTH_ISSUER": "https://i.example"}, "AUTH_AUDIENCE"),
        ({"AUTH_AUDIENCE": "shop"}, "AUTH_ISSUER"),
        ({"AUTH_JWKS_URL": "https://i.example/keys"}, "AUTH_ISSUER"),
        ({**LIVE, "AUTH_ISSUER": "http://127.0.0.1:1", "AUTH_AUDIENCE": "shop"}, "AUTH_ISSUER"),
        (
            {**LIVE, "AUTH_ISSUER": "https://i.example", "AUTH_AUDIENCE": "shop", "AUTH_JWKS_URL": "http://localhost"},
            "AUTH_JWKS_URL",
        ),
        *(
            ({"METRICS_PORT": "9100", "METRICS_HOST": host}, "METRICS_HOST")
            for host in ("0.0.0.0", "::", "10.0.0.1", "::ffff:127.0.0.1", "metrics.internal", "127.0.0.1.example")
        ),
    ],
)
def test_unsafe_combinations_are_refused(changed: dict[str, str], why: str) -> None:
    with pytest.raises(UnsafeSettings, match=why) as refused:
        check(**changed)
    assert "_live_x" not in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        LIVE,
        {**LIVE, "STRIPE_API_KEY": "rk_live_x"},
        {**LIVE, "TRUSTED_PROXIES": "10.0.0.0/8"},
        {**LIVE, "ADMIN_TOKEN": "", "AUTH_ISSUER": "https://i.example", "AUTH_AUDIENCE": "shop"},
        {"AUTH_ISSUER": "http://localhost:8090/", "AUTH_AUDIENCE": "shop"},
        {"METRICS_PORT": "9", "METRICS_HOST": "::", "AUTH_ISSUER": "https://i.example", "AUTH_AUDIENCE": "shop"},
        {**LIVE, "STRIPE_API_BASE": "HTTPS://stripe.proxy.example/"},
        {"STRIPE_WEBHOOK_SECRET": "", "ALLOW_INSECURE_WEBHOOK": "true"},
        {"ALLOW_INSECURE_WEBHOOK": "true"},
        {"HOLD_SECONDS": "86100"},
        {"METRICS_PORT": "9100"},
        *({"METRICS_PORT": "9100", "METRICS_HOST": host} for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        {"METRICS_PORT": "9100", "METRICS_HOST": "0.0.0.0", "ADMIN_TOKEN": ADMIN_TOKEN},
        {"METRICS_HOST": "0.0.0.0"},
    ],
)
def test_safe_combinations_are_accepted(changed: dict[str, str]) -> None:
    settings = check(**changed)
    # Stripe allows half an hour to a day; the hold ends before the session.
    assert 1800 < settings.session_seconds <= 86_400
    assert settings.session_seconds > settings.hold_seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://u:hidden@db/shop"),
        ("DATABASE_URL", "hidden"),
        ("MIGRATE_DATABASE_URL", "hidden://db/shop"),
        ("REDIS_URL", "http://hidden/0"),
        *(
            ("DATABASE_URL", f"postgresql://{rest}")
            for rest in (
                "u:hidden@a:0/shop",
                "u:hidden@a:65536/shop",
                "u:hidden@a:1,b:2/shop?port=1,2,3",
                "u:hid@den@a/shop",
                "a/hidden%zz",
                "a/shop?hidden=hidden",
                "a/shop?search_path=hidden",
                "a/shop?service=hidden",
                "a/shop?hostaddr=hidden",
                "a/shop?sslmode=hidden",
                "a/shop?application_name=hidden hidden",
            )
        ),
        ("MIGRATE_DATABASE_URL", "postgresql://a/shop?search_path=hidden"),
        *(
            ("REDIS_URL", url)
            for url in (
                "redis://:hidden@a:6379,b:6379/0",
                "rediss://:hidden@a,b/0",
                "redis://:hidden@a:65536/0",
                "redis://:hidden@a:0/0",
                "redis://a/hidden",
                "redis://a/0/1",
                "redis://a?db=hidden",
                "redis://a/0?hidden=1",
                "redis://a/0?decode_responses=true",
                "redis://a/0?max_connections=hidden",
                "redis://a/0?ssl_cert_reqs=none",
                "unix:///run/redis.sock?db=-1",
            )
        ),
        ("DB_POOL_SIZE", "0"),
        ("DB_POOL_SIZE", "hidden"),
        ("HOLD_SECONDS", "0"),
        ("HOLD_PRESSURE_SECONDS", "0"),
        ("MAX_PENDING_PER_CLIENT", "-1"),
        ("MAX_PER_ORDER", "0"),
        ("MAX_PER_ORDER", "10000"),
        ("HOLD_SECONDS", "-1"),
        ("HOLD_SECONDS", "1.5"),
        ("SWEEP_SECONDS", "0"),
        ("SWEEP_SECONDS", "nan"),
        ("RECONCILE_SECONDS", "-1"),
        ("RECONCILE_SECONDS", "inf"),
        ("STRIPE_TIMEOUT_SECONDS", "61"),
        ("STRIPE_TIMEOUT_SECONDS", "0"),
        ("SEARCH_LANGUAGE", "german; hidden"),
        ("CART_DAYS", "0"),
        ("EVENT_DAYS", "30"),
        ("METRICS_PORT", "65536"),
        ("ALLOW_INSECURE_WEBHOOK", "hidden"),
        ("LOG_LEVEL", "LOUD"),
        ("OTLP_ENDPOINT", "grpc://hidden"),
        ("ADMIN_TOKEN", "hidden"),
        ("ADMIN_TOKEN", "hidden" + 25 * "x"),
        ("ADMIN_TOKEN", "hidden " + 25 * "x"),
        ("ADMIN_TOKEN", "hidden\n" + 25 * "x"),
        ("TRUSTED_PROXIES", "none,10.0.0.0/8"),
        ("TRUSTED_PROXIES", "hidden"),
        ("ALLOW_OPEN_STAFF", "hidden"),
        ("ALLOW_PRIVATE_EVENT_ENDPOINTS", "hidden"),
        *(("HTTPS_PROXY", value) for value in ("socks5://hidden:1080", "http://u:hidden@", "http://h:hidden", "://")),
        *(
            (name, value)
            for name in ("STRIPE_API_BASE", "STRIPE_SUCCESS_URL", "STRIPE_CANCEL_URL")
            for value in (
                "hidden",
                "ftp://hidden",
                "https:/hidden",
                "https://",
                "https://u:hidden@h/",
                "http://h:hidden",
            )
        ),
        *(
            ("EXCLUDED_PAYMENT_METHODS", value)
            for value in ("hidden", "card,hidden", "Boleto", "boleto;oxxo", "card é")
        ),
    ],
)
def test_an_invalid_value_is_refused_by_name_without_the_value(name: str, value: str) -> None:
    with pytest.raises(UnsafeSettings, match=f"^{name}: ") as refused:
        check(**{name: value})
    assert "hidden" not in str(refused.value)


NUMBERS = [name.upper() for name, field in Settings.model_fields.items() if field.annotation in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["-1", "1e400", "9" * 30, "nan", "inf", "0x10", "1,5", "seven"])
def test_every_number_is_bounded(name: str, value: str) -> None:
    with pytest.raises(UnsafeSettings, match=f"^{name}: "):
        check(**{name: value})


@pytest.mark.parametrize(
    ("changed", "proxy"),
    [
        ({"HTTPS_PROXY": "http://u:p@proxy:3128"}, "http://u:p@proxy:3128"),
        ({"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:1"}, "http://upper:1"),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "example.com, other.example"}, "http://proxy"),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "other.example, .stripe.com"}, None),
        ({"HTTPS_PROXY": "http://proxy", "no_proxy": "API.stripe.com"}, None),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "ipe.com"}, "http://proxy"),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://proxy", "STRIPE_API_BASE": "http://127.0.0.1:12111"}, None),
        ({"NO_PROXY": "x"}, None),
    ],
)
def test_the_proxy_for_stripe_is_found_as_by_other_programs(changed: dict[str, str], proxy: str | None) -> None:
    assert check(**changed).proxy_for(check(**changed).stripe_api_base) == proxy


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(UnsafeSettings) as refused:
        check(DATABASE_URL="", HOLD_SECONDS="x", METRICS_PORT="-1")
    assert [wrong.split(":")[0] for wrong in str(refused.value).split("; ")] == [
        "DATABASE_URL",
        "HOLD_SECONDS",
        "METRICS_PORT",
    ]


def test_the_payment_methods_are_those_that_stripe_lists() -> None:
    (names,) = get_args(SessionCreateParams.__annotations__["excluded_payment_method_types"])
    literal, _ = get_args(get_args(names)[0])

    assert set(get_args(literal)) == PAYMENT_METHODS
    assert check(EXCLUDED_PAYMENT_METHODS=" boleto , sepa_debit,").excluded_payment_methods == ("boleto", "sepa_debit")


def test_the_shipping_countries_are_those_that_stripe_lists() -> None:
    countries = get_type_hints(SessionCreateParamsShippingAddressCollection)["allowed_countries"]
    (literal, _) = get_args(get_args(countries)[0])

    assert set(get_args(literal)) == SHIPPING_COUNTRIES
    assert check(SHIPPING_COUNTRIES=" DE , AT,").shipping_countries == ("DE", "AT")
    for wrong in ("XX", "de", "DE;AT", "CU"):
        with pytest.raises(UnsafeSettings, match="SHIPPING_COUNTRIES"):
            check(SHIPPING_COUNTRIES=wrong)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"])
def test_a_database_url_names_no_driver(scheme: str) -> None:
    rest = "://u:p%40ss@db:5432/shop?sslmode=require"
    settings = check(DATABASE_URL=scheme + rest, MIGRATE_DATABASE_URL=scheme + rest)
    assert settings.database_url == settings.migrate_database_url == "postgresql" + rest


@pytest.mark.parametrize(
    "url",
    [
        "redis://r/0",
        "redis://r",
        "redis://[::1]:6379/0",
        "redis://r?db=2&client_name=shop",
        "rediss://u:p@r:6380/1",
        "rediss://r/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_a_redis_url_may_be(url: str) -> None:
    assert check(REDIS_URL=url).redis_url == url


@pytest.mark.parametrize(
    "rest",
    [
        "u:p@a:5432,b:5433/shop",
        "u:p@a,b/shop?port=5433",
        "u:p@[::1]:5432,[::2]/shop?sslmode=verify-full&sslrootcert=/ca.pem",
        "/shop?host=/run/postgresql",
        "u:p@a/shop?sslmode=require&channel_binding=require&connect_timeout=5",
        "u:p@a/shop?options=-c%20search_path%3Dshop&application_name=x&target_session_attrs=any",
    ],
)
def test_a_database_url_may_be(rest: str) -> None:
    assert check(DATABASE_URL=f"postgresql://{rest}").database_url == f"postgresql://{rest}"


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings.load({"DATABASE_URL": SAFE["DATABASE_URL"]})
    assert (settings.hold_seconds, settings.sweep_seconds, settings.reconcile_seconds) == (1800, 10, 300)
    assert (settings.cors_origins, settings.admin_token, settings.allow_insecure_webhook) == ((), "", False)


def test_lists_are_split_at_commas() -> None:
    settings = check(
        STRIPE_WEBHOOK_SECRET="whsec_new, whsec_old,", CORS_ORIGINS=" https://a.example ,https://b.example"
    )
    assert settings.stripe_webhook_secret == ("whsec_new", "whsec_old")
    assert settings.cors_origins == ("https://a.example", "https://b.example")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower() in Settings.model_fields]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    token = "a=b#c" + ADMIN_TOKEN
    lines = ("# a comment", "DATABASE_URL=postgres://file/shop", "HOLD_SECONDS=60", "export DB_POOL_SIZE='3'")
    Path(".env").write_text("\n".join((*lines, f"ADMIN_TOKEN={token}\n")))
    monkeypatch.setenv("HOLD_SECONDS", "90")
    monkeypatch.setenv("DB_POOL_SIZE", "")  # as good as not set
    settings = Settings.load()
    assert (settings.database_url, settings.hold_seconds) == ("postgresql://file/shop", 90)
    assert (settings.db_pool_size, settings.admin_token) == (3, token)
    assert environment()["HOLD_SECONDS"] == "90"
    Path(".env").unlink()
    with pytest.raises(UnsafeSettings, match=r"^DATABASE_URL: "):
        Settings.load()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "", "shop.internal", "::ffff:127.0.0.1"])
def test_staff_calls_are_open_on_loopback_only(host: str) -> None:
    check(AUTH_ISSUER="https://i.example", AUTH_AUDIENCE="shop").refuse_open_staff(host)
    with pytest.raises(UnsafeSettings, match="ADMIN_TOKEN"):
        check().refuse_open_staff(host)

    check(ADMIN_TOKEN=ADMIN_TOKEN).refuse_open_staff(host)
    check(ALLOW_OPEN_STAFF="true").refuse_open_staff(host)
    for loopback in ("127.0.0.1", "::1", "localhost"):
        check().refuse_open_staff(loopback)


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_every_setting_may_come_from_a_file(name: str, tmp_path: Path) -> None:
    values = {**SAFE, **LIVE, "METRICS_HOST": "::1", "LOG_LEVEL": "ERROR", "MIGRATE_DATABASE_URL": "postgresql://m/x"}
    values |= {
        "STRIPE_ACCOUNT": "acct_1",
        "CORS_ORIGINS": "https://a.example",
        "EXCLUDED_PAYMENT_METHODS": "boleto",
        "SHIPPING_COUNTRIES": "DE",
    }
    values |= {"REDIS_URL": "redis://r/1", "STRIPE_API_BASE": "https://s.example", "METRICS_PORT": "9000"}
    values |= {"AUTH_ISSUER": "https://i.example", "AUTH_AUDIENCE": "shop", "AUTH_JWKS_URL": "https://i.example/keys"}
    values |= {"AUTH_ALGORITHMS": "RS256", "AUTH_TYPES": "JWT", "AUTH_ROLES_CLAIM": "groups"}
    values |= {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "s.example", "OTLP_ENDPOINT": "http://collector:4318"}
    values |= {"SEARCH_LANGUAGE": "german"}
    value = values.pop(name, "60" if "SECONDS" in name else "true" if name.startswith("ALLOW") else "40")
    (file := tmp_path / "value").write_text(f"{value}\n")

    by_file = Settings.load({**values, f"{name}_FILE": str(file)})

    assert by_file == Settings.load({**values, name: value})
    assert by_file != Settings.load({"DATABASE_URL": "postgresql://other/shop", **values})


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A secret that is missing would count as not set, and open what it guards."""
    for content in ("", " \n", "\xff".encode("latin-1")):
        file = tmp_path / "hidden"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UnsafeSettings, match=r"^ADMIN_TOKEN_FILE: ") as refused:
            check(ADMIN_TOKEN_FILE=str(file))
        assert "hidden" not in str(refused.value)
    for missing in (tmp_path, tmp_path / "none"):
        with pytest.raises(UnsafeSettings, match=r"^ADMIN_TOKEN_FILE: "):
            check(ADMIN_TOKEN_FILE=str(missing))
    with pytest.raises(UnsafeSettings, match=r"^ADMIN_TOKEN and ADMIN_TOKEN_FILE are both set"):
        check(ADMIN_TOKEN=ADMIN_TOKEN, ADMIN_TOKEN_FILE=str(file))


def test_a_file_in_dotenv_gives_way_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("port").write_text("9101")
    Path(".env").write_text("METRICS_PORT_FILE=port\n")
    monkeypatch.delenv("METRICS_PORT", raising=False)
    assert environment()["METRICS_PORT"] == "9101"
    assert "METRICS_PORT_FILE" not in environment()

    monkeypatch.setenv("METRICS_PORT", "9102")

    assert environment()["METRICS_PORT"] == "9102"


def test_secrets_are_not_shown() -> None:
    secret = {
        "DATABASE_URL": "postgresql://u:hidden@db/shop",
        "MIGRATE_DATABASE_URL": "postgresql://u:hidden@db/shop",
        "REDIS_URL": "redis://:hidden@r/0",
        "STRIPE_API_KEY": "sk_test_hidden",
        "STRIPE_WEBHOOK_SECRET": "hidden",
        "ADMIN_TOKEN": "hidden" + 26 * "x",
    }
    assert "hidden" not in repr(check(**secret))
