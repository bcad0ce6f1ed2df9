"""Every statement as a DBA can load it into psql, or those that a change touched."""

import subprocess
from collections.abc import Iterator
from pathlib import PurePath

from service.infra.statements import SQL, files, split


def review(since: str | None = None) -> Iterator[str]:
    """Each statement with its header as `PREPARE`, named after its file with `__` for the slash.

    With `since`, a git revision, those that were changed or added since, and a line for each that is gone. Parameters
    whose types the server could not tell by itself are cast in the files, so no types are given. Raises OSError where
    git does not know the revision, or where there is no statement.
    """
    all_names = files()
    for name in all_names if since is None else sorted(_changed(since)):
        path = SQL / f"{name}.sql"
        if not path.exists():
            yield f"-- {name}: removed\n"
            continue
        header, body = split(path.read_text())
        yield f"{header}\nPREPARE {name.replace('/', '__')} AS\n{body};\n"


def _changed(since: str) -> set[str]:
    """The statements in which the files differ from the revision, also those that git does not track yet."""
    differ = _git("diff", "--relative", "--name-only", "--no-renames", "--end-of-options", since, "--", "*.sql")
    return {
        str(PurePath(path).with_suffix(""))
        for path in [*differ, *_git("ls-files", "--others", "--exclude-standard", "--", "*.sql")]
    }


def _git(*arguments: str) -> list[str]:
    git = subprocess.run(["git", *arguments], cwd=SQL, capture_output=True, text=True, check=False)  # noqa: S603, S607
    if git.returncode != 0:
        raise OSError(f"git: {git.stderr.strip()}")
    return git.stdout.splitlines()
