"""Templates: every value is escaped, and texts are shown on one line without control characters."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cached_property
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from keyauthority.cli.output import rate_limit_text
from keyauthority.console import plots, times, words
from keyauthority.text import one_line

_STATIC: Final = resources.files("keyauthority.console") / "static"
_TYPES: Final = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class Static:
    """The style sheet and the script, named by their content so that browsers may keep them."""

    def __init__(self) -> None:
        self.files = {name: (_STATIC / name).read_bytes() for name in _TYPES}

    @cached_property
    def version(self) -> str:
        """Identifier of the content of all files."""
        content = b"".join(self.files[name] for name in sorted(self.files))
        return hashlib.sha256(content).hexdigest()[:16]

    def url(self, name: str) -> str:
        """Return the path of a file."""
        return f"/static/{self.version}/{name}"

    def media_type(self, name: str) -> str:
        """Return the media type of a file."""
        return _TYPES[name]


class Renderer:
    """Renders the templates of the package."""

    def __init__(self, static: Static) -> None:
        self.static = static
        self._clock = times.PageClock()
        self._environment = Environment(
            loader=PackageLoader("keyauthority.console"),
            autoescape=True,
            undefined=StrictUndefined,
            extensions=["jinja2.ext.do"],
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "line": one_line,
            "when": self._when,
            "span": times.span,
            "word": words.word,
            "grants": words.grants,
            "count": words.count,
            "percent": words.percent,
        }
        self._environment.globals |= {"static": static.url, "words": words, "plots": plots}
        self._environment.filters["rate_limit"] = rate_limit_text

    def now(self) -> datetime:
        """Return the time that pages refer to."""
        return self._clock.now()

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page."""
        text = self._environment.get_template(template).render(now=self.now(), **values)
        return HTMLResponse(text, status)

    def _when(self, time: datetime | None, missing: str = "never") -> Markup | str:
        """Return a time element: relative to now, with the exact time beside it."""
        if time is None:
            return missing
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            times.exact(time),
            times.readable(time),
            escape(times.relative(time, self.now())),
        )
