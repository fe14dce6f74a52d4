"""The PostgreSQL engine: `base.Store` for several servers on one database, with its own failover.

Nothing in here cancels a statement: whatever takes too long, its connection is dropped. A COMMIT
that was cancelled would be acknowledged before the standby has it.
"""

from keyauthority_server.store.postgres.counters import open_counters
from keyauthority_server.store.postgres.schema import is_made, migrate
from keyauthority_server.store.postgres.store import PostgresStore, open_store
from keyauthority_server.store.postgres.transfer import open_endpoint

__all__ = ["PostgresStore", "is_made", "migrate", "open_counters", "open_endpoint", "open_store"]
