"""The facts of usual VerifyRequests, read without the full validation and conversion."""

from __future__ import annotations

from keyauthority import convert
from keyauthority.model import Facts
from keyauthority.permissions import is_concrete
from keyauthority.restrictions import parse_address
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.rpc.field_rules import LIST_MAX
from keyauthority_server.rpc.validate import verify as violations


def certain_facts(request: pb.VerifyRequest) -> Facts | None:
    """Return the facts of a request that is certainly valid; None for the general handler."""
    if (
        request.include_record
        or request.explain
        or request.at_least_revision
        or request.log_id
        or request.mode
        or request.cost < 0
        or len(request.permissions) > LIST_MAX
    ):
        return None
    if (
        request.access_key
        or request.project_id
        or request.referrer
        or request.HasField("app")
        or request.HasField("api_target")
    ):
        return None if violations(request) else convert.facts_from_proto(request)
    client_ip, permissions = request.client_ip, tuple(request.permissions)
    if client_ip and parse_address(client_ip) is None:
        return None
    if permissions and not all(map(is_concrete, permissions)):
        return None
    return Facts("", "", None, permissions, client_ip)
