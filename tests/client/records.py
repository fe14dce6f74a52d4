"""Fixed records, and answers made of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

from keyauthority import convert
from keyauthority.errors import ErrorReason
from keyauthority.model import (
    ImportScheme,
    ImportSet,
    Key,
    KeyKind,
    KeyMode,
    KeyState,
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
    TokenPart,
    UsageRow,
    Verdict,
    VerdictCode,
)
from keyauthority.requests import ImportedKey
from keyauthority.results import (
    CreatedKey,
    ImportedKeys,
    ImportFailure,
    ImportResult,
    RevokedKey,
    RotatedKey,
    WrittenKey,
    WrittenProject,
)
from keyauthority.token import SecretKey
from tests.client.strategies import at

PROJECT_ID: Final = "0b0f8a3e-5f0a-4f0e-9d59-6f1f2a3b4c5d"
LOG_ID: Final = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
TOKEN: Final = "rk_live_KAZZZZZZZZZZZZZZZZZZ_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3oUCG6"
OPERATOR_KEY: Final = (
    "op_live_KA0123456789ABCDEFGH_fvoEdQeeVc0mZ71i5JuiKNTDvWO8cAduGHnTmvX86Qo1NFkcX"
)

KEY: Final = Key(
    access_key="KAZZZZZZZZZZZZZZZZZZ",
    project_id=PROJECT_ID,
    mode=KeyMode.LIVE,
    kind=KeyKind.RESTRICTED,
    purpose="nightly export",
    permissions=("orders:read",),
    labels={"team": "billing"},
    state=KeyState.ACTIVE,
    create_time=at(0),
    update_time=at(0),
    expire_time=at(86_400),
    revision=7,
)
OTHER_KEY: Final = replace(KEY, access_key="KA000000000000000000", revision=8)
REVOKED_KEY: Final = replace(KEY, state=KeyState.REVOKED, revoke_time=at(60), revision=9)
PROJECT: Final = Project(
    project_id=PROJECT_ID, display_name="Shop", create_time=at(0), update_time=at(0), revision=3
)
CREATED_KEY: Final = CreatedKey(key=KEY, secret_key=SecretKey(TOKEN), revision=7, log_id=LOG_ID)
CREATED_PROJECT: Final = WrittenProject(project=PROJECT, revision=3, log_id=LOG_ID)
WRITTEN_KEY: Final = WrittenKey(key=KEY, revision=8, log_id=LOG_ID)
ROTATED: Final = RotatedKey(
    key=OTHER_KEY,
    secret_key=SecretKey(TOKEN),
    previous=replace(
        KEY, supersede_time=at(3600), successor_access_key=OTHER_KEY.access_key, revision=8
    ),
    revision=8,
    log_id=LOG_ID,
)
USAGE_ROW: Final = UsageRow(
    project_id=PROJECT_ID,
    access_key=KEY.access_key,
    verdict=VerdictCode.VALID,
    bucket_time=at(0),
    count=3,
    cost=5,
    last_used_time=at(1800),
)
REVOKED: Final = RevokedKey(
    access_key=KEY.access_key,
    project_id=PROJECT_ID,
    state=KeyState.REVOKED,
    revoke_time=at(60),
    key_revision=9,
    key=REVOKED_KEY,
    revision=9,
    log_id=LOG_ID,
)
SELF_REVOKED: Final = replace(REVOKED, key=None)
VALID: Final = Verdict(
    code=VerdictCode.VALID,
    access_key=KEY.access_key,
    project_id=PROJECT_ID,
    mode=KeyMode.LIVE,
    kind=KeyKind.RESTRICTED,
    permissions=("orders:read",),
    labels={"team": "billing"},
    revision=9,
    log_id=LOG_ID,
)
UNKNOWN: Final = Verdict(code=VerdictCode.UNKNOWN, revision=9, log_id=LOG_ID)

VALID_ANSWER: Final = convert.verdict_to_proto(VALID)
UNKNOWN_ANSWER: Final = convert.verdict_to_proto(UNKNOWN)

IMPORT_SET = ImportSet(
    name="set",
    scheme=ImportScheme.SHA512_HEX,
    token_part=TokenPart.AFTER_LAST_UNDERSCORE,
    token_prefix="old_",
    token_length_min=8,
    token_length_max=80,
)
IMPORTED = ImportedKey(
    digest="00",
    foreign_id="7",
    project_id=PROJECT_ID,
    mode=KeyMode.LIVE,
    kind=KeyKind.RESTRICTED,
    purpose="nightly export",
    permissions=("orders:read",),
    restrictions=Restrictions(allowed_ips=("10.0.0.0/8",)),
    expire_time=at(7),
    rate_limit=RateLimit(100, timedelta(minutes=1)),
    quota=Quota(1000, QuotaPeriod.DAY),
    labels={"team": "billing"},
)
IMPORT_RESULT = ImportedKeys(
    results=(
        ImportResult(access_key=KEY.access_key, created=True),
        ImportResult(error=ImportFailure(reason=ErrorReason.DIGEST_TAKEN, message="taken")),
    ),
    revision=7,
    log_id=LOG_ID,
)
