"""`python -m tests.pins UV`: the versions in requirements.txt and when each was published, the oldest first.

For `make audit-deps`, when no advisory can be had. uv knows the times from the package index, if the index tells them.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([\w.-]+==[^\s;]+(?: ; [^\\]+?)?) \\$", re.MULTILINE)


def published(lock: str) -> dict[str, str]:
    """The day on which the first file of each version in a uv.lock was published, by `name version`; "" = unknown."""
    days = {}
    for package in tomllib.loads(lock)["package"]:
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        if files:
            days[f"{package['name']} {package['version']}"] = min(file.get("upload-time", "")[:10] for file in files)
    return days


def main(uv: str) -> int:
    """Print the table; the exit status is 0, or 1 when the index does not answer."""
    pins = PIN.findall((ROOT / "requirements.txt").read_text())
    with tempfile.TemporaryDirectory() as folder:
        project = (
            f'[project]\nname = "pins"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = {json.dumps(pins)}\n'
        )
        (Path(folder) / "pyproject.toml").write_text(project)
        locked = subprocess.run([uv, "lock", "--quiet"], cwd=folder, check=False, capture_output=True, text=True)
        if locked.returncode:
            print("No dates either: the package index did not answer.")
            print("\n".join(pins))
            return 1
        days = published((Path(folder) / "uv.lock").read_text())
    for version, day in sorted(days.items(), key=lambda item: (item[1], item[0])):
        print(f"{day or 'no date':<12}{version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).absolute())))
