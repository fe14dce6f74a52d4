"""The reference of the API over HTTP: valid, complete, and its examples are accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from keyauthority.errors import ErrorReason
from keyauthority_server.rpc.policy import POLICY, CredentialSource
from keyauthority_server.rpc.request_reader import RequestReader
from keyauthority_server.rpc.validate import CHECKS
from keyauthority_server.rpc_types import JsonBody
from keyauthority_server.transport.http.app import OPENAPI
from tests.service.callers import METHODS

DOCUMENT: Final = json.loads(OPENAPI.read_text(encoding="utf-8"))
SCHEMAS: Final = DOCUMENT["components"]["schemas"]


def operation(name: str) -> Any:
    """The operation of an RPC."""
    method = METHODS[name]
    return DOCUMENT["paths"][f"/{method.containing_service.full_name}/{name}"]["post"]


def test_document_is_valid_openapi() -> None:
    """By the specification's own schema, references included."""
    validate(DOCUMENT)


def messages(message: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    """Yield a message and those in it."""
    if message.full_name.startswith("keyauthority.") and message.full_name not in seen:
        seen.add(message.full_name)
        if not message.GetOptions().map_entry:
            yield message
        for field in message.fields:
            if field.message_type is not None:
                yield from messages(field.message_type, seen)


def test_every_message_field_and_enum_value_is_described() -> None:
    """Under its name in JSON, with a text."""
    seen: set[str] = set()
    for method in METHODS.values():
        for shape in (method.input_type, method.output_type):
            for message in messages(shape, seen):
                schema = SCHEMAS[message.name]
                assert {one.json_name for one in message.fields} == schema["properties"].keys()
                assert all(one["description"] for one in schema["properties"].values())
                for field in message.fields:
                    if field.enum_type is not None:
                        values = [value.name for value in field.enum_type.values]
                        described = SCHEMAS[field.enum_type.name]
                        assert values == described["enum"]
                        assert all(f"- `{value}`: " in described["description"] for value in values)
    assert len(seen) > len(METHODS) * 2


@pytest.mark.parametrize("name", METHODS)
def test_operation_has_summary_description_and_credentials(name: str) -> None:
    """The description names the right, in the words of the proto."""
    found, policy = operation(name), POLICY[METHODS[name].full_name]
    assert 10 < len(found["summary"]) < 120
    assert found["description"].startswith(found["summary"])
    assert not policy.rights or any(f"`{right}`" in found["description"] for right in policy.rights)
    security = found.get("security", DOCUMENT["security"])
    assert (policy.credentials is CredentialSource.SECRET) is (security == [])
    assert (policy.credentials is CredentialSource.OPERATOR_OR_SECRET) is ({} in security)


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if not m.server_streaming])
def test_example_of_a_request_is_accepted(name: str) -> None:
    """By its own schema, by the reader of the server, and by the checks of its fields."""
    content = operation(name)["requestBody"]["content"]["application/json"]
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(content["example"])
    request_type = message_factory.GetMessageClass(METHODS[name].input_type)
    request = RequestReader(request_type).read(JsonBody(json.dumps(content["example"]).encode()))
    assert [] == CHECKS[request_type](request)
    needed = {"access_key", "project_id", "secret_key"}
    assert content["example"] or not needed & set(METHODS[name].input_type.fields_by_name)


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if not m.server_streaming])
def test_response_with_defaults_fits_its_schema(name: str) -> None:
    """Every field that is always sent is required, with the type that is sent."""
    content = operation(name)["responses"]["200"]["content"]["application/json"]
    response = message_factory.GetMessageClass(METHODS[name].output_type)()
    sent = json_format.MessageToDict(response, always_print_fields_with_no_presence=True)
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(sent)
    for field in sent:
        missing = {name: value for name, value in sent.items() if name != field}
        assert not Draft202012Validator(schema).is_valid(missing)


def test_every_reason_is_an_example_of_its_status() -> None:
    """Under the status with which it is sent."""
    shown = {
        reason
        for answer in DOCUMENT["components"]["responses"].values()
        for reason in answer["content"]["application/json"].get("examples", ())
    }
    assert {reason.name for reason in ErrorReason} == shown
