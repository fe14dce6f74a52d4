"""A real authority for tests: a server process on a free port, in a temporary folder.

    with keyauthority.testing.authority() as running, running.client() as client:
        project = client.create_project("Shop")

Requires the extra `server`; not for production. With pytest, put
`pytest_plugins = ["keyauthority.testing.plugin"]` into the top-level `conftest.py` and use the
fixture `key_authority`. Begin with `process`.
"""

from __future__ import annotations

from keyauthority.testing.process import Authority, StartFailed, authority

__all__ = ["Authority", "StartFailed", "authority"]
