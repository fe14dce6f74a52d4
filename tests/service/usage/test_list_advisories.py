"""Advisories over the wire: found from the calls of a server and from verifiers' reports."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from keyauthority import (
    Advisory,
    AdvisoryType,
    Client,
    CreatedKey,
    KeyObservation,
    Restrictions,
    Unauthenticated,
    UsageRow,
    VerdictCode,
    VerifyQuery,
)
from keyauthority.model import CANARY_LABEL
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1.advisory_service_pb2 import (
    ADVISORY_TYPE_NEVER_USED,
    ListAdvisoriesRequest,
)
from keyauthority.v1.usage_service_pb2 import KeyObservation as ObservationProto
from keyauthority.v1.usage_service_pb2 import ReportUsageRequest
from tests.conftest import one_server
from tests.service.callers import (
    ABSENT_KEY,
    Caller,
    absent_project,
    new_key,
    new_operator,
    new_project,
)
from tests.service.processes import ServerProcess, wait_until
from tests.service.verifiers import PATIENT, VERIFIERS, told

AT_ONCE = timedelta(0)
LIMITED = Restrictions(allowed_ips=("192.0.2.0/24",))


@pytest.fixture
def root(channel: grpc.Channel, server: ServerProcess) -> Caller:
    """A caller with the first operator key."""
    return Caller(channel, server.metadata)


@pytest.fixture
def project_id(client: Client) -> str:
    """A project of the test's own."""
    return client.create_project("Shop").project_id


def found(client: Client, project_id: str, *types: str, **windows: Any) -> list[Advisory]:
    """Return the advisories of a project."""
    return list(client.list_advisories(project_id, types=types, **windows))


def create(client: Client, project_id: str, **fields: Any) -> CreatedKey:
    """Create a live key, by default of kind SECRET and restricted to some addresses."""
    given: dict[str, Any] = {"mode": "live", "kind": "secret", "restrictions": LIMITED}
    given |= fields
    return client.create_key(project_id, **given)


def test_ended_key_is_counted_on_each_way_of_a_verification(
    client: Client, project_id: str
) -> None:
    """Verify and BatchVerify count; the address is client_ip, or the peer of the call."""
    key = create(client, project_id, restrictions=Restrictions())
    client.verify(key.secret_key)
    revoked = client.revoke_key(key.key.access_key)
    assert [] == found(client, project_id)
    for _ in range(2):
        client.verify(key.secret_key, client_ip="192.0.2.1")
    client.verify(key.secret_key, access_key=ABSENT_KEY)
    client.batch_verify([VerifyQuery(key.secret_key.reveal())] * 3)
    wait_until(lambda: [6] == [one.count for one in found(client, project_id)])
    (one,) = found(client, project_id)
    assert (AdvisoryType.USED_AFTER_END, key.key.access_key, project_id) == (
        one.type,
        one.access_key,
        one.project_id,
    )
    assert revoked.revoke_time == one.since_time
    assert one.last_time is not None
    assert one.since_time <= one.last_time
    assert one.last_peer not in ("", "192.0.2.1")
    assert one.remedy.endswith(".")


def test_key_that_is_tried_at_get_project_id_is_counted(client: Client, project_id: str) -> None:
    """A thief needs no operator key for it; other keys have no usage by it."""
    decoy = create(client, project_id, labels={CANARY_LABEL: ""})
    revoked, other = create(client, project_id), create(client, project_id)
    client.revoke_key(revoked.key.access_key)
    for key in (decoy, other, decoy):
        assert project_id == client.get_project_id(None, key.secret_key)
    for named in (None, ABSENT_KEY):
        with pytest.raises(Unauthenticated):
            client.get_project_id(named, revoked.secret_key)
    expected = {
        decoy.key.access_key: (AdvisoryType.CANARY_USED, 2),
        revoked.key.access_key: (AdvisoryType.USED_AFTER_END, 2),
    }

    def seen() -> dict[str, tuple[AdvisoryType, int]]:
        types = ("canary_used", "used_after_end")
        return {
            one.access_key: (one.type, one.count)
            for one in found(client, project_id, *types)
            if one.last_peer
        }

    wait_until(lambda: seen() == expected)
    assert [] == list(client.get_usage(access_key=other.key.access_key))


