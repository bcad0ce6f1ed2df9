"""The private parts of uvicorn that `service/http/server/` uses. Each test fails when a release changes one."""

import ast
import inspect
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.server import protocol
from service.http.server.protocol import Cycle, Protocol

ROOT = Path(__file__).parents[3]
# What uvicorn's protocol sets on itself, and we read or change.
ATTRIBUTES = {"client", "connections", "cycle", "expect_100_continue", "flow", "headers", "loop", "parser", "pipeline"}
ATTRIBUTES |= {"scope", "transport", "url"}
# Methods of uvicorn's protocol that we call but do not override.
METHODS = {"_unset_keepalive_if_required"}
# What uvicorn's cycle, a request with its response, sets on itself, and we read or change.
CYCLE = {"body", "keep_alive", "response_complete", "response_started", "waiting_for_100_continue"}
OWN_CYCLE = {"default_headers", "disconnected", "flow", "keep_alive", "message_event", "on_response"}
OWN_CYCLE |= {"response_complete", "response_started", "scope", "transport", "waiting_for_100_continue"}


def class_node(name: str) -> ast.ClassDef:
    tree = ast.parse(inspect.getsource(protocol))
    (node,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return node


def attributes_of(owner: str, name: str = "Protocol") -> set[str]:
    """The attributes of `owner` that our class uses."""
    used = {node for node in ast.walk(class_node(name)) if isinstance(node, ast.Attribute)}
    return {node.attr for node in used if ast.unparse(node.value) == owner}


def own_names(name: str = "Protocol") -> Iterator[str]:
    """The methods and attributes that our class defines."""
    for node in class_node(name).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def sets(owner: Callable[..., object], name: str) -> bool:
    """Whether a class of uvicorn's sets this attribute on itself."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(ast.parse(inspect.getsource(owner)))
    )


def test_what_we_use_of_the_protocol_is_listed_here() -> None:
    assert attributes_of("self") - set(own_names()) == ATTRIBUTES | METHODS


def test_what_we_use_of_a_request_is_listed_here() -> None:
    assert attributes_of("self.cycle") == CYCLE | {"__class__"}
    assert attributes_of("self", "Cycle") - set(own_names("Cycle")) == OWN_CYCLE


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_uvicorns_protocol_has_the_attribute(name: str) -> None:
    assert sets(HttpToolsProtocol, name)


@pytest.mark.parametrize("name", sorted(CYCLE | OWN_CYCLE))
def test_uvicorns_request_has_the_attribute(name: str) -> None:
    assert sets(RequestResponseCycle, name)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_uvicorns_protocol_has_the_method(name: str) -> None:
    assert inspect.isfunction(getattr(HttpToolsProtocol, name))


@pytest.mark.parametrize("name", sorted(attributes_of("super()")))
def test_a_method_that_we_override_takes_the_same_arguments(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(owner, name)).parameters for owner in (HttpToolsProtocol, Protocol))
    assert list(ours) == list(theirs)


def test_each_override_exists_at_uvicorn() -> None:
    """A method that uvicorn no longer has would silently never be called."""
    ours = {name for name in own_names() if inspect.isfunction(getattr(Protocol, name, None))}
    helpers = {
        "_parse",
        "_ignore",
        "_linger",
        "_refuse",
        "_forget",
        "_drop_request",
        "end",
        "_start_deadline",
        "_check_deadline",
    }
    # The parser's, not uvicorn's.
    helpers |= {"on_chunk_header"}
    assert {name for name in ours if not hasattr(HttpToolsProtocol, name)} == helpers
    assert list(inspect.signature(Cycle.send).parameters) == list(
        inspect.signature(RequestResponseCycle.send).parameters
    )


def test_the_version_has_bounds() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (uvicorn,) = [line for line in dependencies if line.startswith("uvicorn")]
    assert ">=" in uvicorn
    assert "<" in uvicorn
