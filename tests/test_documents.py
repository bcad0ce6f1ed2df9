"""The documents are true where a machine can check it: links, names of files, calls, settings, commands, lengths."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.app import create_app
from service.infra.statements import files
from service.settings import Settings
from service.shop.principals import ROLES, SCOPES
from service.shop.stripe_check import PERMISSIONS
from service.shop.webhooks import EVENT_TYPES
from tests.test_command_line import COMMANDS

ROOT = Path(__file__).parents[1]
# What is installed or made is not searched, nor are hidden folders.
SKIPPED = {"build", "dist", "__pycache__"}


def files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path.relative_to(ROOT)
        elif path.name not in SKIPPED and path.name[0] != ".":
            yield from files_below(path)


FILES = list(files_below(ROOT))
NAMES = {path.name for path in FILES}
TESTS = {
    name
    for path in FILES
    if path.parts[0] == "tests" and path.suffix == ".py"
    for name in re.findall(r"def (test_\w+)\(", (ROOT / path).read_text())
}
DOCUMENTS = [str(path) for path in FILES if path.suffix == ".md"]
# It names files as they were at the time.
HISTORY = {"CHANGELOG.md"}
README_WORDS = 1600

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
# Names with a placeholder, `<module>` for example, match none of these.
FILE = re.compile(r"[\w./-]+\.(?:py|pyi|sql|psql|md|toml|yaml|txt|json|svg|lua|css|js|html|example)")
FOLDER = re.compile(r"[\w.-]+(?:/[\w.-]+)*/")
STATEMENT = re.compile(r"[a-z_]+/[a-z_]+")
TEST = re.compile(r"test_\w+")
CALL = re.compile(r"(?:GET|POST|PUT|PATCH|DELETE) /\S*")


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def broken_links(document: str, text: str) -> Iterator[str]:
    """The relative links that lead nowhere."""
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        if not re.match(r"[a-z]+:", link) and not leads(target, anchor):
            yield link


def leads(target: Path, anchor: str) -> bool:
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


def missing_files(document: str, text: str) -> Iterator[str]:
    """The files, folders, statements and tests in backticks that do not exist."""
    for name in CODE.findall(text):
        if name[0] == "/" or "NNNN" in name:
            # An address, or a form that names have.
            continue
        if FILE.fullmatch(name) or FOLDER.fullmatch(name):
            found = exists(document, name)
        elif STATEMENT.fullmatch(name):
            found = exists(document, name) or (ROOT / "sql" / f"{name}.sql").is_file()
        elif TEST.fullmatch(name):
            found = name in TESTS
        else:
            continue
        if not found:
            yield name


def exists(document: str, name: str) -> bool:
    """Whether a path exists from the root or from a folder that need not be named; without a folder, anywhere."""
    bases = (ROOT, (ROOT / document).parent, ROOT / "service", ROOT / "tests")
    return name in NAMES or any((base / name).exists() for base in bases)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    assert list(broken_links(document, text_of(document))) == []


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document not in HISTORY])
def test_named_files_exist(document: str) -> None:
    assert list(missing_files(document, text_of(document))) == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](nowhere.md)",
        "![a](docs/nowhere.svg)",
        "[a](#nowhere)",
        "[a](CONTRIBUTING.md#nowhere)",
    ],
)
def test_a_broken_link_is_noticed(text: str) -> None:
    assert list(broken_links("README.md", text))


NOWHERE = "service/nowhere.py nowhere.py service/nowhere/ checkout/nowhere nowhere/reserve docs/README.txt test_nowhere"
SOMEWHERE = "service/app.py app.py sql/ checkout/reserve /openapi.json sql/<module>/x.sql NNNN.x.sql"


@pytest.mark.parametrize("name", NOWHERE.split())
def test_a_missing_file_is_noticed(name: str) -> None:
    assert list(missing_files("README.md", f"a `{name}` b")) == [name]


@pytest.mark.parametrize("name", SOMEWHERE.split())
def test_what_exists_is_not_reported(name: str) -> None:
    assert list(missing_files("README.md", f"a `{name}` b")) == []


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").split()) <= README_WORDS


def test_the_readme_lists_every_call() -> None:
    settings = Settings(database_url="postgresql://", stripe_api_key="sk_test_x", stripe_webhook_secret=("x",))
    paths = create_app(settings).openapi()["paths"]
    calls = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}

    section = text_of("README.md").partition("\n## Calls\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]

    assert {name for row in rows for name in CODE.findall(row.split("|")[1]) if CALL.fullmatch(name)} == calls


def test_operations_lists_every_setting() -> None:
    section = text_of("docs/operations.md").partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]

    named = {name for row in rows for name in CODE.findall(row.split("|")[1])}

    assert named == {name.upper() for name in Settings.model_fields}


def test_operations_lists_the_events_and_permissions_that_the_service_needs() -> None:
    section = text_of("docs/operations.md").partition("\n### Stripe\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| ([A-Z]\w+.*) \| (`.*) \|$", section, re.MULTILINE)

    assert re.findall(r"^    ([a-z_.]+)$", section, re.MULTILINE) == [*EVENT_TYPES]
    assert {call: permission for permission, calls in rows for call in CODE.findall(calls)} == PERMISSIONS


def test_identity_lists_what_each_role_may_do() -> None:
    section = text_of("docs/identity.md").partition("\n## Roles and scopes\n")[2].partition("\n## ")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]

    listed = {
        scope.strip("`"): {role for role, cell in zip(head[2:], cells, strict=True) if cell == "yes"}
        for scope, _, *cells in rows
    }

    assert head[2:] == [*ROLES]
    assert listed == {scope: {role for role, scopes in ROLES.items() if scope in scopes} for scope in SCOPES}


def test_every_audit_rule_has_a_remedy() -> None:
    section = text_of("sql/README.md").partition("\n## When an audit query returns rows\n")[2].partition("\n## ")[0]
    rules = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert {f"audit/{rule}" for rule in rules} == set(files("audit"))


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"(?:`|^    )make ([a-z-]+)", text_of(document), re.MULTILINE)
        assert set(named) <= targets, document


def test_named_commands_exist() -> None:
    for document in DOCUMENTS:
        named = re.findall(r"(?:commerce-core|python -m service) ([a-z-]+)", text_of(document))
        assert set(named) <= {*COMMANDS}, document


def test_decisions_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    records = {path.name for path in folder.glob("[0-9]*.md")}
    assert set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", text_of("docs/decisions/README.md"))) == records
