"""The page of RPCs: services, messages and enums, from the protos and the policy of the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from proto_files import ENUM, MEMBER, MESSAGE, PACKAGE, SERVICE, ProtoFile, files

from keyauthority_server.rpc.policy import POLICY, CredentialSource, RpcPolicy

HEAD: Final = """# RPCs

Every RPC of `keyauthority.v1` with its messages. `make docs` prints this page from the
[protos](../protos/keyauthority/v1/key_authority_service.proto) and the policy of the server.

A failed call has a status and an [error reason](error-reasons.md).
[Rights of operators](operator-rights.md) explains rights and wildcards;
[from any language](from-any-language.md) makes the calls over HTTP.
"""
OPERATOR: Final = "an operator key or certificate"
SECRET: Final = "the secret key in the request"  # noqa: S105 - a text of the page
CREDENTIALS: Final = {
    CredentialSource.OPERATOR: OPERATOR,
    CredentialSource.OPERATOR_INLINE: OPERATOR,
    CredentialSource.SECRET: SECRET,
    CredentialSource.OPERATOR_OR_SECRET: f"{OPERATOR}, or {SECRET}",
}


class RpcPage:
    """Writes the page; each message stands with the RPC that it belongs to, or by itself."""

    def __init__(self) -> None:
        self._messages = {
            f".{PACKAGE}.{message.name}": (file, index, message)
            for file in files()
            for index, message in enumerate(file.descriptor.message_type)
        }
        self._enums = {
            f".{PACKAGE}.{enum.name}": (file, index, enum)
            for file in files()
            for index, enum in enumerate(file.descriptor.enum_type)
            if enum.name != "ErrorReason"  # has a page of its own
        }
        self._owners = {
            name: method.name
            for file in files()
            for service in file.descriptor.service
            for method in service.method
            for name in (method.input_type, method.output_type)
        }

    def text(self) -> str:
        """Return the page."""
        parts = [HEAD]
        for file in files():
            for index, service in enumerate(file.descriptor.service):
                parts += self._service(file, index, service)
        parts.append("## Messages\n")
        for name, (file, index, message) in sorted(self._messages.items()):
            if name not in self._owners:
                parts.append(f"### {message.name}\n\n{file.comment(MESSAGE, index)}\n")
                parts.append(self._fields(file, index, message))
        parts.append("## Enums\n")
        for _, (file, index, enum) in sorted(self._enums.items()):
            parts += _enum(file, index, enum)
        return "\n".join(parts)

    def _service(
        self, file: ProtoFile, index: int, service: ServiceDescriptorProto
    ) -> Iterator[str]:
        yield f"## {service.name}\n\n{file.comment(SERVICE, index)}\n"
        for number, method in enumerate(service.method):
            paragraphs = "\n\n".join(file.paragraphs(SERVICE, index, MEMBER, number))
            yield f"### {method.name}\n\n{paragraphs}\n"
            yield _policy(POLICY[f"{PACKAGE}.{service.name}.{method.name}"])
            yield from self._exchange(method)

    def _exchange(self, method: MethodDescriptorProto) -> Iterator[str]:
        stream = "Stream of " if method.server_streaming else ""
        for label, name in (("", method.input_type), (stream, method.output_type)):
            file, index, message = self._messages[name]
            yield f"{label}`{message.name}`: {_lower(file.comment(MESSAGE, index))}\n"
            yield self._fields(file, index, message)

    def _fields(self, file: ProtoFile, index: int, message: DescriptorProto) -> str:
        if not message.field:
            return "It has no fields.\n"
        rows = ["| field | type | meaning |", "|---|---|---|"]
        for number, field in enumerate(message.field):
            text = file.comment(MESSAGE, index, MEMBER, number)
            if field.HasField("oneof_index") and not field.proto3_optional:
                text = f"One of `{message.oneof_decl[field.oneof_index].name}`. {text}"
            rows.append(f"| `{field.name}` | {self._type(message, field)} | {cell(text)} |")
        return "\n".join(rows) + "\n"

    def _type(self, message: DescriptorProto, field: FieldDescriptorProto) -> str:
        entry = next(
            (
                nested
                for nested in message.nested_type
                if nested.options.map_entry and field.type_name.endswith(f".{nested.name}")
            ),
            None,
        )
        if entry is not None:
            key, value = (self._type(entry, part) for part in entry.field)
            return f"map of {key} to {value}"
        name = self._linked(field)
        return f"list of {name}" if field.label == field.LABEL_REPEATED else name

    def _linked(self, field: FieldDescriptorProto) -> str:
        full, short = field.type_name, field.type_name.rpartition(".")[2]
        if full in self._messages or full in self._enums:
            return f"[{short}](#{self._owners.get(full, short).lower()})"
        return short or field.Type.Name(field.type).removeprefix("TYPE_").lower()


def _policy(policy: RpcPolicy) -> str:
    rights = " or ".join(f"`{right}`" for right in policy.rights) or "none"
    return f"Credential: {CREDENTIALS[policy.credentials]}. Right: {rights}.\n"


def _enum(file: ProtoFile, index: int, enum: EnumDescriptorProto) -> Iterator[str]:
    yield f"### {enum.name}\n\n{file.comment(ENUM, index)}\n"
    rows = ["| value | number | meaning |", "|---|---|---|"]
    for number, value in enumerate(enum.value):
        text = file.comment(ENUM, index, MEMBER, number)
        rows.append(f"| `{value.name}` | {value.number} | {cell(text)} |")
    yield "\n".join(rows) + "\n"


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return text.replace("|", r"\|")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