def test_permissions_asked_for_are_those_of_all_verifications(
    client: Client, project_id: str
) -> None:
    """Allowed or denied, alone or in a batch; the rest is unused, as it was granted."""
    granted = ["orders:read", "orders:write", "billing.*:read", "shipping:read"]
    key = create(client, project_id, kind="restricted", permissions=granted)
    everything = {"dormant_after": AT_ONCE}
    kind = AdvisoryType.UNUSED_PERMISSIONS
    (one,) = found(client, project_id, kind, **everything)
    assert tuple(granted) == one.permissions
    client.verify(key.secret_key, permissions=["orders:read"], client_ip="192.0.2.1")
    query = VerifyQuery(key.secret_key.reveal())
    facts = query.facts._replace(permissions=("billing.invoices:read",))
    assert VerdictCode.IP_NOT_ALLOWED is client.batch_verify([query._replace(facts=facts)])[0].code
    unused = ("orders:write", "shipping:read")
    wait_until(
        lambda: (
            [unused] == [one.permissions for one in found(client, project_id, kind, **everything)]
        )
    )
    client.update_key(key.key.access_key, permissions=["orders:read", "returns:read"])
    assert [] == found(client, project_id, kind, **everything)


@pytest.mark.parametrize("name", VERIFIERS)
@one_server
def test_verifier_reports_for_advisories(
    client: Client, server: ServerProcess, project_id: str, name: str
) -> None:
    """A decoy, an ended key and permissions are seen through verifications in a process."""
    decoy = create(client, project_id, labels={CANARY_LABEL: "vault"}, restrictions=Restrictions())
    ended = create(client, project_id)
    reader = create(
        client, project_id, kind="restricted", permissions=["orders:read", "orders:write"]
    )
    with VERIFIERS[name](
        server.address, server.operator_key, report_interval=timedelta(seconds=0.05), **PATIENT
    ) as verifier:
        told(verifier, 1)
        for key in (decoy, ended, reader):  # the server answers the first call
            verifier.verify(key.secret_key.reveal(), client_ip="192.0.2.1")
        revision = client.revoke_key(ended.key.access_key).revision
        wait_until(lambda: verifier.revision >= revision)
        for _ in range(3):
            verifier.verify(decoy.secret_key.reveal(), client_ip="192.0.2.7")
            verifier.verify(ended.secret_key.reveal(), client_ip="192.0.2.8")
        verifier.verify(
            reader.secret_key.reveal(), client_ip="192.0.2.9", permissions=["orders:read"]
        )
    assert 3 == verifier.asked.count("verify")

    def seen() -> dict[AdvisoryType, tuple[int, str, tuple[str, ...]]]:
        types = ("canary_used", "used_after_end", "unused_permissions")
        return {
            one.type: (one.count, one.last_peer, one.permissions)
            for one in found(client, project_id, *types, dormant_after=AT_ONCE)
        }

    expected = {
        AdvisoryType.CANARY_USED: (4, "192.0.2.7", ()),
        AdvisoryType.USED_AFTER_END: (3, "192.0.2.8", ()),
        AdvisoryType.UNUSED_PERMISSIONS: (2, "", ("orders:write",)),
    }
    wait_until(lambda: seen() == expected)


def test_report_with_observations_counts_once(client: Client, project_id: str) -> None:
    """A repeated batch adds nothing; observations of keys without rows are skipped."""
    decoy = create(client, project_id, labels={CANARY_LABEL: ""}).key
    other = create(client, project_id, kind="restricted", permissions=["orders:read"]).key
    rows = [
        UsageRow(
            access_key=decoy.access_key,
            verdict=VerdictCode.VALID,
            bucket_time=decoy.create_time,
            last_used_time=decoy.create_time,
            count=5,
            cost=5,
        )
    ]
    observations = [
        KeyObservation(access_key=decoy.access_key, last_peer="192.0.2.1"),
        KeyObservation(access_key=other.access_key, permissions=("orders:read",)),
    ]
    batch_id = str(uuid4())
    for _ in range(2):
        client.report_usage(rows, observations=observations, batch_id=batch_id)
    seen = found(client, project_id, "canary_used", "unused_permissions", dormant_after=AT_ONCE)
    assert [(5, "192.0.2.1", ()), (0, "", ("orders:read",))] == [
        (one.count, one.last_peer, one.permissions) for one in seen
    ]


