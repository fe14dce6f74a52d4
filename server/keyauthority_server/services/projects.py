"""Project service: create, get and list; `key_updates` has the update."""

from __future__ import annotations

import uuid
from datetime import datetime

from keyauthority.errors import ErrorReason
from keyauthority.model import ChangeType, Project
from keyauthority.requests import NewProject
from keyauthority.results import Page, WrittenProject
from keyauthority_server.services.context import ServiceContext, not_found
from keyauthority_server.services.idempotency import Idempotency, Request
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.sql.queries.lists import list_projects
from keyauthority_server.store.types import Mutation


class Projects:
    """Creates and reads projects."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._idempotency = Idempotency(context.peppers)

    async def create(self, caller: Principal, new: NewProject, content: bytes) -> WrittenProject:
        """Create a project, or return the project that the same request created before.

        `content` is the fingerprint of the request. PermissionDenied for an operator confined to
        projects.
        """
        request = Request(new.request_id, content)

        def work(transaction: Transaction, current: Principal, now: datetime) -> WrittenProject:
            lookup = self._idempotency.find(transaction, current, request, now)
            first = lookup.replay
            if first is not None and first.change.project is not None:
                return self._written(first.change.project, first.change.revision)
            self._idempotency.reject_reused_id(lookup)
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
                Mutation(current, ChangeType.PROJECT_CREATED, now, project=project)
            )
            self._idempotency.record(transaction, lookup, request, None, now)
            return self._written(applied.project or project, applied.revision)

        return await self._context.mutate(caller, "projects:create", work)

    def _written(self, project: Project, revision: int) -> WrittenProject:
        return WrittenProject(project=project, revision=revision, log_id=self._context.log_id)

    async def get(self, caller: Principal, project_id: str) -> Project:
        """Return a project, or raise NotFound."""
        project = await self._context.store.get_project(project_id, caller.scope)
        if project is None:
            raise not_found(ErrorReason.PROJECT_NOT_FOUND)
        return project

    async def list(
        self, caller: Principal, query: bytes, page_size: int, page_token: str
    ) -> Page[Project]:
        """Return a page of the projects in the caller's scope."""
        store, pages = self._context.store, self._context.pages
        cursor = pages.decode(caller.actor, query, page_token)
        projects, next_cursor = await store.query(list_projects, caller.scope, cursor, page_size)
        return Page(tuple(projects), pages.encode(caller.actor, query, next_cursor))
