"""Gives the requests of schemathesis names of records that exist, so that some are answered.

The test passes the names in KEYAUTHORITY_TEST_NAMES: JSON of a field's name to its values.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any, Final

import schemathesis

NAMES: Final[dict[str, list[str]]] = json.loads(os.environ["KEYAUTHORITY_TEST_NAMES"])
SHARE: Final = 0.8  # of the fields; the others keep what was drawn


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Return the body with names that exist in its fields for names."""
    if not isinstance(body, dict):
        return body
    return {
        field: random.choice(NAMES[field]) if field in NAMES and random.random() < SHARE else value
        for field, value in body.items()
    }
