"""Keys for WSGI applications: Flask, Django and every other.

    app.wsgi_app = KeyMiddleware(app.wsgi_app, verifier, {"GET /orders/*": ["orders:read"]})

The caller, a `Verdict`, is in `environ["keyauthority.caller"]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from keyauthority.errors import KeyAuthorityError
from keyauthority.middleware import http
from keyauthority.middleware.admission import (
    FORWARDED,
    HEADERS,
    Denied,
    Permissions,
    Verifies,
    address_of,
    denied,
    failed,
    key_of,
    proxies,
    referrer_of,
)
from keyauthority.model import Verdict

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

CALLER: Final = "keyauthority.caller"


class KeyMiddleware:
    """Lets through what a rule allows, and answers the rest: 401, 403, 429 or 503."""

    def __init__(
        self,
        app: WSGIApplication,
        verifier: Verifies,
        rules: Mapping[str, Permissions],
        *,
        trusted_proxies: int = 0,
    ) -> None:
        """`rules` and `trusted_proxies` are those of `asgi.KeyMiddleware`."""
        http.check(rules)
        self._app = app
        self._verifier = verifier
        self._rules = dict(rules)
        self._trusted_proxies = proxies(trusted_proxies)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        environ.pop(CALLER, None)
        method = environ["REQUEST_METHOD"]
        permissions = http.route(self._rules, method, _path(environ))
        if permissions is None:
            return self._app(environ, start_response)
        found = (
            permissions if isinstance(permissions, Denied) else self._admit(environ, permissions)
        )
        if isinstance(found, Denied):
            code, phrase = http.STATUS[found.denial]
            start_response(f"{code} {phrase}", http.headers(found))
            return [] if method == "HEAD" else [http.body(found)]  # RFC 9110, section 9.3.2
        environ[CALLER] = found
        return self._app(environ, start_response)

    def _admit(self, environ: WSGIEnvironment, permissions: Permissions) -> Verdict | Denied:
        headers = [
            (name, environ[_variable(name)]) for name in HEADERS if _variable(name) in environ
        ]
        key = key_of(headers)
        if isinstance(key, Denied):
            return key
        forwarded = environ.get(_variable(FORWARDED), "")
        try:
            verdict = self._verifier.verify(
                key,
                permissions=permissions or (),
                client_ip=address_of(
                    environ.get("REMOTE_ADDR", ""),
                    [forwarded] if forwarded else [],
                    self._trusted_proxies,
                ),
                referrer=referrer_of(environ.get("HTTP_REFERER", "")),
            )
        except KeyAuthorityError as failure:
            return failed(failure)
        return denied(verdict) or verdict


def _path(environ: WSGIEnvironment) -> str:
    """Return the path as rules write it, and applications read it: PEP 3333 has it as bytes."""
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode("utf-8", "replace")


def _variable(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")
