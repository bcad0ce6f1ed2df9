"""The words that docs/glossary.md bans: as identifiers of ours in `service/` and `sql/`, and in prose."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# As whole identifiers: not inside a longer one, not as a value of Stripe's.
BANNED = set(
    "held found told said given also kept seen late lost parts rooms turns lanes patience look who whoever".split()
)
# As verbs only: a note of the order history is a noun.
BANNED_VERBS = {"note"}
PHRASES = (
    "who looks",
    "what is no request",
    "such as is",
    "whoever",
    "nothing of it is owed",
    "gone for a moment",
)
BANNED_PROSE = re.compile(rf"\b({'|'.join(PHRASES)})\b".replace(" ", r"\s+"), re.IGNORECASE)
# Documents that name the banned words to ban them.
ABOUT_WORDS = ("docs/glossary.md",)


def is_done(path: Path) -> bool:
    name = str(path.relative_to(ROOT))
    return not any(name == folder or name.startswith(f"{folder}/") for folder in ABOUT_WORDS)


PYTHON = sorted((ROOT / "service").rglob("*.py"))
SQL = sorted((ROOT / "sql").rglob("*.sql"))
MIGRATIONS = sorted((ROOT / "migrations").glob("*.sql"))
DOCUMENTS = sorted(
    path
    for folder in (ROOT, *(ROOT / name for name in ("docs", "sql", "migrations", "tests")))
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)


def python_identifiers(source: str) -> Iterator[tuple[int, str, bool]]:
    """The identifiers that a module defines or names as keyword arguments: line, name, and whether it is a function."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name, True
            case ast.ClassDef():
                yield node.lineno, node.name, False
            case ast.arg():
                yield node.lineno, node.arg, False
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id, False
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr, False
            case ast.keyword(arg=str(name)):
                yield node.value.lineno, name, False
            case ast.alias(asname=str(name)):
                yield node.lineno, name, False
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name, False


def banned_in_python(source: str) -> list[tuple[int, str]]:
    return [
        (line, name)
        for line, name, is_function in python_identifiers(source)
        if name.strip("_").lower() in (BANNED | BANNED_VERBS if is_function else BANNED)
    ]


SQL_TOKEN = re.compile(
    r"(?P<skip>--[^\n]*|/\*.*?\*/|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|'(?:[^']|'')*')"
    r'|"(?P<quoted>(?:[^"]|"")*)"|(?P<word>[A-Za-z_]\w*)',
    re.DOTALL,
)


def banned_in_sql(text: str) -> list[tuple[int, str]]:
    """The banned identifiers of a statement, by line: of tables, columns, CTEs, aliases and parameters."""
    identifiers = [
        (text.count("\n", 0, token.start()) + 1, token["quoted"] or token["word"])
        for token in SQL_TOKEN.finditer(text)
        if not token["skip"]
    ]
    parameters = [
        (text.count("\n", 0, line.start()) + 1, line[1])
        for line in re.finditer(r"^-- param +\$\d+ (\w+)", text, re.MULTILINE)
    ]
    return [(line, name) for line, name in [*identifiers, *parameters] if name.strip("_").lower() in BANNED]


def banned_in_prose(text: str) -> list[tuple[int, str]]:
    """The banned phrases by line, wherever the lines are broken: in comments, docstrings, messages and documents."""
    # A line break and a comment sign become spaces, as many as they were, so that lines can still be counted.
    plain = re.sub(r"\n[ \t]*(?:#|--)?[ \t]*", lambda between: " " * len(between[0]), text)
    return [(text.count("\n", 0, match.start()) + 1, match[0]) for match in BANNED_PROSE.finditer(plain)]


def complaints(path: Path) -> list[str]:
    text = path.read_text()
    banned = banned_in_prose(text)
    if path in PYTHON:
        banned += banned_in_python(text)
    if path in SQL:
        banned += banned_in_sql(text)
    return [f"{path.relative_to(ROOT)}:{line}: {words}" for line, words in sorted(banned)]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=str(path.relative_to(ROOT)))
        for path in [*PYTHON, *SQL, *MIGRATIONS, *DOCUMENTS]
        if is_done(path)
    ],
)
def test_a_file_has_none_of_the_banned_words(path: Path) -> None:
    assert complaints(path) == []


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "def f(given): ...",
        "def look(): ...",
        "def note(): ...",
        "async def told(): ...",
        "class Parts: ...",
        "f(held=1)",
        "self._held = 1",
        "for seen in (): ...",
        "with f() as also: ...",
        "lambda late: 1",
        "import a as turns",
        "try: ...\nexcept E as lost: ...",
        "match 1:\n    case kept: ...",
        "if said := 1: ...",
        "LANES = 1",
    ],
)
def test_a_banned_identifier_in_python_is_found(source: str) -> None:
    assert len(banned_in_python(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "found_order = 1",
        "note = 1",
        "f(note='x')",
        "'found'",
        "# found",
        "event['late']",
        "threshold = 1",
        "stripe.lost",
    ],
)
def test_other_identifiers_in_python_are_free(source: str) -> None:
    assert banned_in_python(source) == []


@pytest.mark.parametrize(
    "text",
    [
        "WITH held AS (SELECT 1) SELECT 1",
        "SELECT 1 AS found",
        'SELECT 1 AS "found"',
        "SELECT t.id FROM things AS late",
        "-- x\n-- param    $1 given text\nSELECT $1",
    ],
)
def test_a_banned_identifier_in_sql_is_found(text: str) -> None:
    assert banned_in_sql(text)


@pytest.mark.parametrize(
    "text",
    ["SELECT 1 AS hold_number -- held", "SELECT 'found', 'it''s late'", "/* told */ SELECT note", "SELECT $$late$$"],
)
def test_other_identifiers_in_sql_are_free(text: str) -> None:
    assert banned_in_sql(text) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# One that who looks sees", 1),
        ('"""Whoever comes waits."""', 1),
        ("x = 1  # it is what is\n    # no request", 1),
        ("-- first\n-- such as\n-- is", 2),
        ("Text.\n\nNothing of it\nis owed.", 3),
    ],
)
def test_a_banned_phrase_is_found_across_lines(text: str, line: int) -> None:
    assert [number for number, _ in banned_in_prose(text)] == [line]
