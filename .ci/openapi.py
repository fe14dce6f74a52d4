"""Generates openapi.json, the reference of the API over HTTP, from the protos and their comments.

Reads a FileDescriptorSet with comments (`buf build protos --output -`) on standard input, and
prints `openapi_template.json`, completed.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc.error_details_pb2 import ErrorInfo

from keyauthority.errors import ErrorReason
from keyauthority_server.rpc.field_rules import items_max
from keyauthority_server.rpc.policy import POLICY, CredentialSource
from keyauthority_server.transport.http.errors import STATUSES

PACKAGE: Final = "keyauthority.v1"
DOMAIN: Final = "keyauthority"
STREAM: Final = "application/connect+json"
TEMPLATE: Final = Path(__file__).with_name("openapi_template.json")
NEEDED: Final = ("access_key", "project_id", "secret_key", "display_name")
"""Fields of the example of a request for which the template has none."""
OWN_STATUSES: Final = {ErrorReason.MESSAGE_TOO_LARGE: 413, ErrorReason.INVALID_MESSAGE: 415}
"""Statuses of HTTP's own, beside those of Connect's table."""
_WELL_KNOWN: Final[dict[str, dict[str, Any]]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "examples": ["86400s"],
    },
    "google.protobuf.FieldMask": {
        "type": "string",
        "description": "Names of fields in lowerCamelCase, separated by commas.",
        "examples": ["purpose,labels"],
    },
}
_INT64: Final = {"type": ["string", "integer"], "format": "int64", "pattern": "^-?[0-9]+$"}
_SCALARS: Final[dict[int, dict[str, Any]]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: _INT64,
}


class Comments:
    """The comments of the protos by the full name of what they describe."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._texts: dict[str, str] = {}
        names: dict[str, str] = {}
        for file in files.file:
            for path, name in _places(file):
                self._texts[f"{file.package}.{name}"] = ""
                for location in file.source_code_info.location:
                    if tuple(location.path) == path:
                        self._texts[f"{file.package}.{name}"] = location.leading_comments
            for message in file.message_type:
                names |= {field.name: field.json_name for field in message.field}
        self._names = {name: json_name for name, json_name in names.items() if name != json_name}

    def of(self, full_name: str) -> str:
        """Return a comment as text, with the names that fields have in JSON."""
        paragraphs = self._texts[full_name].strip().split("\n\n")
        text = "\n\n".join(" ".join(one.split()) for one in paragraphs)
        return re.sub(r"[a-z]+(?:_[a-z0-9]+)+", lambda m: self._names.get(m[0], m[0]), text)


