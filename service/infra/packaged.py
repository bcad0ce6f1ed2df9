"""The folders of SQL files, in a checkout and in an installed wheel."""

import re
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def packaged_folder(name: str) -> Path:
    """The folder `sql` or `migrations`: inside the package in an installed wheel, beside it in a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


MIGRATIONS = packaged_folder("migrations")


def migration_names(folder: Path = MIGRATIONS) -> list[str]:
    """The names of all migrations, the oldest first. Raises FileNotFoundError if there is none."""
    names = sorted(path.stem for path in folder.glob("*.sql") if not path.name.endswith(".rollback.sql"))
    if not names:
        raise FileNotFoundError(f"There is no migration in {folder}.")
    return names


def built_indexes(text: str) -> list[str]:
    """The names of the indexes that a migration's statements build, beside those of constraints."""
    return re.findall(r"^CREATE (?:UNIQUE )?INDEX (?:CONCURRENTLY )?(\w+)", text, re.MULTILINE)


def index_names(folder: Path = MIGRATIONS) -> list[str]:
    """The names of the indexes that any migration builds, whether or not a later one drops it."""
    texts = ((folder / f"{name}.sql").read_text() for name in migration_names(folder))
    return sorted({name for text in texts for name in built_indexes(text)})
