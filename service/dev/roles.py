"""The service's roles, on a server where we are the administrator."""

from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg.sql import SQL, Identifier, Literal

LINES = Path(__file__).parents[2] / "migrations" / "roles.psql"
ROLES = ("commerce_owner", "commerce_app", "commerce_worker", "commerce_readonly")


def make_roles(administrator_url: str, password: str) -> None:
    """Make the roles and the database theirs, by the lines that an administrator would run; all get one password."""
    with psycopg.connect(administrator_url) as connection:
        connection.execute(LINES.read_bytes())
        for role in ROLES:
            connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(role), Literal(password)))


def login(url: str, role: str, password: str) -> str:
    """The URL of the same database for another role; the password may hold nothing that a URL would have quoted."""
    resources = urlsplit(url)
    return resources._replace(netloc=f"{role}:{password}@{resources.netloc.rpartition('@')[2]}").geturl()
