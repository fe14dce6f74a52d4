"""Make keys with djangorestframework-api-key, in a SQLite database of their own.

`python drf_api_key.py DATABASE` prints the keys as JSON, by name. It imports that library and the
standard library only.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["rest_framework", "rest_framework_api_key"],
    USE_TZ=True,
)
django.setup()
call_command("migrate", verbosity=0)

from rest_framework_api_key.models import APIKey  # noqa: E402 - needs the settings

FIELDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "expiring": {"expiry_date": datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)},
    "revoked": {"revoked": True},
}
keys = {}
for name, fields in FIELDS.items():
    _, keys[name] = APIKey.objects.create_key(name=name, **fields)
    assert APIKey.objects.is_valid(keys[name]) == (name != "revoked")
sys.stdout.write(json.dumps(keys))
