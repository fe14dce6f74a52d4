"""A retry by a caller with narrowed rights or projects returns no secret beyond them."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from keyauthority.clock import SystemClock
from keyauthority.errors import KeyAuthorityError, NotFound, PermissionDenied
from keyauthority.model import Key, KeyKind, KeyMode
from keyauthority.requests import NewKey, NewProject, Rotation
from keyauthority_server.services import Principal
from tests.faults.folders import Process

NOW = SystemClock().now()


def certificate(*permissions: str, projects: tuple[str, ...] = ()) -> Principal:
    """A caller with a certificate; the configuration holds its rights."""
    key = Key(
        access_key="batch.example",
        project_id="",
        mode=KeyMode.LIVE,
        kind=KeyKind.OPERATOR,
        permissions=permissions or ("*:*",),
        operator_projects=projects,
        create_time=NOW,
        update_time=NOW,
        revision=0,
    )
    return Principal(key, "127.0.0.1", certified=True)


async def test_retries_respect_the_present_confinement(
    one: Process,
) -> None:
    """CreateKey, RotateKey, CreateProject: same bytes and caller, fewer projects."""
    keys, rotating = one.authority.keys, one.authority.key_rotation
    mine = await one.project()
    written = await one.authority.projects.create(certificate(), NewProject(), b"other")
    other = written.project.project_id
    wide, narrow = certificate(), certificate(projects=(other,))
    new = NewKey(
        project_id=mine, mode=KeyMode.LIVE, kind=KeyKind.SECRET, request_id=str(uuid.uuid4())
    )
    created = await keys.create(wide, new, b"create")
    assert created == await keys.create(wide, new, b"create")
    rotation = Rotation(access_key=created.key.access_key, request_id=str(uuid.uuid4()))
    rotated = await rotating.rotate(wide, rotation, b"rotate")
    assert rotated == await rotating.rotate(wide, rotation, b"rotate")
    for again in (
        lambda caller: keys.create(caller, new, b"create"),
        lambda caller: rotating.rotate(caller, rotation, b"rotate"),
    ):
        with pytest.raises(NotFound) as refused:
            await again(narrow)
        assert mine not in str(refused.value)
        with pytest.raises(PermissionDenied):
            await again(certificate("keys:read"))
        assert (await again(certificate(projects=(mine,)))).revision
    project = NewProject(display_name="Shop", request_id=str(uuid.uuid4()))
    await one.authority.projects.create(wide, project, b"project")
    with pytest.raises(PermissionDenied):
        await one.authority.projects.create(narrow, project, b"project")


@pytest.mark.parametrize(
    "narrowed",
    [
        certificate("operators:*"),
        replace(certificate(), key=replace(certificate().key, expire_time=NOW.replace(year=9000))),
        certificate(projects=("00000000-0000-4000-8000-000000000000",)),
    ],
    ids=["rights", "end", "projects"],
)
async def test_retry_for_an_operator_key_beyond_present_rights_is_refused(
    one: Process, narrowed: Principal
) -> None:
    """Its secret would restore rights that the caller has lost."""
    new = NewKey(
        project_id="",
        kind=KeyKind.OPERATOR,
        permissions=("projects:read",),
        request_id=str(uuid.uuid4()),
    )
    created = await one.authority.keys.create(certificate(), new, b"operator")
    rotation = Rotation(access_key=created.key.access_key, request_id=str(uuid.uuid4()))
    await one.authority.key_rotation.rotate(certificate(), rotation, b"rotate")
    with pytest.raises(PermissionDenied, match="own"):
        await one.authority.keys.create(narrowed, new, b"operator")
    with pytest.raises(KeyAuthorityError) as refused:
        await one.authority.key_rotation.rotate(narrowed, rotation, b"rotate")
    expected = NotFound if narrowed.scope else PermissionDenied
    assert expected is type(refused.value)
