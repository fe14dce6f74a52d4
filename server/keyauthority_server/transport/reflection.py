"""grpc.reflection v1alpha and v1: the same messages under two names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as library

from keyauthority.v1 import error_reason_pb2
from keyauthority_server.overload.errors import malformed_message
from keyauthority_server.rpc_types import internal_error
from keyauthority_server.transport.compressed import GZIP, inflated
from keyauthority_server.transport.gate import abort

SERVICES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)

_REQUEST_MAX: Final = 64 * 1024  # bytes; a request is a name

_Request = reflection_pb2.ServerReflectionRequest
_Response = reflection_pb2.ServerReflectionResponse

# No service's file imports it; that it is loaded puts it into the pool.
_ERROR_REASON: Final = error_reason_pb2.DESCRIPTOR


class Reflection:
    """Describes the services named, itself, and the reasons of errors."""

    def __init__(self, services: Iterable[str]) -> None:
        _describe_v1()
        pool = cast("descriptor_pool.DescriptorPool", _Pool())
        self._servicer = library.ReflectionServicer([*services, *SERVICES], pool)
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """End the streams that are open: a client may keep one for as long as it runs."""
        self._draining.set()

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handlers by method, the same for both services.

        They take bytes: what cannot be read is theirs to say.
        """
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self._serve,
            response_serializer=_Response.SerializeToString,
        )
        return {"ServerReflectionInfo": handler}

    async def _serve(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[_Response]:
        try:
            answers = self._servicer.ServerReflectionInfo(self._until_drain(requests), context)
            async for answer in cast("AsyncIterator[_Response]", answers):
                yield answer
        except DecodeError:
            await abort(context, malformed_message())
        except grpc.aio.InternalError:  # of grpcio: the client has gone
            return
        except Exception as failure:  # noqa: BLE001 - grpcio would send its text to the client
            await abort(context, internal_error(failure))

    async def _until_drain(self, requests: AsyncIterator[bytes]) -> AsyncIterator[_Request]:
        """Yield the requests that come before the drain.

        To cancel the handler would not suffice: grpcio would not notify the client, and would
        continue to wait for it.
        """
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            while True:
                request = asyncio.ensure_future(anext(requests, None))
                await asyncio.wait({request, draining}, return_when=asyncio.FIRST_COMPLETED)
                if not request.done():
                    request.cancel()
                    return
                found = request.result()
                if found is None:
                    return
                if found.startswith(GZIP):
                    found = inflated(found, _REQUEST_MAX)
                yield _Request.FromString(found)
        finally:
            draining.cancel()


class _Pool:
    """The pool of all descriptions, in which methods are found by their names, too."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the pool's name
        """Return the file that describes the symbol; KeyError if none does."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            methods = self._pool.FindServiceByName(service).methods_by_name
            return methods[method].containing_service.file


def _describe_v1() -> None:
    """Put the description of v1, which the library lacks, into the pool: clients ask for it."""
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    v1 = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(v1.SerializeToString())
