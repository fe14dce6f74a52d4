"""Guards for gRPC servers: interceptors for `grpc.server` and `grpc.aio.server`.

    rules = {"/grpc.health.v1.Health/*": None, "/shop.v1.Orders/List": ["orders:read"]}
    server = grpc.server(pool, interceptors=[KeyInterceptor(verifier, rules)])

A handler gets its caller from `caller()`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio

from keyauthority.http.client_address import TrustedProxies
from keyauthority.http.rejection import LOGGER, Rejection, RejectionKind
from keyauthority.middleware.admission import (
    Admission,
    AsyncKeyVerifier,
    Guard,
    KeyVerifier,
    Permissions,
    Request,
    admit,
    admit_async,
    check_verifier,
    current_verifier,
)
from keyauthority.middleware.rules import MethodRules
from keyauthority.model import Verdict

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # no generic at run time

_CODES: Final = {
    RejectionKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    RejectionKind.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    RejectionKind.LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RejectionKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}
_ADMISSION: ContextVar[Admission | None] = ContextVar("keyauthority_admission", default=None)


def caller() -> Verdict:
    """Return the caller of the current call. Raises LookupError if its method needs no key."""
    admission = _ADMISSION.get()
    if admission is None:
        raise LookupError("this method needs no key: the call has no caller")
    return admission.verdict


class KeyInterceptor(grpc.ServerInterceptor):
    """Passes allowed calls to the handler; rejects others before the handler is called.

    The status is UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, or UNAVAILABLE without a
    verdict. Its text is a fixed word, such as `expired`.
    """

    def __init__(
        self,
        verifier: KeyVerifier | Callable[[], KeyVerifier],
        rules: Mapping[str, Permissions],
        *,
        header: str | None = None,
        trusted_proxies: TrustedProxies = 0,
        cost: int = 1,
    ) -> None:
        """Guard a server; `verifier` may be a callable that returns one.

        `rules` are those of `MethodRules`. `header` is the only metadata to read the key from.
        `trusted_proxies` is the number of proxies in front of the service, or a list of their
        addresses and CIDR blocks. `cost` is spent from the limits of the key.
        """
        check_verifier(verifier, awaited=False)
        self._verifier = verifier
        self._rules = MethodRules(rules)
        self._guard = Guard(header=header, trusted_proxies=trusted_proxies, cost=cost)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wrap the handler in the check."""
        handler = continuation(handler_call_details)
        permissions = self._rules.match(handler_call_details.method)
        if handler is None or permissions is None:
            return handler

        def admitted(context: grpc.ServicerContext) -> Admission:
            outcome: Admission | Rejection | None = None
            try:
                outcome = (
                    permissions
                    if isinstance(permissions, Rejection)
                    else self._admit(context, permissions)
                )
            except Exception:  # noqa: BLE001 - gRPC would send its text to the client
                LOGGER.exception("cannot verify keys")
            if not isinstance(outcome, Admission):
                context.abort(*_status(context, outcome))
            return outcome

        return _around(handler, _threaded(handler, admitted))

    def _admit(self, context: Any, permissions: Permissions) -> Admission | Rejection:
        verifier = current_verifier(self._verifier)
        return admit(self._guard, verifier, _request(context), permissions or (), _ADMISSION.get())


class AsyncKeyInterceptor(grpc.aio.ServerInterceptor):
    """`KeyInterceptor` for `grpc.aio.server`, whose handlers have to be asynchronous."""

    def __init__(
        self,
        verifier: AsyncKeyVerifier | Callable[[], AsyncKeyVerifier],
        rules: Mapping[str, Permissions],
        *,
        header: str | None = None,
        trusted_proxies: TrustedProxies = 0,
        cost: int = 1,
    ) -> None:
        """Guard a server, with the options of `KeyInterceptor`."""
        check_verifier(verifier, awaited=True)
        self._verifier = verifier
        self._rules = MethodRules(rules)
        self._guard = Guard(header=header, trusted_proxies=trusted_proxies, cost=cost)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wrap the handler in the check. Raises TypeError unless the handler is asynchronous."""
        handler = await continuation(handler_call_details)
        permissions = self._rules.match(handler_call_details.method)
        if handler is None or permissions is None:
            return handler

        async def admitted(context: grpc.aio.ServicerContext[Any, Any]) -> Admission:
            outcome: Admission | Rejection | None = None
            try:
                outcome = (
                    permissions
                    if isinstance(permissions, Rejection)
                    else await self._admit(context, permissions)
                )
            except Exception:  # noqa: BLE001 - gRPC would send its text to the client
                LOGGER.exception("cannot verify keys")
            if not isinstance(outcome, Admission):
                await context.abort(*_status(context, outcome))
            return outcome

        return _around(handler, _awaited(handler, admitted))

    async def _admit(self, context: Any, permissions: Permissions) -> Admission | Rejection:
        verifier = current_verifier(self._verifier)
        return await admit_async(
            self._guard, verifier, _request(context), permissions or (), _ADMISSION.get()
        )


def _request(context: Any) -> Request:
    """Return the metadata of a call and the address of its peer."""
    metadata = [
        (name, text) for name, text in context.invocation_metadata() if isinstance(text, str)
    ]
    return Request(metadata, _host(context.peer()))


def _host(peer: str) -> str:
    """Return the IP address of a gRPC peer: `ipv4:127.0.0.1:50`, `ipv6:%5B::1%5D:50`."""
    family, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if family in ("ipv4", "ipv6") else ""


def _status(context: Any, outcome: Rejection | None) -> tuple[grpc.StatusCode, str]:
    """Return the status and text of a rejected call; `outcome` is None if its check failed."""
    if outcome is None:
        return grpc.StatusCode.INTERNAL, "internal"
    if outcome.retry_after is not None:
        pushback = str(1_000 * outcome.retry_after)
        context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
    return _CODES[outcome.kind], outcome.error


def _behaviour(handler: _Handler) -> Callable[..., Any]:
    behaviour = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if behaviour is None:
        raise TypeError("a handler without a function: set unary_unary or another kind")
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


@contextmanager
def _as_caller(admission: Admission) -> Iterator[None]:
    """Set the caller for the block and restore it, since the thread serves other calls next."""
    earlier = _ADMISSION.get()
    _ADMISSION.set(admission)
    try:
        yield
    finally:
        _ADMISSION.set(earlier)


def _threaded(handler: _Handler, admitted: Callable[[Any], Admission]) -> Callable[..., Any]:
    behaviour = _behaviour(handler)

    def one(request: Any, context: grpc.ServicerContext) -> Any:
        with _as_caller(admitted(context)):
            return behaviour(request, context)

    def many(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with _as_caller(admitted(context)):
            yield from behaviour(request, context)

    return many if handler.response_streaming else one


def _awaited(
    handler: _Handler, admitted: Callable[[Any], Awaitable[Admission]]
) -> Callable[..., Any]:
    behaviour = _behaviour(handler)

    async def one(request: Any, context: Any) -> Any:
        with _as_caller(await admitted(context)):
            return await behaviour(request, context)

    async def many(request: Any, context: Any) -> AsyncIterator[Any]:
        with _as_caller(await admitted(context)):
            async for response in behaviour(request, context):
                yield response

    if inspect.isasyncgenfunction(behaviour):
        return many
    if inspect.iscoroutinefunction(behaviour):
        return one
    raise TypeError("a handler of grpc.aio has to be a coroutine or an asynchronous generator")
