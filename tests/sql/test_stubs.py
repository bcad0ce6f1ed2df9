"""Calls of statements are typed: the stub is what the headers say, and mypy refuses every call that is wrong."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.infra.sql import statement
from service.infra.statements import SQL, Parameter, bind, files, parameters, returns, split
from tests.sql import stubs

ROOT = SQL.parent

# Each line is one call in a function with a connection `tx`, and what mypy says of it; None where it is right.
CALLS = {
    "await FINISH.run(tx, event_id='evt_1', outcome='applied', order_id=None, handled=True, reduced_payload={})": None,
    "stored: Row | None = await FIND.one_or_none(tx, key_id=b'')": None,
    "rows: list[UUID] = await CLAIM.all(tx, limit=10)": None,
    "count: int = await CREATE.run(tx, cart_id=one, user_id=None, reference=None)": None,
    "locked: bool = await LOCK.one(tx, advisory_key=7)": None,
    # Behind the connection nothing goes by its position, so two arguments cannot be swapped.
    "await ADD.run(tx, one, 7, quantity=1)": "Too many positional arguments",
    "await ADD.run(tx, cart_id=7, product_id=one, quantity=1)": 'has incompatible type "int"; expected "UUID"',
    "await ADD.run(tx, cart_id=one, product_id=7)": 'Missing named argument "quantity"',
    "await ADD.run(tx, cart_id=one, product_id=7, amount=1)": 'Unexpected keyword argument "amount"',
    "await ADD.run(tx, cart_id=one, product_id=7, quantity=1, more=1)": 'Unexpected keyword argument "more"',
    "await ADD.run(tx, cart_id=one, product_id=7, quantity='1')": 'has incompatible type "str"; expected "int"',
    "await ADD.run(tx, cart_id=one, product_id=7, quantity=None)": 'has incompatible type "None"; expected "int"',
    "await ADD.all(tx, cart_id=one, product_id=7, quantity=1)": 'has no attribute "all"',
    "await CLAIM.one(tx, limit=10)": 'has no attribute "one"',
    "name: str = await LOCK.one(tx, advisory_key=7)": "Incompatible types in assignment",
    "statement('cart/no_such_file', UUID)": "No overload variant",
    "statement('cart/set_line', UUID)": "No overload variant",
    "statement('cart/open_cart')": "No overload variant",
}
MODULE = """\
from dataclasses import dataclass
from uuid import UUID, uuid4

from service.infra.db import Connection
from service.infra.sql import statement


@dataclass
class Row:
    id: UUID


FIND = statement("idempotency/find_key", Row)
CLAIM = statement("sweep/claim_refunds", UUID)
CREATE = statement("cart/create_cart")
LOCK = statement("idempotency/lock_key", bool)
ADD = statement("cart/set_line")
FINISH = statement("webhooks/finish_event")
one = uuid4()
"""


def mypy(folder: Path, *arguments: str) -> list[str]:
    """The errors that mypy finds with our settings. Its cache of the standard library is used again."""
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache" / "tests"))
    command = (sys.executable, "-m", "mypy", "--no-error-summary", *settings, *arguments)
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return result.stdout.splitlines()


def test_the_stub_is_what_the_headers_say() -> None:
    assert stubs.STUB.read_text() == stubs.stub(files()), "`make stubs` writes it"


def test_mypy_refuses_a_wrong_call_and_no_right_one(tmp_path: Path) -> None:
    functions = [f"\n\nasync def call_{n}(tx: Connection) -> None:\n    {call}\n" for n, call in enumerate(CALLS)]
    text = MODULE + "".join(functions)
    (tmp_path / "calls.py").write_text(text)

    errors = mypy(ROOT, str(tmp_path / "calls.py"))

    messages: dict[str, str] = {}
    for error in errors:
        if match := re.search(r"calls\.py:(\d+): error: (.*)", error):
            call = text.splitlines()[int(match[1]) - 1].strip()
            messages[call] = messages.get(call, "") + match[2]
    assert set(messages) == {call for call, expected in CALLS.items() if expected}
    for call, message in messages.items():
        assert CALLS[call] in message


def test_a_parameter_may_be_null_exactly_where_some_call_passes_null(tmp_path: Path) -> None:
    """Goal: no `null` in a header is missing or idle. Method: mypy checks the service against a stub without nulls."""
    shutil.copytree(ROOT / "service", tmp_path / "service", ignore=shutil.ignore_patterns("__pycache__"))
    stub = tmp_path / stubs.STUB.relative_to(ROOT)
    stub.write_text(re.sub(r"(: [\w\[\], ]+) \| None(?=[,)\n])", r"\1", stubs.STUB.read_text()))

    errors = mypy(tmp_path, "service/shop", "service/infra", "service/dev/seed.py")

    passed = {
        (match[2], match[1])
        for error in errors
        if (match := re.search(r'Argument "(\w+)" to "\w+" of "(\w+)" has incompatible type "[^"]*None"', error))
    }
    nullable = {(stubs.class_name(name), p.name) for name in files() for p in header_parameters(name) if p.nullable}
    assert passed == nullable, "\n".join(errors)


def header_parameters(name: str) -> list[Parameter]:
    return parameters(split((SQL / f"{name}.sql").read_text())[0])


@pytest.mark.parametrize(
    "values", [{}, {"cart_id": 1, "product_id": 2}, {"cart_id": 1, "product_id": 2, "amount": 3}], ids=str
)
def test_a_wrong_or_missing_name_fails_at_once(values: dict[str, int]) -> None:
    with pytest.raises(TypeError, match=r"cart/set_line takes \(cart_id, product_id, quantity\)"):
        statement("cart/set_line").arguments(values)


@pytest.mark.parametrize("name", files())
def test_a_statement_has_only_the_method_of_its_kind(name: str) -> None:
    methods = {method for method, _ in stubs.METHODS.values() if hasattr(bind(name), method)}

    assert methods == {stubs.METHODS[returns(bind(name).header)][0]}
