"""A self-contained HTML page as text: from its template, in ASCII; it loads nothing."""

import base64
import html as _markup
import json
import re
from functools import cache
from hashlib import sha256
from importlib import resources
from os import PathLike
from pathlib import Path

from miniattn._disk import replacing


class Page:
    """A self-contained HTML page, as text. A notebook shows it in a frame.

    Attributes
    ----------
    text : str
        The page. Pure ASCII, so that no encoding can spoil it.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page to ``path``: the file is whole or, if writing fails, as it was."""
        with replacing(Path(path)) as file:
            file.write(self.text.encode("ascii"))

    def _repr_html_(self) -> str:
        # Without allow-same-origin, the page can reach nothing of the notebook that shows it.
        # Its pictures may be saved.
        return (
            f'<iframe srcdoc="{_markup.escape(self.text)}" sandbox="allow-scripts allow-downloads" '
            'title="attention" style="width: 100%; height: 640px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Page({len(self.text) / 1e6:.2f} MB)"


def as_json(data: object) -> str:
    """Return JSON in ASCII that cannot end the script element that it stands in."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def in_ascii(text: str) -> str:
    """Return markup with every other character as a reference."""
    return text.encode("ascii", "xmlcharrefreplace").decode()


def policy(style: str, script: str) -> str:
    """Return the policy of a page that loads nothing, and runs this script and style alone."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def filled(template: str, **parts: str) -> str:
    """Replace every ``{{name}}`` in one pass, so that no part can bring in a placeholder."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


@cache
def asset(name: str) -> str:
    """Return a file of the page's folder."""
    text = resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")
    text.encode("ascii")  # the page is ASCII: see Page.text
    return text
