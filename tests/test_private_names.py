"""Private names of libraries: each library's in one file of `service/` at most, for a reason."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "service").rglob("*.py"))

# Modules without documentation, whose names can change with any release.
PRIVATE_MODULES = {
    "arq.constants",
    "arq.jobs",
    "arq.utils",
    "asyncpg.connect_utils",
    "asyncpg.connection",
    "asyncpg.pool",
    "asyncpg.protocol",
    "fastapi.dependencies",
    "uvicorn.protocols",
    "uvicorn.server",
}
# Documented, though they begin with an underscore.
PUBLIC = {"_asdict", "_fields", "_make", "_replace"}


class Exemption(NamedTuple):
    """The one file that may use the private names of a library, and why it does."""

    file: str
    reason: str


ALLOWED = {
    "arq": Exemption("service/infra/queue.py", "arq's own enqueue takes three round trips for each job"),
    "fastapi": Exemption("service/http/routing.py", "the routes are compiled from FastAPI's own description of them"),
    "uvicorn": Exemption("service/http/server/protocol.py", "uvicorn has no settings for the limits of a connection"),
}


class Use(NamedTuple):
    """A private name in a file; `library` is empty where the file does not show whose it is."""

    library: str
    name: str


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def private_import(module: str) -> bool:
    return any(module == private or module.startswith(f"{private}.") for private in PRIVATE_MODULES) or any(
        is_private(part) for part in module.split(".")
    )


def own_names(tree: ast.Module) -> set[str]:
    """The private names that a file itself gives to methods, attributes and slots."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Attribute(ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
                names.add(node.attr)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
    return names


def private_uses(source: str) -> Iterator[Use]:
    """The private names of others in a file: imported, read as attributes, inherited, or named for `getattr`."""
    tree = ast.parse(source)
    own = own_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if not module.startswith(("service", "__future__")):
                library = module.split(".")[0]
                for alias in node.names:
                    if private_import(module) or private_import(f"{module}.{alias.name}"):
                        yield Use(library, f"{module}.{alias.name}")
            case ast.Import():
                for alias in node.names:
                    if private_import(alias.name):
                        yield Use(alias.name.split(".")[0], alias.name)
            case ast.Attribute(attr=name, value=ast.Call(func=ast.Name(id="super"))) if is_private(name):
                yield Use("", name)
            case ast.Attribute(attr=name) if is_private(name) and name not in own:
                yield Use("", name)
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(str(name)), *_]):
                if is_private(name):
                    yield Use("", name)


USES = {str(path.relative_to(ROOT)): list(private_uses(path.read_text())) for path in FILES}


@pytest.mark.parametrize("file", [str(path.relative_to(ROOT)) for path in FILES])
def test_a_file_uses_private_names_only_if_it_is_allowed_to(file: str) -> None:
    libraries = {library for library, exemption in ALLOWED.items() if exemption.file == file}
    assert [use for use in USES[file] if not libraries or use.library not in {*libraries, ""}] == []


@pytest.mark.parametrize("library", ALLOWED)
def test_an_exemption_is_needed(library: str) -> None:
    file, reason = ALLOWED[library]
    assert reason
    assert any(use.library == library for use in USES[file])


@pytest.mark.parametrize(
    ("source", "library", "name"),
    [
        ("from uvicorn.protocols.http import httptools_impl", "uvicorn", "uvicorn.protocols.http.httptools_impl"),
        ("from starlette._utils import is_async_callable", "starlette", "starlette._utils.is_async_callable"),
        ("from asyncpg import _testbase", "asyncpg", "asyncpg._testbase"),
        ("import asyncpg.pool", "asyncpg", "asyncpg.pool"),
        ("connection._con", "", "_con"),
        ("connection._holder.release()", "", "_holder"),
        ("class A(Base):\n    def f(self):\n        self._inherited()", "", "_inherited"),
        ("class A(Base):\n    def _f(self):\n        super()._f()", "", "_f"),
        ("getattr(connection, '_con')", "", "_con"),
    ],
)
def test_a_private_name_is_found(source: str, library: str, name: str) -> None:
    assert list(private_uses(source)) == [Use(library, name)]


@pytest.mark.parametrize(
    "source",
    [
        "import asyncpg\nasyncpg.connect()",
        "class A:\n    def __init__(self):\n        self._own = 1\n    def f(self, other):\n        return other._own",
        "row._replace(name='x')",
        "value.__class__",
        "from service.shop import _private",
        "_local = 1\nprint(_local)",
    ],
)
def test_names_of_our_own_and_documented_ones_are_not(source: str) -> None:
    assert list(private_uses(source)) == []
