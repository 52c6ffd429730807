"""The code in README and docs runs as it stands: page by page, in order, as a reader types it."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Above a block of code that a process of its own runs.
NEW_PROCESS = "<!-- new-process -->"


def code_blocks(page: Path, language: str = "python") -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if code_blocks(p)], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": page.stem}
    alone = re.findall(
        rf"^{NEW_PROCESS}\n```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S
    )
    for block in code_blocks(page):
        if block in alone:
            subprocess.run([sys.executable, "-c", block], check=True, timeout=120)
        else:
            exec(compile(block, str(page), "exec"), scope)


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if code_blocks(p, "pycon")],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_the_sessions_of_a_page_print_what_they_say(page: Path) -> None:
    session = "\n".join(code_blocks(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(session, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_readme_has_code() -> None:
    assert len(code_blocks(ROOT / "README.md")) >= 5
    assert NEW_PROCESS in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_point_at_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing
