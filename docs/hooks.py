"""What the site's build does beside MkDocs: roles of docstrings, such as :class:`X`, become plain code."""

import re
from typing import Any

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page."""
    return ROLE.sub("", html)
