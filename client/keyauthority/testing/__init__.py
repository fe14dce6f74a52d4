"""A real authority for your own tests: a server process on a free port, in a temporary folder.

    with keyauthority.testing.authority() as running, running.client() as client:
        project = client.create_project("Shop")

It needs the extra `server`. With pytest, put `pytest_plugins = ["keyauthority.testing.plugin"]`
into the top `conftest.py` and take the fixture `key_authority`.
"""

from __future__ import annotations

from keyauthority.testing.process import Authority, StartFailed, authority

__all__ = ["Authority", "StartFailed", "authority"]