def test_reported_use_before_the_creation_of_a_decoy_is_since_its_creation(
    client: Client, project_id: str
) -> None:
    """Otherwise one report would date every later alarm to the year 1."""
    decoy = create(client, project_id, labels={CANARY_LABEL: ""}).key
    long_ago = datetime(1, 1, 1, tzinfo=UTC)
    used = UsageRow(
        access_key=decoy.access_key,
        verdict=VerdictCode.VALID,
        bucket_time=long_ago,
        last_used_time=long_ago,
        count=1,
        cost=1,
    )
    client.report_usage([used])
    (alarm,) = found(client, project_id, "canary_used")
    assert (decoy.create_time,) * 2 == (alarm.since_time, alarm.last_time)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("observations[0].access_key", {"access_key": "KA1"}),
        ("observations[0].permissions", {"permissions": ["orders"]}),
        ("observations[0].permissions", {"permissions": ["orders:read"] * 101}),
        ("observations[0].last_peer", {"last_peer": "somewhere"}),
    ],
)
def test_invalid_observation_rejects_the_batch(
    root: Caller, field: str, fields: dict[str, Any]
) -> None:
    """The error names the observation."""
    one = ObservationProto(**({"access_key": ABSENT_KEY} | fields))
    request = ReportUsageRequest(batch_id=str(uuid4()), observations=[one])
    (refused,) = root.refused(request).fields
    assert refused.startswith(field)
    many = [ObservationProto(access_key=ABSENT_KEY)] * 1001
    request = ReportUsageRequest(batch_id=request.batch_id, observations=many)
    assert {"observations"} == root.refused(request).fields


def test_thousand_observations_are_accepted(root: Caller) -> None:
    """As many as rows: with 101 the whole report was refused, and its counts were lost."""
    one = ObservationProto(access_key=ABSENT_KEY, permissions=["orders:read"])
    root.ask(ReportUsageRequest(batch_id=str(uuid4()), observations=[one] * 1000))


def test_confined_sees_its_projects_only(root: Caller) -> None:
    """Another project is as absent as one that does not exist."""
    own, foreign = new_project(root), new_project(root)
    for project in (own, foreign):
        new_key(root, project)
    confined = new_operator(root, "usage:read", projects=[own])
    unused = ListAdvisoriesRequest(types=[ADVISORY_TYPE_NEVER_USED], dormant_after=Duration())
    assert [own] == [one.project_id for one in confined.ask(unused).advisories]
    refused = [
        confined.refused(ListAdvisoriesRequest(project_id=one))
        for one in (foreign, absent_project())
    ]
    assert refused[0] == refused[1]
    assert grpc.StatusCode.NOT_FOUND is refused[0].code


def test_page_token_is_bound_to_caller_and_filter(root: Caller) -> None:
    """A token of another caller, filter or list is rejected; each page has its own advisories."""
    project = new_project(root)
    names = [new_key(root, project).key.access_key for _ in range(3)]

    def request(**fields: Any) -> ListAdvisoriesRequest:
        given: dict[str, Any] = {"project_id": project, "page_size": 1}
        given["types"] = [ADVISORY_TYPE_NEVER_USED]
        return ListAdvisoriesRequest(**(given | fields), dormant_after=Duration())

    def pages() -> Iterator[str]:
        token = ""
        while True:
            page = root.ask(request(page_token=token))
            yield from (one.access_key for one in page.advisories)
            token = page.next_page_token
            if not token:
                return

    assert names == list(pages())
    token = root.ask(request()).next_page_token
    keys = root.ask(pb.ListKeysRequest(project_id=project, page_size=1)).next_page_token
    other = new_operator(root, "usage:read")
    for caller, wanted in (
        (other, request(page_token=token)),
        (root, request(page_token=token, types=[])),
        (root, request(page_token=keys)),
    ):
        assert {"page_token"} == caller.refused(wanted).fields


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("types", {"types": [0]}),
        ("types", {"types": [99]}),
        ("types", {"types": [1] * 101}),
        ("dormant_after", {"dormant_after": Duration(seconds=-1)}),
        ("dormant_after", {"dormant_after": Duration(seconds=3660 * 86_400 + 1)}),
        ("expires_within", {"expires_within": Duration(seconds=3660 * 86_400 + 1)}),
        ("page_size", {"page_size": 1001}),
        ("project_id", {"project_id": "shop"}),
    ],
)
def test_invalid_query_is_rejected_by_name(
    root: Caller, field: str, fields: dict[str, Any]
) -> None:
    """The error names the field."""
    assert {field} == root.refused(ListAdvisoriesRequest(**fields)).fields
