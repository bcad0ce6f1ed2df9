"""`statement(name, row)` binds a file under `sql/`. `make stubs` writes its types into sql.pyi, from the headers."""

from service.infra.statements import bind as statement

__all__ = ["statement"]
