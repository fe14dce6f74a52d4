"""Decoded records, kept while the row read just now still names their revision.

Nothing in here can be stale: the row is read each time, and a kept record is used only if it was
decoded from a row of the same revision, and the log has no later change of it. What makes no
revision (digest, pepper's version, last use) is taken from the row.

A record is kept as of `position`. When the head of the log has moved, the names that were changed
since are read and dropped first, so what is kept is always the record of its newest entry: an older
row that was written back finds nothing kept, and is compared with the log.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from keyauthority.decision import used_at
from keyauthority.model import Project, Revision
from keyauthority_server.bounded import Bounded, weight_of
from keyauthority_server.store.base import StoreDamaged, StoreError
from keyauthority_server.store.integrity import check_newest, stored_key, stored_project
from keyauthority_server.store.records import Row, time_from
from keyauthority_server.store.sql import (
    HELD_WIDTH,
    LOOK,
    LOOK_WHOLE,
    PROJECT_WIDTH,
    RECORD_AT,
)
from keyauthority_server.store.values import Held, Sight, Sights

_Pair = tuple[Held | None, Project | None]
_NOTHING: Final[_Pair] = (None, None)


class Each(Protocol):
    """Reads a row for each name, in their order."""

    def __call__(self, names: Sequence[str | None], *, whole: bool) -> Sequence[Row]:
        """Return rows of LOOK_MANY_WHOLE if whole, else of LOOK_MANY."""
        ...


ReadNames = Callable[[Revision, int], Sequence[Row]]
"""Reads rows of `sql.NAMES_CHANGED`: those changed after a revision, up to so many."""

CATCH_UP_ROWS: Final = 1_000  # some 0.5 ms; whoever is further behind begins anew
KEPT_KEYS: Final = 12_288  # usual ones, of some 2 KB each
KEPT_PROJECTS: Final = 4_096  # likewise

_PROJECT_AT: Final = 1 + HELD_WIDTH  # behind the head's revision and the key
_OPERATOR_AT: Final = _PROJECT_AT + PROJECT_WIDTH


class Decoder:
    """Turns rows of the look statements into sights. Not for more than one thread."""

    def __init__(
        self,
        names_changed: ReadNames | None = None,
        keys: int = KEPT_KEYS,
        projects: int = KEPT_PROJECTS,
    ) -> None:
        """Keep so many of each. `look` and `look_many` need `names_changed`, `sights` does not."""
        # Of each record its revision, of a key its last use, and what was decoded.
        self._keys: Bounded[str, tuple[int, int | None, Held]] = Bounded(keys)
        self._projects: Bounded[str, tuple[int, Project]] = Bounded(projects)
        self._names_changed = names_changed
        self._position: Revision | None = None

    def look(
        self,
        one: Callable[[str, Sequence[Any]], Row | None],
        access_key: str | None,
        operator: str | None,
    ) -> Sight:
        """Return one consistent look: by the short statement, or by the whole if that is needed.

        A key that does not exist costs what one that is kept does: no answer's time tells of it.
        """
        names = (access_key, operator)
        row = one(LOOK, names)
        if row is None:
            raise StoreError("the counter row is missing")
        (
            head,
            revision,
            last_used_time,
            digest,
            pepper_version,
            project_id,
            project_revision,
            operator_revision,
            operator_last_used_time,
            operator_digest,
            operator_pepper_version,
        ) = row
        self._catch_up(head)
        held = project = held_operator = None
        if revision is not None:
            kept = self._keys.get(access_key or "")
            if kept is None or kept[0] != revision:
                return self._look_whole(one, names)
            held = kept[2]
            if kept[1] != last_used_time:
                held = self._used(held, last_used_time)
            held = _with(held, digest, pepper_version)
            if project_id is not None:
                kept_project = self._projects.get(project_id)
                if kept_project is None or kept_project[0] != project_revision:
                    return self._look_whole(one, names)
                project = kept_project[1]
        if operator_revision is not None:
            kept = self._keys.get(operator or "")
            if kept is None or kept[0] != operator_revision or kept[1] != operator_last_used_time:
                return self._look_whole(one, names)  # not so for keys: operators' are not metered
            held_operator = _with(kept[2], operator_digest, operator_pepper_version)
        return Sight(head, held, project, held_operator)

    def _look_whole(
        self,
        one: Callable[[str, Sequence[Any]], Row | None],
        names: tuple[str | None, str | None],
    ) -> Sight:
        row = one(LOOK_WHOLE, names)
        if row is None:
            raise StoreError("the counter row is missing")
        held, project = self.pair(row)
        return Sight(Revision(row[0]), held, project, self._held(row[_OPERATOR_AT:]))

    def _catch_up(self, head: Revision) -> None:
        """Drop what was changed since `position`, so that what is kept is as of this head."""
        position = self._position
        if position == head:
            return
        if position is not None and head < position:
            raise StoreDamaged(f"the log ends at change {head}, but has had change {position}")
        changed: Sequence[Row] = ()
        if position is not None and self._names_changed is not None:
            changed = self._names_changed(position, CATCH_UP_ROWS + 1)
        if not 0 < len(changed) <= CATCH_UP_ROWS:  # nothing is known, or too much was changed
            self._keys.clear()
            self._projects.clear()
            changed = ()
        for access_key, project_id in changed:
            if access_key is None:
                self._projects.drop(project_id)
            else:
                self._keys.drop(access_key)
        self._position = head

    def _used(self, held: Held, last_used_time: int) -> Held:
        """Return a key that was used since it was kept: of one in use that is each second."""
        held = held._replace(key=used_at(held.key, time_from(last_used_time)))
        self._keep(last_used_time, held)
        return held

    def _keep(self, last_used_time: int | None, held: Held) -> None:
        key = held.key
        self._keys.keep(key.access_key, (key.revision, last_used_time, held), weight_of(key))

    def look_many(self, each: Each, names: Sequence[str | None]) -> Sights:
        """Return one consistent look at many keys; the last of the names is the operator's.

        Whole rows are read of those only that are not kept.
        """
        rows = each(names, whole=False)
        if not rows:
            raise StoreError("the counter row is missing")
        head = rows[0][0]
        self._catch_up(head)
        pairs = [self._kept_pair(name, row) for name, row in zip(names, rows, strict=True)]
        lacking = [place for place, pair in enumerate(pairs) if pair is None]
        if lacking:
            whole = each([names[place] for place in lacking], whole=True)
            if whole[0][0] != head:  # a change came in between: it would be two states
                return self.sights(each(names, whole=True))
            for place, row in zip(lacking, whole, strict=True):
                pairs[place] = self.pair(row)
        found = [pair or _NOTHING for pair in pairs]
        operator, _ = found.pop()
        return Sights(Revision(head), found, operator)

    def _kept_pair(self, name: str | None, row: Row) -> _Pair | None:
        """Return what a row of LOOK_MANY names; None if that is not kept as it is now."""
        _, revision, last_used_time, digest, pepper_version, project_id, project_revision = row
        if revision is None:
            return _NOTHING
        kept = self._keys.get(name or "")
        if kept is None or kept[0] != revision:
            return None
        held = kept[2]
        if kept[1] != last_used_time:
            held = self._used(held, last_used_time)
        held = _with(held, digest, pepper_version)
        if project_id is None:
            return held, None
        kept_project = self._projects.get(project_id)
        if kept_project is None or kept_project[0] != project_revision:
            return None
        return held, kept_project[1]

    def sights(self, rows: Sequence[Row]) -> Sights:
        """Return one consistent look from rows of LOOK_MANY_WHOLE, the last the operator's."""
        pairs = [self.pair(row) for row in rows]
        operator, _ = pairs.pop()
        return Sights(Revision(rows[0][0]), pairs, operator)

    def pair(self, row: Row) -> _Pair:
        """Return the key and project of a row of LOOK_MANY_WHOLE; StoreDamaged if not as logged."""
        held = self._held(row[1:_PROJECT_AT])
        return held, self._project(row[_PROJECT_AT:_OPERATOR_AT])

    def _held(self, row: Row) -> Held | None:
        last_used_time, digest, pepper_version, _, access_key, revision = row[: RECORD_AT + 2]
        if access_key is None:
            return None
        check_newest(row[RECORD_AT:HELD_WIDTH])
        kept = self._keys.get(access_key)
        if kept is not None and kept[0] == revision and kept[1] == last_used_time:
            return _with(kept[2], digest, pepper_version)
        held = stored_key(row[:HELD_WIDTH])
        self._keep(last_used_time, held)
        return held

    def _project(self, row: Row) -> Project | None:
        project_id, revision = row[:2]
        if project_id is None:
            return None
        check_newest(row)
        kept = self._projects.get(project_id)
        if kept is not None and kept[0] == revision:
            return kept[1]
        project = stored_project(row)
        self._projects.keep(project_id, (revision, project), weight_of(project))
        return project


def _with(kept: Held, digest: bytes, pepper_version: int) -> Held:
    """Return what was kept with what the row says of the digest, which makes no revision."""
    if kept.pepper_version == pepper_version and hmac.compare_digest(kept.digest, digest):
        return kept
    return kept._replace(digest=digest, pepper_version=pepper_version)
