"""SQL statements in a form that a DBA can load into psql: all of them, or those that changed."""

import subprocess
from collections.abc import Iterator
from pathlib import PurePath

from service.infra.statements import SQL, files, split


def review(since: str | None = None) -> Iterator[str]:
    """Each statement as `PREPARE` with its header, named like its file with `__` for the slash.

    With `since`, a git revision: the statements that were changed or added after it, and a line for each removed one.
    The files cast the parameters whose types the server cannot infer, so no types are listed. Raises OSError if git
    does not know the revision, or if there is no statement.
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
    """The statements whose files differ from the revision, with those that git does not track yet."""
    changed = _git("diff", "--relative", "--name-only", "--no-renames", "--end-of-options", since, "--", "*.sql")
    untracked = _git("ls-files", "--others", "--exclude-standard", "--", "*.sql")
    return {str(PurePath(path).with_suffix("")) for path in [*changed, *untracked]}


def _git(*arguments: str) -> list[str]:
    git = subprocess.run(["git", *arguments], cwd=SQL, capture_output=True, text=True, check=False)  # noqa: S603, S607
    if git.returncode != 0:
        raise OSError(f"git: {git.stderr.strip()}")
    return git.stdout.splitlines()
