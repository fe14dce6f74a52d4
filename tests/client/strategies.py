"""Random records and values, as the model allows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from keyauthority.model import (
    AndroidApp,
    ApiTarget,
    ApiTargetRestriction,
    App,
    Change,
    ChangeType,
    Facts,
    Key,
    KeyKind,
    KeyMode,
    KeyState,
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
    RevokeReason,
    Standing,
    UsageGranularity,
    UsageRow,
    Verdict,
    VerdictCode,
)
from keyauthority.requests import (
    KeyFilter,
    KeyObservation,
    KeyUpdate,
    NewKey,
    NewProject,
    ProjectUpdate,
    Revocation,
    Rotation,
    UsageQuery,
    UsageReport,
    VerifyQuery,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
times = st.datetimes(timezones=st.just(UTC))
spans = st.timedeltas(timedelta(days=-3_652_500), timedelta(days=3_652_500))
counts = st.integers(-(2**63), 2**63 - 1)
text_lists = st.lists(texts, max_size=3).map(tuple)
label_maps = st.dictionaries(texts, texts, max_size=3)
android_apps = st.builds(AndroidApp, texts, texts)
target_restrictions = st.builds(ApiTargetRestriction, texts, text_lists)
restrictions = st.builds(
    Restrictions,
    allowed_ips=text_lists,
    allowed_referrers=text_lists,
    android_apps=st.lists(android_apps, max_size=2).map(tuple),
    ios_bundle_ids=text_lists,
    api_targets=st.lists(target_restrictions, max_size=2).map(tuple),
)
rate_limits = st.builds(RateLimit, counts, spans)
quotas = st.builds(Quota, counts, st.sampled_from(QuotaPeriod))
standings = st.builds(Standing, counts, counts, st.none() | times)
modes = st.sampled_from(KeyMode)
kinds = st.sampled_from(KeyKind)
states = st.sampled_from(KeyState)
reasons = st.sampled_from(RevokeReason)
codes = st.sampled_from(VerdictCode)

keys = st.builds(
    Key,
    access_key=texts,
    project_id=texts,
    mode=modes,
    kind=kinds,
    purpose=texts,
    permissions=text_lists,
    restrictions=restrictions,
    rate_limit=st.none() | rate_limits,
    quota=st.none() | quotas,
    labels=label_maps,
    state=st.none() | states,
    disabled=st.booleans(),
    create_time=times,
    update_time=times,
    expire_time=st.none() | times,
    supersede_time=st.none() | times,
    revoke_time=st.none() | times,
    revoke_reason=st.none() | reasons,
    revoke_note=texts,
    last_used_time=st.none() | times,
    created_by=texts,
    created_from=texts,
    predecessor_access_key=texts,
    successor_access_key=texts,
    publishable_key=texts,
    operator_projects=text_lists,
    revision=counts,
)
projects = st.builds(
    Project,
    project_id=texts,
    display_name=texts,
    labels=label_maps,
    suspended=st.booleans(),
    rate_limit=st.none() | rate_limits,
    create_time=times,
    update_time=times,
    revision=counts,
)
changes = st.builds(
    Change,
    revision=counts,
    time=times,
    type=st.sampled_from(ChangeType),
    project_id=texts,
    keys=st.lists(keys, max_size=2).map(tuple),
    project=st.none() | projects,
)
key_filters = st.builds(
    KeyFilter,
    mode=st.none() | modes,
    kind=st.none() | kinds,
    state=st.none() | states,
    labels=label_maps,
    expires_before=st.none() | times,
    used_before=st.none() | times,
    never_used=st.booleans(),
)
endings = st.fixed_dictionaries({}, optional={"expire_time": times}) | st.fixed_dictionaries(
    {"ttl": spans}
)
new_keys = endings.flatmap(
    lambda ending: st.builds(
        NewKey,
        project_id=texts,
        mode=st.none() | modes,
        kind=st.none() | kinds,
        purpose=texts,
        permissions=text_lists,
        restrictions=restrictions,
        rate_limit=st.none() | rate_limits,
        quota=st.none() | quotas,
        labels=label_maps,
        operator_projects=text_lists,
        request_id=texts,
        **{name: st.just(value) for name, value in ending.items()},
    )
)
new_projects = st.builds(
    NewProject,
    display_name=texts,
    labels=label_maps,
    rate_limit=st.none() | rate_limits,
    request_id=texts,
)
revocations = st.builds(
    Revocation, access_key=texts, secret_key=texts, reason=st.none() | reasons, note=texts
)
paths = st.frozensets(texts, max_size=3)
key_updates = st.builds(
    KeyUpdate,
    access_key=texts,
    paths=paths,
    purpose=texts,
    permissions=text_lists,
    restrictions=restrictions,
    expire_time=st.none() | times,
    rate_limit=st.none() | rate_limits,
    quota=st.none() | quotas,
    labels=label_maps,
    disabled=st.booleans(),
    etag=texts,
)
project_updates = st.builds(
    ProjectUpdate,
    project_id=texts,
    paths=paths,
    display_name=texts,
    labels=label_maps,
    suspended=st.booleans(),
    rate_limit=st.none() | rate_limits,
    etag=texts,
)
rotations = st.builds(
    Rotation,
    access_key=texts,
    overlap=st.none() | spans,
    expire_time=st.none() | times,
    request_id=texts,
)
usage_rows = st.builds(
    UsageRow,
    project_id=texts,
    access_key=texts,
    verdict=codes,
    bucket_time=times,
    count=counts,
    cost=counts,
    last_used_time=times,
)
usage_queries = st.builds(
    UsageQuery,
    project_id=texts,
    access_key=texts,
    start_time=st.none() | times,
    end_time=st.none() | times,
    granularity=st.sampled_from(UsageGranularity),
    page_size=st.integers(-(2**31), 2**31 - 1),
    page_token=texts,
)
key_observations = st.builds(
    KeyObservation, access_key=texts, permissions=text_lists, last_peer=texts
)
usage_reports = st.builds(
    UsageReport,
    batch_id=texts,
    rows=st.lists(usage_rows, max_size=3).map(tuple),
    observations=st.lists(key_observations, max_size=2).map(tuple),
)
apps = st.builds(App, android_package=texts, android_sha1=texts, ios_bundle_id=texts)
api_targets = st.builds(ApiTarget, texts, texts)
facts = st.builds(
    Facts,
    access_key=texts,
    project_id=texts,
    mode=st.none() | modes,
    permissions=text_lists,
    client_ip=texts,
    referrer=texts,
    app=st.none() | apps,
    api_target=st.none() | api_targets,
)
presentations = st.builds(
    VerifyQuery,
    secret_key=texts,
    facts=facts,
    cost=counts,
    at_least_revision=counts,
    log_id=texts,
    explain=st.booleans(),
    include_record=st.booleans(),
)
right_verdicts = st.builds(
    Verdict,
    code=codes,
    access_key=names,
    project_id=texts,
    mode=st.none() | modes,
    kind=st.none() | kinds,
    permissions=text_lists,
    labels=label_maps,
    expire_time=st.none() | times,
    key_standing=st.none() | standings,
    project_standing=st.none() | standings,
    quota_standing=st.none() | standings,
    revision=counts,
    log_id=texts,
    failed=st.lists(codes, max_size=3).map(tuple),
    key=st.none() | keys,
    project=st.none() | projects,
)
wrong_verdicts = st.builds(  # `builds` would fill the other fields of a named tuple by itself
    lambda code, revision, log_id: Verdict(code=code, revision=revision, log_id=log_id),
    codes,
    counts,
    texts,
)
verdicts = right_verdicts | wrong_verdicts


def at(second: int) -> datetime:
    """Return a fixed time: 2026-01-01 00:00 UTC and so many seconds."""
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
