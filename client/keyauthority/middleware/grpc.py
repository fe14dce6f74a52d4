"""Keys for gRPC servers: one interceptor for `grpc.server`, one for `grpc.aio.server`.

    rules = {"/grpc.health.v1.Health/*": None, "/shop.v1.Orders/List": ["orders:read"]}
    server = grpc.server(pool, interceptors=[KeyInterceptor(verifier, rules)])

A handler asks `caller()` whose call it serves.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio

from keyauthority.errors import KeyAuthorityError
from keyauthority.middleware.admission import (
    FORWARDED,
    AsyncVerifies,
    Denial,
    Denied,
    Permissions,
    Verifies,
    address_of,
    denied,
    failed,
    key_of,
    needed,
    proxies,
)
from keyauthority.model import Verdict

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # no generic at run time

_CODES: Final = {
    Denial.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Denial.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Denial.LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Denial.CANNOT_TELL: grpc.StatusCode.UNAVAILABLE,
}
_CALLER: ContextVar[Verdict | None] = ContextVar("keyauthority_caller", default=None)


def caller() -> Verdict:
    """Return whose call is served here. LookupError in a method that needs no key."""
    verdict = _CALLER.get()
    if verdict is None:
        raise LookupError("nobody has presented a key")
    return verdict


class KeyInterceptor(grpc.ServerInterceptor):
    """Lets through what a rule allows; the rest ends before the handler is called.

    UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, or UNAVAILABLE if nobody can tell.
    """

    def __init__(
        self, verifier: Verifies, rules: Mapping[str, Permissions], *, trusted_proxies: int = 0
    ) -> None:
        """`rules` name methods, `/package.Service/Method`, at whose end a `*` stands for any rest.

        They are read from the first on; what no rule fits is refused. `trusted_proxies` is how
        many of your own proxies a call comes through, each of which appends to x-forwarded-for.
        """
        _check(rules)
        self._verifier = verifier
        self._rules = dict(rules)
        self._trusted_proxies = proxies(trusted_proxies)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Put the check around the handler."""
        handler = continuation(handler_call_details)
        permissions = needed(self._rules.items(), handler_call_details.method)
        if handler is None or permissions is None:
            return handler

        def admit(context: grpc.ServicerContext) -> Verdict:
            found = (
                permissions
                if isinstance(permissions, Denied)
                else self._admit(context, permissions)
            )
            if isinstance(found, Denied):
                context.abort(*_told(context, found))
            return found

        return _around(handler, _threaded(handler, admit))

    def _admit(self, context: grpc.ServicerContext, permissions: Permissions) -> Verdict | Denied:
        key, address = _presented(context, self._trusted_proxies)
        if isinstance(key, Denied):
            return key
        try:
            verdict = self._verifier.verify(key, permissions=permissions or (), client_ip=address)
        except KeyAuthorityError as failure:
            return failed(failure)
        return denied(verdict) or verdict


class AsyncKeyInterceptor(grpc.aio.ServerInterceptor):
    """`KeyInterceptor` for `grpc.aio.server`, whose handlers have to be asynchronous."""

    def __init__(
        self, verifier: AsyncVerifies, rules: Mapping[str, Permissions], *, trusted_proxies: int = 0
    ) -> None:
        """`rules` and `trusted_proxies` are those of `KeyInterceptor`."""
        _check(rules)
        self._verifier = verifier
        self._rules = dict(rules)
        self._trusted_proxies = proxies(trusted_proxies)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Put the check around the handler. TypeError if that is not asynchronous."""
        handler = await continuation(handler_call_details)
        permissions = needed(self._rules.items(), handler_call_details.method)
        if handler is None or permissions is None:
            return handler

        async def admit(context: grpc.aio.ServicerContext[Any, Any]) -> Verdict:
            found = (
                permissions
                if isinstance(permissions, Denied)
                else await self._admit(context, permissions)
            )
            if isinstance(found, Denied):
                await context.abort(*_told(context, found))
            return found

        return _around(handler, _awaited(handler, admit))

    async def _admit(self, context: Any, permissions: Permissions) -> Verdict | Denied:
        key, address = _presented(context, self._trusted_proxies)
        if isinstance(key, Denied):
            return key
        try:
            verdict = await self._verifier.verify(
                key, permissions=permissions or (), client_ip=address
            )
        except KeyAuthorityError as failure:
            return failed(failure)
        return denied(verdict) or verdict


def _check(rules: Mapping[str, Permissions]) -> None:
    for rule, permissions in rules.items():
        if not rule.startswith("/") and rule != "*":
            raise ValueError(f"a rule is /package.Service/Method, not {rule!r}")
        if isinstance(permissions, str):
            raise TypeError(f"the permissions of {rule!r} are a list of strings, not a string")


def _presented(context: Any, trusted_proxies: int) -> tuple[str | Denied, str]:
    """Return the key that a call carries, or why it carries none, and where the call is from."""
    metadata = [
        (name, text) for name, text in context.invocation_metadata() if isinstance(text, str)
    ]
    forwarded = [text for name, text in metadata if name == FORWARDED]
    return key_of(metadata), address_of(_host(context.peer()), forwarded, trusted_proxies)


def _host(peer: str) -> str:
    """Return the address in a peer as gRPC names it: `ipv4:127.0.0.1:50`, `ipv6:%5B::1%5D:50`."""
    family, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if family in ("ipv4", "ipv6") else ""


def _told(context: Any, found: Denied) -> tuple[grpc.StatusCode, str]:
    if found.retry_after is not None:
        pushback = str(1_000 * found.retry_after)
        context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
    return _CODES[found.denial], found.code


def _behaviour(handler: _Handler) -> Callable[..., Any]:
    behaviour = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if behaviour is None:
        raise TypeError("a handler without a behaviour")
    return behaviour


def _around(handler: _Handler, behaviour: Callable[..., Any]) -> _Handler:
    """Return a handler of the same kind with another behaviour."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _threaded(handler: _Handler, admit: Callable[[Any], Verdict]) -> Callable[..., Any]:
    behaviour = _behaviour(handler)

    def one(request: Any, context: grpc.ServicerContext) -> Any:
        _CALLER.set(admit(context))
        try:
            return behaviour(request, context)
        finally:
            _CALLER.set(None)  # the thread may serve a method next that needs no key

    def many(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        _CALLER.set(admit(context))
        try:
            yield from behaviour(request, context)
        finally:
            _CALLER.set(None)

    return many if handler.response_streaming else one


def _awaited(handler: _Handler, admit: Callable[[Any], Awaitable[Verdict]]) -> Callable[..., Any]:
    behaviour = _behaviour(handler)

    async def one(request: Any, context: Any) -> Any:
        _CALLER.set(await admit(context))
        return await behaviour(request, context)

    async def many(request: Any, context: Any) -> AsyncIterator[Any]:
        _CALLER.set(await admit(context))
        async for response in behaviour(request, context):
            yield response

    if inspect.isasyncgenfunction(behaviour):
        return many
    if inspect.iscoroutinefunction(behaviour):
        return one
    raise TypeError("a handler of grpc.aio has to be a coroutine or an asynchronous generator")
