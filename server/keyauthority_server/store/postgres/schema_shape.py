"""The shape of a database in PostgreSQL's catalogs, and the shape that the migrations create.

Objects of extensions are left out. The expected shape is computed once per process from temporary
tables, in a transaction that is rolled back: the role needs TEMPORARY on the database, which
PostgreSQL grants to PUBLIC by default.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Final

from keyauthority_server.store.interface import StoreUnusable
from keyauthority_server.store.postgres.connection import StatementFailed
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.sql.schema_shape import Shape

_expected: dict[tuple[int, frozenset[str]], Shape] = {}
_making = threading.Lock()


def found_shape(rows: PostgresRows) -> Shape:
    """Return the shape of the connection's current schema."""
    return _described(rows, "current_schema()::regnamespace")


def expected_shape(
    rows: PostgresRows, steps: frozenset[str], make: Callable[[PostgresRows], None]
) -> Shape:
    """Return the shape that `make` creates, which is the same for the same steps.

    Call it outside of a transaction.
    """
    with _making:
        name = (rows.server_version, steps)
        if name not in _expected:
            _expected[name] = _made(rows, make)
        return _expected[name]


def _made(rows: PostgresRows, make: Callable[[PostgresRows], None]) -> Shape:
    try:
        rows.begin("SET LOCAL search_path = pg_temp")
        make(rows)
        return _described(rows, "pg_my_temp_schema()")
    except StatementFailed as error:
        raise StoreUnusable(
            f"the schema cannot be compared with the one expected, for which the role needs "
            f"TEMPORARY on the database: {error}"
        ) from error
    finally:
        rows.roll_back()


def _described(rows: PostgresRows, schema: str) -> Shape:
    statement = _OBJECTS.replace("{schema}", schema)
    (own,) = rows.one("SELECT quote_ident(current_schema())")
    qualified = re.compile(rf"\b(pg_temp(_[0-9]+)?|{re.escape(own)})\.")
    return {name: qualified.sub("", text or "") for name, text in rows.each(statement)}


# An index, a column, a constraint, a trigger, a rule and a policy belong to a relation; that of an
# extension is its own affair. `o` are the relations that are looked at.
_OBJECTS: Final = """
WITH o AS (
    SELECT c.* FROM pg_class AS c WHERE c.relnamespace = {schema} AND NOT EXISTS (
        SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND d.deptype = 'e'))
SELECT format('the %s %L', CASE relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view'
        WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table'
        WHEN 'p' THEN 'partitioned table' ELSE 'type' END, relname),
    concat_ws(' ', relkind, CASE relpersistence WHEN 't' THEN 'p' ELSE relpersistence END,
        relrowsecurity, relforcerowsecurity)
FROM o WHERE relkind NOT IN ('i', 'I', 't')
UNION ALL
SELECT format('the column %L of %L', a.attname, o.relname),
    concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
        a.attgenerated, (SELECT collname FROM pg_collation WHERE oid = a.attcollation),
        (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef AS d
            WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum))
FROM o JOIN pg_attribute AS a ON a.attrelid = o.oid
WHERE o.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT format('the constraint %L of %L', n.conname, o.relname),
    concat_ws(' ', n.contype, pg_get_constraintdef(n.oid), n.convalidated)
FROM o JOIN pg_constraint AS n ON n.conrelid = o.oid WHERE n.contype <> 'n'
UNION ALL
SELECT format('the index %L', i.relname), concat_ws(' ', pg_get_indexdef(i.oid), x.indisvalid)
FROM o JOIN pg_index AS x ON x.indrelid = o.oid JOIN pg_class AS i ON i.oid = x.indexrelid
WHERE o.relkind <> 't'
UNION ALL
SELECT format('the trigger %L of %L', t.tgname, o.relname),
    concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled)
FROM o JOIN pg_trigger AS t ON t.tgrelid = o.oid WHERE NOT t.tgisinternal
UNION ALL
SELECT format('the triggers that check references of %L', o.relname),
    string_agg(concat_ws(' ', p.proname, t.tgenabled), ', ' ORDER BY p.proname, t.tgenabled)
FROM o JOIN pg_trigger AS t ON t.tgrelid = o.oid JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE t.tgisinternal GROUP BY o.relname
UNION ALL
SELECT format('the rule %L of %L', r.rulename, o.relname), pg_get_ruledef(r.oid)
FROM o JOIN pg_rewrite AS r ON r.ev_class = o.oid WHERE o.relkind = 'r'
UNION ALL
SELECT format('the policy %L of %L', y.polname, o.relname), ''
FROM o JOIN pg_policy AS y ON y.polrelid = o.oid
UNION ALL
SELECT format('the table %L beside %L, one inheriting from the other', h.inhrelid::regclass,
    h.inhparent::regclass), ''
FROM pg_inherits AS h WHERE h.inhparent IN (SELECT oid FROM o WHERE relkind = 'r')
    OR h.inhrelid IN (SELECT oid FROM o WHERE relkind = 'r')
UNION ALL
SELECT format('the function %L', concat(p.proname, '(',
        pg_get_function_identity_arguments(p.oid), ')')),
    concat_ws(' ', l.lanname, p.prosrc, p.prosecdef, p.proconfig, p.prorettype::regtype)
FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.pronamespace = {schema} AND NOT EXISTS (
    SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        AND d.deptype = 'e')
UNION ALL
SELECT format('the operator %L', q.oid::regoperator), ''
FROM pg_operator AS q WHERE q.oprnamespace = {schema} AND NOT EXISTS (
    SELECT FROM pg_depend AS d WHERE d.classid = 'pg_operator'::regclass AND d.objid = q.oid
        AND d.deptype = 'e')
UNION ALL
SELECT format('the type %L', y.typname), ''
FROM pg_type AS y WHERE y.typnamespace = {schema} AND y.typtype <> 'c' AND y.typcategory <> 'A'
    AND NOT EXISTS (
    SELECT FROM pg_depend AS d WHERE d.classid = 'pg_type'::regclass AND d.objid = y.oid
        AND d.deptype = 'e')
"""
