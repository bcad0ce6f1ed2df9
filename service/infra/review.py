"""Every statement as a DBA can load it into psql."""

from collections.abc import Iterator

from service.infra.statements import SQL, files, split


def review() -> Iterator[str]:
    """Each statement with its header as `PREPARE`, named after its file with `__` for the slash.

    Parameters whose types the server could not tell by itself are cast in the files, so no types are given.
    """
    for name in files():
        header, body = split((SQL / f"{name}.sql").read_text())
        yield f"{header}\nPREPARE {name.replace('/', '__')} AS\n{body};\n"
