"""The PostgreSQL engine: several servers share one database, which has its own failover.

Nothing here may cancel a statement: a slow one loses its connection instead, because a cancelled
COMMIT would be acknowledged before the standby has it. No other package imports a PostgreSQL
driver. Begin with `store`; the modules bear the names of the SQLite engine's.
"""

from keyauthority_server.store.postgres.counters import open_counters
from keyauthority_server.store.postgres.schema import is_made, migrate
from keyauthority_server.store.postgres.store import PostgresStore, open_store
from keyauthority_server.store.postgres.transfer import open_endpoint

__all__ = ["PostgresStore", "is_made", "migrate", "open_counters", "open_endpoint", "open_store"]
