"""How often a second a library checks a valid key; run by the Python that it is installed in.

`python library_checks.py NAME SECONDS FOLDER` prints the rate. It imports the
standard library and the measured library only, so that nothing else needs to be installed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final


def django(folder: Path, seconds: float) -> float:
    """djangorestframework-api-key: `APIKey.objects.is_valid`, as in its permission class."""
    import django as framework
    from django.conf import settings

    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "django.db")}
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["rest_framework", "rest_framework_api_key"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    framework.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    from rest_framework_api_key.models import APIKey

    _, key = APIKey.objects.create_key(name="bench")
    return _steps(lambda: APIKey.objects.is_valid(key), seconds)


async def keyshield(folder: Path, seconds: float, *, cached: bool, delayed: bool) -> float:
    """keyshield: `verify_key` on its SQL repository, with its Argon2 hasher."""
    from keyshield import ApiKeyService
    from keyshield.hasher.argon2 import Argon2ApiKeyHasher
    from keyshield.repositories.sql import SqlAlchemyApiKeyRepository
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'keyshield.db'}")
    kind: Any = ApiKeyService
    if cached:
        from keyshield.services.cached import CachedApiKeyService

        kind = CachedApiKeyService
    delays = {} if delayed else {"min_delay": 0.0, "max_delay": 0.0}
    async with async_sessionmaker(engine, expire_on_commit=False)() as session:
        repository = SqlAlchemyApiKeyRepository(session)
        await repository.ensure_table(engine)
        service = kind(repo=repository, hasher=Argon2ApiKeyHasher(pepper="p" * 32), **delays)
        _, key = await service.create(name="bench")
        rate = await _awaited(lambda: service.verify_key(key), seconds)
    await engine.dispose()
    return rate


def _steps(step: Callable[[], object], seconds: float) -> float:
    """Return how often a second a step is taken, after one that warms up."""
    step()
    begun, steps = time.perf_counter(), 0
    while (taken := time.perf_counter() - begun) < seconds:
        if not step():
            sys.exit("the key is not valid")
        steps += 1
    return steps / taken


async def _awaited(step: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Do the same for steps that are awaited."""
    await step()
    begun, steps = time.perf_counter(), 0
    while (taken := time.perf_counter() - begun) < seconds:
        await step()  # raises for a key that is not valid
        steps += 1
    return steps / taken


CHECKS: Final[dict[str, Callable[[Path, float], float]]] = {
    "django": django,
    "keyshield": lambda folder, seconds: asyncio.run(
        keyshield(folder, seconds, cached=False, delayed=False)
    ),
    "keyshield-delayed": lambda folder, seconds: asyncio.run(
        keyshield(folder, seconds, cached=False, delayed=True)
    ),
    "keyshield-cached": lambda folder, seconds: asyncio.run(
        keyshield(folder, seconds, cached=True, delayed=False)
    ),
}

if __name__ == "__main__":
    print(CHECKS[sys.argv[1]](Path(sys.argv[3]), float(sys.argv[2])))
