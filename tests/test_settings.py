"""Settings: where they come from, which values are valid, and which combinations are refused."""

import os
from pathlib import Path
from typing import get_args

import pytest
from stripe.params.checkout import SessionCreateParams

from service.settings import PAYMENT_METHODS, Settings, UnsafeSettings, environment

SAFE = {"DATABASE_URL": "postgresql://db/shop", "STRIPE_API_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRET": "whsec_x"}
LIVE = {"STRIPE_API_KEY": "sk_live_x", "ADMIN_TOKEN": "token"}


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
        ({**LIVE, "ADMIN_TOKEN": ""}, "ADMIN_TOKEN"),
        ({**LIVE, "STRIPE_API_KEY": "rk_live_x", "ADMIN_TOKEN": ""}, "ADMIN_TOKEN"),
        ({"HOLD_SECONDS": "86101"}, "HOLD_SECONDS"),
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
        {"STRIPE_WEBHOOK_SECRET": "", "ALLOW_INSECURE_WEBHOOK": "true"},
        {"ALLOW_INSECURE_WEBHOOK": "true"},
        {"HOLD_SECONDS": "86100"},
        {"METRICS_PORT": "9100"},
        *({"METRICS_PORT": "9100", "METRICS_HOST": host} for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        {"METRICS_PORT": "9100", "METRICS_HOST": "0.0.0.0", "ADMIN_TOKEN": "token"},
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
        ("CART_DAYS", "0"),
        ("EVENT_DAYS", "30"),
        ("METRICS_PORT", "65536"),
        ("ALLOW_INSECURE_WEBHOOK", "hidden"),
        ("LOG_LEVEL", "LOUD"),
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


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg"])
def test_a_database_url_names_no_driver(scheme: str) -> None:
    rest = "://u:p%40ss@db:5432/shop?sslmode=require"
    settings = check(DATABASE_URL=scheme + rest, MIGRATE_DATABASE_URL=scheme + rest)
    assert settings.database_url == settings.migrate_database_url == "postgresql" + rest


@pytest.mark.parametrize("url", ["redis://r/0", "rediss://u:p@r:6380/1", "unix:///run/redis.sock"])
def test_a_redis_url_may_be(url: str) -> None:
    assert check(REDIS_URL=url).redis_url == url


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
    lines = (
        "# a comment\nDATABASE_URL=postgres://file/shop\nHOLD_SECONDS=60\nexport DB_POOL_SIZE='3'\nADMIN_TOKEN=a=b#c\n"
    )
    Path(".env").write_text(lines)
    monkeypatch.setenv("HOLD_SECONDS", "90")
    monkeypatch.setenv("DB_POOL_SIZE", "")  # as good as not set
    settings = Settings.load()
    assert (settings.database_url, settings.hold_seconds) == ("postgresql://file/shop", 90)
    assert (settings.db_pool_size, settings.admin_token) == (3, "a=b#c")
    assert environment()["HOLD_SECONDS"] == "90"
    Path(".env").unlink()
    with pytest.raises(UnsafeSettings, match=r"^DATABASE_URL: "):
        Settings.load()


def test_secrets_are_not_shown() -> None:
    secret = {
        "DATABASE_URL": "postgresql://u:hidden@db/shop",
        "MIGRATE_DATABASE_URL": "postgresql://u:hidden@db/shop",
        "REDIS_URL": "redis://:hidden@r/0",
        "STRIPE_API_KEY": "sk_test_hidden",
        "STRIPE_WEBHOOK_SECRET": "hidden",
        "ADMIN_TOKEN": "hidden",
    }
    assert "hidden" not in repr(check(**secret))