def _places(file: Any) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the path in source_code_info and the name of everything in a file."""
    for number, kind, members in (
        (4, file.message_type, (2, "field")),
        (5, file.enum_type, (2, "value")),
        (6, file.service, (2, "method")),
    ):
        for index, one in enumerate(kind):
            yield (number, index), one.name
            for place, member in enumerate(getattr(one, members[1])):
                yield (number, index, members[0], place), f"{one.name}.{member.name}"


class Document:
    """The document, with the schemas that it refers to."""

    def __init__(self, files: FileDescriptorSet, template: dict[str, Any]) -> None:
        self._comments = Comments(files)
        self._document = template
        self._stream = template.pop("x-stream")
        self._fields = template.pop("x-fields")
        self._requests = template.pop("x-requests")
        self._answers = template["components"]["responses"]
        self._schemas = template["components"]["schemas"]
        self._pool = DescriptorPool()
        for file in files.file:
            self._pool.Add(file)
        self._services = [
            self._pool.FindServiceByName(f"{file.package}.{service.name}")
            for file in files.file
            for service in file.service
            if file.package == PACKAGE
        ]

    def build(self) -> dict[str, Any]:
        """Return the document."""
        methods = [method for service in self._services for method in service.methods]
        for method in methods:  # before the responses: a message of both is checked in requests
            self._message(method.input_type, is_request=True)
        paths = {
            f"/{one.containing_service.full_name}/{one.name}": self._path(one) for one in methods
        }
        self._enum(self._pool.FindEnumTypeByName("keyauthority.v1.ErrorReason"))
        for status in self._answers:
            self._answers[status] |= self._answer(int(status))
        self._document["tags"] = [
            {"name": one.name, "description": self._comments.of(one.full_name)}
            for one in self._services
        ]
        self._document["paths"] = paths | self._document["paths"]
        self._document["components"]["schemas"] = dict(sorted(self._schemas.items()))
        return self._document

    def _path(self, method: MethodDescriptor) -> dict[str, Any]:
        text, example = self._comments.of(method.full_name), self._example(method)
        request = self._message(method.input_type, is_request=True)
        response = self._message(method.output_type, is_request=False)
        body: Any = {"application/json": {"schema": request, "example": example}}
        answer: Any = {"application/json": {"schema": response}}
        statuses = list(self._answers)
        if method.server_streaming:
            text += "\n\n" + self._stream
            body, answer = {STREAM: _enveloped(request, example)}, {STREAM: _enveloped(response)}
            statuses = ["415"]
        operation = {
            "operationId": method.name,
            "tags": [method.containing_service.name],
            "summary": re.split(r"[.:;] ", text)[0].rstrip("."),
            "description": text,
            "parameters": [
                {"$ref": f"#/components/parameters/{name}"}
                for name in self._document["components"]["parameters"]
            ],
            "requestBody": {"required": True, "content": body},
            "responses": {
                "200": {"description": "The call succeeded.", "content": answer},
                **{one: {"$ref": f"#/components/responses/{one}"} for one in statuses},
            },
        }
        credentials = POLICY[method.full_name].credentials
        if credentials is CredentialSource.SECRET:
            operation["security"] = []
        elif credentials is CredentialSource.OPERATOR_OR_SECRET:
            operation["security"] = [{}, *self._document["security"]]
        return {"post": operation}

    def _example(self, method: MethodDescriptor) -> Any:
        """Return a request: that of the template, or one of the fields that calls need."""
        names = [field.json_name for field in method.input_type.fields if field.name in NEEDED]
        return self._requests.get(method.name) or {name: self._fields[name] for name in names}

    def _message(self, message: Descriptor, *, is_request: bool) -> dict[str, Any]:
        if message.name not in self._schemas:
            schema: dict[str, Any] = {
                "type": "object",
                "description": self._comments.of(message.full_name),
            }
            self._schemas[message.name] = schema
            schema["properties"] = {
                field.json_name: self._field(field, is_request=is_request)
                for field in message.fields
            }
            always = [one.json_name for one in message.fields if not one.has_presence]
            if is_request:
                schema["additionalProperties"] = False
            elif always:
                schema["required"] = always
            for choice in message.oneofs:
                names = [f"`{one.json_name}`" for one in choice.fields]
                if len(names) > 1:
                    schema["description"] += f" At most one of {', '.join(names)}."
        return {"$ref": f"#/components/schemas/{message.name}"}

    def _field(self, field: FieldDescriptor, *, is_request: bool) -> dict[str, Any]:
        text = {"description": self._comments.of(field.full_name)}
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            bound = {"maxProperties": items_max(field)} if is_request else {}
            return {"type": "object", "additionalProperties": {"type": "string"}, **bound, **text}
        if field.enum_type is not None:
            one: dict[str, Any] = self._enum(field.enum_type)
        elif inner is None:
            one = dict(_SCALARS[field.type])
        elif inner.full_name in _WELL_KNOWN:
            one = dict(_WELL_KNOWN[inner.full_name])
        else:
            one = self._message(inner, is_request=is_request)
        if field.is_repeated:
            bound = {"maxItems": items_max(field)} if is_request else {}
            one = {"type": "array", "items": one, **bound}
        if field.json_name in self._fields and "$ref" not in one:
            one["examples"] = [self._fields[field.json_name]]
        return one | text

    def _enum(self, enum: EnumDescriptor) -> dict[str, Any]:
        lines = [
            f"- `{value.name}`: {self._comments.of(f'{enum.full_name}.{value.name}')}"
            for value in enum.values
        ]
        text = self._comments.of(enum.full_name)
        self._schemas[enum.name] = {
            "type": "string",
            "description": "\n".join([text, "", *lines]),
            "enum": [value.name for value in enum.values],
        }
        return {"$ref": f"#/components/schemas/{enum.name}"}

    def _answer(self, status: int) -> dict[str, Any]:
        """Return the content of an error's response, with its reasons as examples."""
        examples = {}
        for reason in ErrorReason:
            name = f"ERROR_REASON_{reason.name}"
            text = self._comments.of(f"keyauthority.v1.ErrorReason.{name}")
            code, _, meaning = text.partition(": ")
            if status in (STATUSES[code], OWN_STATUSES.get(reason)):
                info = ErrorInfo(reason=name, domain=DOMAIN)
                detail = {
                    "type": "google.rpc.ErrorInfo",
                    "value": base64.b64encode(info.SerializeToString()).decode().rstrip("="),
                    "debug": {"reason": name, "domain": DOMAIN},
                }
                message = re.split(r"[.:;] ", meaning)[0].rstrip(".")
                value = {"code": code.lower(), "message": message, "details": [detail]}
                examples[reason.name] = {"summary": meaning, "value": value}
        content: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Error"}}
        if examples:
            content["examples"] = examples
        answer: dict[str, Any] = {"content": {"application/json": content}}
        if status == 429:
            wait = {"schema": {"type": "integer"}, "description": "Seconds before a retry."}
            answer["headers"] = {"retry-after": wait}
        return answer


def _enveloped(message: dict[str, Any], example: Any = None) -> dict[str, Any]:
    """Return the content of a stream of messages."""
    text = f"Envelopes, each with a `{message['$ref'].rpartition('/')[2]}` in JSON."
    schema = {"type": "string", "format": "binary", "description": text}
    if example is None:
        return {"schema": schema}
    return {
        "schema": schema,
        "example": f"\0\0\0\0{chr(len(json.dumps(example)))}{json.dumps(example)}",
    }


def main() -> None:
    """Print the document."""
    files = FileDescriptorSet.FromString(sys.stdin.buffer.read())
    document = Document(files, json.loads(TEMPLATE.read_text(encoding="utf-8"))).build()
    print(json.dumps(document, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
