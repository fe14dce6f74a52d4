"""Guard for WSGI applications: Flask, Django and others.

    app.wsgi_app = KeyMiddleware(app.wsgi_app, verifier, {"GET /orders/*": ["orders:read"]})

The caller, a `Verdict`, is in `environ["keyauthority.caller"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from keyauthority.http import responses
from keyauthority.http.client_address import TrustedProxies
from keyauthority.http.rejection import Rejection
from keyauthority.middleware.admission import (
    Admission,
    Guard,
    KeyVerifier,
    Permissions,
    Request,
    admit,
    check_verifier,
    current_verifier,
)
from keyauthority.middleware.http import is_preflight
from keyauthority.middleware.rules import RouteRules

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

CALLER: Final = "keyauthority.caller"
ADMISSION: Final = "keyauthority.admission"
"""Environment key of the admission, for later guards of the same request."""

_PREFIX: Final = "HTTP_"


class KeyMiddleware:
    """Passes allowed requests to the application; rejects others with 401, 403, 429 or 503."""

    def __init__(
        self,
        app: WSGIApplication,
        verifier: KeyVerifier | Callable[[], KeyVerifier],
        rules: Mapping[str, Permissions],
        *,
        header: str | None = None,
        trusted_proxies: TrustedProxies = 0,
        cost: int = 1,
        allow_preflight: bool = False,
    ) -> None:
        """Wrap `app`, with the options of `asgi.KeyMiddleware`; `rules` match `PATH_INFO`."""
        check_verifier(verifier, awaited=False)
        self._app = app
        self._verifier = verifier
        self._rules = RouteRules(rules)
        name = header and header.replace("_", "-")  # CGI variables do not distinguish them
        self._guard = Guard(header=name, trusted_proxies=trusted_proxies, cost=cost)
        self._allow_preflight = allow_preflight

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        method = environ["REQUEST_METHOD"]
        permissions = self._rules.match(method, _path(environ))
        if permissions is None or (
            self._allow_preflight and is_preflight(method, dict(_headers(environ)))
        ):
            return self._app(environ, start_response)
        outcome = (
            permissions if isinstance(permissions, Rejection) else self._admit(environ, permissions)
        )
        if isinstance(outcome, Rejection):
            code, phrase = responses.STATUS[outcome.kind]
            start_response(f"{code} {phrase}", responses.all_headers(outcome))
            return [] if method == "HEAD" else [responses.body(outcome)]  # RFC 9110, section 9.3.2
        if outcome.spent:
            start_response = _with_headers(
                start_response, responses.rate_limit_headers(outcome.verdict)
            )
        return self._app({**environ, CALLER: outcome.verdict, ADMISSION: outcome}, start_response)

    def _admit(self, environ: WSGIEnvironment, permissions: Permissions) -> Admission | Rejection:
        request = Request(list(_headers(environ)), environ.get("REMOTE_ADDR", ""))
        return admit(
            self._guard,
            current_verifier(self._verifier),
            request,
            permissions or (),
            environ.get(ADMISSION),
        )


def _path(environ: WSGIEnvironment) -> str:
    """Return the path decoded as UTF-8; PEP 3333 passes its bytes as Latin-1."""
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode("utf-8", "replace")


def _headers(environ: WSGIEnvironment) -> Iterable[tuple[str, str]]:
    for name, text in environ.items():
        if name.startswith(_PREFIX):
            yield name.removeprefix(_PREFIX).replace("_", "-").lower(), text


def _with_headers(start_response: StartResponse, added: list[tuple[str, str]]) -> StartResponse:
    """Return a `start_response` that adds headers to the response."""
    if not added:
        return start_response

    def starting(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        return start_response(status, [*headers, *added], exc_info)

    return starting
