"""Use cases of projects."""

from __future__ import annotations

import uuid
from datetime import datetime

from keyauthority.errors import ErrorReason
from keyauthority.model import ChangeType, Project
from keyauthority.requests import NewProject
from keyauthority.results import Page, WrittenProject
from keyauthority_server.services.context import ServiceContext, gone
from keyauthority_server.services.idempotency import Replay, Request
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.types import Mutation


class Projects:
    """Makes and shows projects."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._replay = Replay(context.peppers)

    async def create(self, caller: Principal, new: NewProject, content: bytes) -> WrittenProject:
        """Make a project, or find the one that the same request has made before.

        `content` is the request in bytes that tell it from any other. PermissionDenied for an
        operator who is confined to projects.
        """
        request = Request(new.request_id, content)

        def work(transaction: Transaction, present: Principal, now: datetime) -> WrittenProject:
            first = self._replay.find(transaction, present, request, now)
            if first is not None and first.change.project is not None:
                return self._written(first.change.project, first.change.revision)
            self._replay.refuse_other(transaction, present, request, now)
            project = Project(
                project_id=str(uuid.uuid4()),
                display_name=new.display_name,
                labels=new.labels,
                rate_limit=new.rate_limit,
                create_time=now,
                update_time=now,
                revision=0,
            )
            applied = transaction.apply(
                Mutation(
                    type=ChangeType.PROJECT_CREATED,
                    time=now,
                    actor=present.actor,
                    peer=present.peer,
                    project=project,
                )
            )
            self._replay.remember(transaction, present, request, None, now)
            return self._written(applied.project or project, applied.revision)

        return await self._context.change(caller, "projects:create", work)

    def _written(self, project: Project, revision: int) -> WrittenProject:
        return WrittenProject(project=project, revision=revision, log_id=self._context.log_id)

    async def get(self, caller: Principal, project_id: str) -> Project:
        """Return a project, or raise NotFound."""
        project = await self._context.store.get_project(project_id, caller.scope)
        if project is None:
            raise gone(ErrorReason.PROJECT_NOT_FOUND)
        return project

    async def list(
        self, caller: Principal, query: bytes, page_size: int, page_token: str
    ) -> Page[Project]:
        """Return a page of the caller's projects."""
        pages = self._context.pages
        place = pages.place(caller.actor, query, page_token)
        projects, after = await self._context.store.list_projects(caller.scope, place, page_size)
        return Page(tuple(projects), pages.token(caller.actor, query, after))
