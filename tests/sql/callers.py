"""Finds the callers of each statement in the syntax tree of `service/`. As a program, writes them into the headers."""

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

from service.infra.statements import SQL, files

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def callers() -> dict[str, list[str]]:
    """For each statement, the functions that name it. A nested function counts as its outer function."""
    trees = {module_name(path): ast.parse(path.read_text()) for path in sorted((ROOT / "service").rglob("*.py"))}
    constants = {
        (module, name): statements for module, tree in trees.items() for name, statements in _bound(tree).items()
    }
    result: dict[str, list[str]] = {}
    for module, tree in trees.items():
        imports = _imports(tree)
        for function, node in _functions(tree):
            used = {constants.get(reference, ()) for reference in _references(node, module, imports)}
            for statement in sorted(name for names in used for name in names):
                result.setdefault(statement, []).append(f"{module}.{function}")
    return result


def module_name(path: Path) -> str:
    """`service/shop/cart.py` -> `service.shop.cart`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _bound(tree: ast.Module) -> dict[str, tuple[str, ...]]:
    """The constants of a module that are bound to statements -> the statements' names."""
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = ast.unparse(node.value)
            if match := re.match(r"statement\('([^']+)'", text):
                constants[node.targets[0].id] = (match[1],)
            elif match := re.search(r"\(name, .* for name in files\('([^']+)'\)", text):
                constants[node.targets[0].id] = tuple(files(match[1]))
    return constants


def _imports(tree: ast.Module) -> dict[str, str]:
    """The names imported from `service` -> what each refers to, as module.name."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("service")
        for alias in node.names
    }


def _functions(tree: ast.Module) -> list[tuple[str, Function]]:
    """The functions and methods of a module, by their names."""
    methods = [
        (f"{node.name}.{method.name}", method)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, Function)
    ]
    return [(node.name, node) for node in tree.body if isinstance(node, Function)] + methods


def _references(node: Function, module: str, imports: dict[str, str]) -> set[tuple[str, str]]:
    """The top-level names that a function refers to, in its own module or in an imported one, as (module, name)."""
    references = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            home, _, name = imports.get(part.id, f"{module}.{part.id}").rpartition(".")
            references.add((home, name))
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            references.add((imports.get(part.value.id, ""), part.attr))
    return references


def callers_of(name: str) -> list[str]:
    """The functions that run a statement. Raises LookupError where there is none."""
    if name not in callers():
        raise LookupError(f"No function under service/ runs sql/{name}.sql: bind it with statement() and call it.")
    return callers()[name]


def write() -> None:
    """Write each statement's callers into its header, whose `callers` line may be empty."""
    for name in files():
        path = SQL / f"{name}.sql"
        value = "\n--          ".join(textwrap.wrap(", ".join(callers_of(name)), 106))
        line = re.compile(r"^-- callers\b.*(?:\n-- {10}.*)*", re.MULTILINE)
        text, count = line.subn(f"-- callers  {value}", path.read_text(), count=1)
        if not count:
            raise LookupError(f"The header of sql/{name}.sql has no line `-- callers`, which may be empty.")
        path.write_text(text)


if __name__ == "__main__":
    write()
