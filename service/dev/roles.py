"""The service's database roles, on a server of which we are the administrator."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from service.infra.packaged import MIGRATIONS

ROLES = ("commerce_owner", "commerce_app", "commerce_worker", "commerce_readonly", "commerce_eraser")


def make_roles(administrator_url: str, passwords: Mapping[str, str]) -> None:
    """Create the roles, each with its password, and grant them the database, by the script for administrators."""
    with psycopg.connect(administrator_url) as connection:
        connection.execute((MIGRATIONS / "roles.psql").read_bytes())
        for role in ROLES:
            connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(role), Literal(passwords[role])))


def login(url: str, role: str, password: str) -> str:
    """The URL of the same database for another role; the password must be safe in a URL."""
    address = urlsplit(url)
    return address._replace(netloc=f"{role}:{password}@{address.netloc.rpartition('@')[2]}").geturl()
