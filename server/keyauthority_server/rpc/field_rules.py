"""Rules of single fields, from which `validate` composes the check of each request.

A `Validator` collects violations, each with the path of the field in the request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority import convert
from keyauthority.errors import FieldViolation, KeyAuthorityError, bad_field
from keyauthority.permissions import is_concrete, is_grant
from keyauthority.restrictions import canonical_sha1, check_ip_or_network, check_referrer
from keyauthority.text import UUID, UUID4
from keyauthority.token import ACCESS_KEY_PATTERN
from keyauthority.v1 import key_authority_service_pb2 as keys_pb
from keyauthority.v1 import key_pb2
from keyauthority_server.rights import not_rights

TEXT_MAX: Final = 200  # characters of a purpose, a display name, a note
LABELS_MAX: Final = 32
LABEL_KEY_MAX: Final = 63
LABEL_VALUE_MAX: Final = 255
LIST_MAX: Final = 100  # permissions, each list of restrictions, operator_projects
BATCH_MAX: Final = 1000  # requests of a BatchVerify, rows and observations of a ReportUsage
PAGE_MAX: Final = 1000
REFERRERS_CHECKED: Final = 1_024  # results that are kept: at most 2 MiB
ENTRY_MAX: Final = 512  # characters of one permission, address, referrer, package, service, method
RESTRICTIONS_MAX: Final = 256 * 1024  # bytes; clients accept responses of 4 MiB, of several keys
SET_PREFIX_MAX: Final = 64  # characters that every token of an import set begins with
PERIOD_MIN: Final = timedelta(seconds=1)
PERIOD_MAX: Final = timedelta(days=1)

NO_PROJECT: Final = "not a project ID, which is a UUID in lower case"
_NO_PERMISSION: Final = "not RESOURCE:ACTION, such as orders:read"
_BATCHES: Final = frozenset({"requests", "rows", "observations", "keys"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # the category Cc of Unicode
_SET_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


def items_max(field: FieldDescriptor) -> int:
    """Return the maximum number of items of a list or map."""
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return LABELS_MAX
    return BATCH_MAX if field.name in _BATCHES else LIST_MAX


def too_long(field: str, most: int) -> KeyAuthorityError:
    """Return the error for a list with more than `most` items."""
    is_needed = field in ("requests", "keys")
    return bad_field(field, f"from 1 to {most}" if is_needed else f"at most {most}")


class Validator:
    """Collects violations. Each method checks one rule, which its docstring states."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def refuse(self, field: str, description: str) -> None:
        """Add a violation."""
        self.violations.append(FieldViolation(field, description))

    def length(self, field: str, value: str, limit: int) -> None:
        """At most `limit` characters of any kind."""
        if len(value) > limit:
            self.refuse(field, f"at most {limit} characters")

    def text(self, field: str, value: str, limit: int = TEXT_MAX) -> None:
        """At most `limit` characters, none of them a control character."""
        if len(value) > limit:
            self.refuse(field, f"at most {limit} characters")
        elif _CONTROL.search(value):
            self.refuse(field, "must not contain control characters")

    def present(self, field: str, value: object) -> bool:
        """Not empty."""
        if not value:
            self.refuse(field, "required")
        return bool(value)

    def absent(self, field: str, value: object, description: str) -> None:
        """Empty."""
        if value:
            self.refuse(field, description)

    def enum(self, field: str, value: int, known: Container[int]) -> None:
        """Unspecified, or one of the enum's values."""
        if value and value not in known:
            self.refuse(field, "not a value of its enum")

    def access_key(self, field: str, value: str) -> None:
        """The shape of an access key."""
        if self.present(field, value) and ACCESS_KEY_PATTERN.fullmatch(value) is None:
            self.refuse(field, "not an access key, which is KA and 18 letters and digits")

    def project_id(self, field: str, value: str) -> None:
        """The shape of a UUID, in lower case."""
        if not is_uuid(value):
            self.refuse(field, NO_PROJECT)

    def project_id_if_given(self, value: str) -> None:
        """Empty, or the shape of a project's ID, in the field `project_id`."""
        if value:
            self.project_id("project_id", value)

    def request_id(self, field: str, value: str) -> None:
        """Empty, or a UUID version 4."""
        if value and UUID4.fullmatch(value.lower()) is None:
            self.refuse(field, "not a UUID version 4")

    def labels(self, field: str, labels: Mapping[str, str]) -> None:
        """At most `LABELS_MAX`, with keys and values of bounded length."""
        if len(labels) > LABELS_MAX:
            self.refuse(field, f"at most {LABELS_MAX}")
            return
        for key, value in labels.items():
            if not key:
                self.refuse(field, "label keys must not be empty")
            self.text(field, key, LABEL_KEY_MAX)
            self.text(field, value, LABEL_VALUE_MAX)

    def entry(
        self,
        field: str,
        value: str,
        is_valid: Callable[[str], object],
        description: str = "invalid format",
    ) -> None:
        """At most `ENTRY_MAX` characters, and valid.

        `is_valid` returns False, which `description` explains, or raises ValueError.
        """
        if len(value) > ENTRY_MAX:
            self.refuse(field, f"at most {ENTRY_MAX} characters")
            return
        try:
            if is_valid(value) is False:
                self.refuse(field, description)
        except ValueError as invalid:
            self.refuse(field, str(invalid))

    def each(
        self,
        field: str,
        values: Collection[str],
        is_valid: Callable[[str], object],
        part: str = "",
        description: str = "invalid format",
    ) -> None:
        """At most `LIST_MAX`, each an `entry`; `part` is the field within the list's messages."""
        if len(values) > LIST_MAX:
            self.refuse(field, f"at most {LIST_MAX}")
            return
        for index, value in enumerate(values):
            self.entry(f"{field}[{index}]{part}", value, is_valid, description)

    def grants(self, field: str, values: Collection[str]) -> None:
        """Grants: `resource:action`, wildcards allowed."""
        self.each(field, values, is_grant, description=_NO_PERMISSION)

    def rights(self, field: str, values: Collection[str]) -> None:
        """Grants that match rights of operators."""
        if len(values) <= LIST_MAX and all(map(is_grant, values)):
            for index, description in not_rights(values):
                self.refuse(f"{field}[{index}]", description)

    def needed(self, field: str, values: Collection[str]) -> None:
        """Required permissions: `resource:action` without wildcards."""
        if len(values) > LIST_MAX or not all(
            len(value) <= ENTRY_MAX and is_concrete(value) for value in values
        ):
            self.each(field, values, is_concrete, description=_NO_PERMISSION)  # names the entry

    def time(self, field: str, message: Message, value: Timestamp) -> None:
        """Unset, or a time between the years 1 and 9999."""
        if message.HasField(field.rpartition(".")[2]):
            try:
                convert.to_datetime(value)
            except ValueError:
                self.refuse(field, "must be between the years 1 and 9999")

    def span(
        self, field: str, message: Message, value: Duration, least: timedelta, most: timedelta
    ) -> None:
        """Unset, or a duration between two bounds."""
        if message.HasField(field.rpartition(".")[2]):
            try:
                span = convert.to_timedelta(value)
            except (ValueError, OverflowError):
                self.refuse(field, "invalid duration")
                return
            if not least <= span <= most:
                self.refuse(field, f"from {_words(least)} to {_words(most)}")

    def rate_limit(self, field: str, message: Message, value: key_pb2.RateLimit) -> None:
        """Unset, or units of 0 or more in a period of 1 second to 1 day."""
        if message.HasField(field):
            if value.limit < 0:
                self.refuse(f"{field}.limit", "must not be negative")
            if not value.HasField("period"):
                self.refuse(f"{field}.period", "required")
            self.span(f"{field}.period", value, value.period, PERIOD_MIN, PERIOD_MAX)

    def quota(self, field: str, message: Message, value: key_pb2.Quota) -> None:
        """Unset, or units of 0 or more in a period."""
        if message.HasField(field):
            if value.limit < 0:
                self.refuse(f"{field}.limit", "must not be negative")
            self.present(f"{field}.period", value.period)
            self.enum(f"{field}.period", value.period, convert.QUOTA_PERIOD_FROM_PROTO)

    def restrictions(self, value: key_pb2.Restrictions) -> None:
        """Valid lists, and a total size that every client accepts."""
        if not value.ListFields():
            return
        self.each("restrictions.allowed_ips", value.allowed_ips, check_ip_or_network)
        self.each("restrictions.allowed_referrers", value.allowed_referrers, _referrer)
        self.each("restrictions.ios_bundle_ids", value.ios_bundle_ids, _name)
        field = "restrictions.android_apps"
        self.each(field, [app.package for app in value.android_apps], _name, ".package")
        self.each(field, [app.sha1 for app in value.android_apps], canonical_sha1, ".sha1")
        field = "restrictions.api_targets"
        self.each(field, [target.service for target in value.api_targets], _name, ".service")
        if len(value.api_targets) <= LIST_MAX:
            for index, target in enumerate(value.api_targets):
                self.each(f"{field}[{index}].methods", target.methods, _method)
        if not self.violations and value.ByteSize() > RESTRICTIONS_MAX:
            self.refuse("restrictions", f"at most {RESTRICTIONS_MAX // 1024} KiB in all")

    def import_set_name(self, field: str, name: str) -> None:
        """The name of an import set."""
        if _SET_NAME.fullmatch(name) is None:
            self.refuse(field, "1 to 63 letters, digits, '.', '_' and '-'")

    def import_set(self, field: str, value: keys_pb.ImportSet) -> None:
        """A name, a scheme, and a shape that tokens can have."""
        self.import_set_name(f"{field}.name", value.name)
        if convert.IMPORT_SCHEME_FROM_PROTO.get(value.scheme) is None:
            self.refuse(f"{field}.scheme", "required: one of ImportScheme")
        self.enum(f"{field}.token_part", value.token_part, convert.TOKEN_PART_FROM_PROTO)
        self.text(f"{field}.token_prefix", value.token_prefix, SET_PREFIX_MAX)
        if not value.token_prefix.isascii():
            self.refuse(f"{field}.token_prefix", "must be ASCII")
        least, most = value.token_length_min, value.token_length_max
        if not 1 <= least <= most <= ENTRY_MAX:
            rule = f"from 1 to token_length_max, at most {ENTRY_MAX}"
            self.refuse(f"{field}.token_length_min", rule)
        elif most < len(value.token_prefix):
            self.refuse(f"{field}.token_length_max", "less than the length of token_prefix")

    def mask(self, mask: FieldMask, known: frozenset[str]) -> frozenset[str]:
        """At least one path and at most `LIST_MAX`, each known; return the known paths."""
        if not mask.paths:
            self.refuse("update_mask", "must name at least one field")
        if len(mask.paths) > LIST_MAX:
            self.refuse("update_mask", f"at most {LIST_MAX}")
        if not known.issuperset(mask.paths):
            self.refuse("update_mask", f"must name only {', '.join(sorted(known))}")
        return known.intersection(mask.paths)

    def page(self, page_size: int, page_token: str) -> None:
        """A page size within bounds, and a token of bounded length."""
        if not 0 <= page_size <= PAGE_MAX:
            self.refuse("page_size", f"from 0 to {PAGE_MAX}")
        self.text("page_token", page_token)


def _words(span: timedelta) -> str:
    number, unit = (span.days, "day") if span.days else (span.seconds, "second")
    return f"{number} {unit}{'' if number == 1 else 's'}"


def is_uuid(text: str) -> bool:
    """True for the shape of a UUID in lower case, of any version."""
    return UUID.fullmatch(text) is not None


def _name(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(character in " *" for character in text)


def _method(text: str) -> bool:
    return text == "*" or _name(text.removesuffix("*"))


def prepare_referrer(text: str) -> None:
    """Check a pattern now, so that its later check costs nothing: IDNA takes up to 1 ms."""
    if len(text) <= ENTRY_MAX:
        _referrer_violation(text)


def _referrer(text: str) -> None:
    violation = _referrer_violation(text)
    if violation:
        raise ValueError(violation)


@lru_cache(maxsize=REFERRERS_CHECKED)
def _referrer_violation(text: str) -> str:
    try:
        check_referrer(text)
    except ValueError as violated:
        return str(violated)
    return ""
