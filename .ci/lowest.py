"""Print the lowest versions that pyproject.toml permits: ``lowest.py [EXTRA...]``.

As requirements for pip, which by itself looks for the newest only.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict, extras: list[str]) -> list[str]:
    """Return what the project requires, with the extras that extras consist of."""
    found = list(project["dependencies"])
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", line)
            found += (
                requirements(project | {"dependencies": []}, own[1].split(",")) if own else [line]
            )
    return found


def lowest(requirement: str) -> str:
    """Return ``name==version; marker`` for ``name>=version,<another; marker``."""
    what, semicolon, marker = requirement.partition(";")
    name, bound, versions = what.strip().partition(">=")
    version = versions.split(",")[0].strip()
    if not (bound and re.fullmatch(r"[\d.]+", version)):
        raise SystemExit(f"{requirement}: has no lower bound")
    return f"{name}=={version}{semicolon}{marker}"


if __name__ == "__main__":
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    print(*map(lowest, requirements(tomllib.loads(text)["project"], sys.argv[1:])), sep="\n")
