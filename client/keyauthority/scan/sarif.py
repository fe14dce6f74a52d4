"""Findings as SARIF 2.1.0, in the form that GitHub code scanning accepts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from keyauthority.scan.text import Finding

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_RULE: Final = "keyauthority-token"
_HELP: Final = (
    "Revoke the key, with `keyauthority scan --revoke` or `keyauthority keys revoke`,"
    " and create another. Removing the text does not help: others may have read it."
)


def sarif_report(findings: Iterable[tuple[Finding, str]], version: str) -> dict[str, Any]:
    """Return the log of one run; each finding comes with its state, empty if not checked.

    Paths are relative to the folder of the scan, which should be the root of the repository.
    """
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "keyauthority scan",
                        "semanticVersion": version,
                        "rules": [_rule()],
                    }
                },
                "results": [_result(finding, state) for finding, state in findings],
            }
        ],
    }


def _rule() -> dict[str, Any]:
    return {
        "id": _RULE,
        "name": "KeyAuthorityToken",
        "shortDescription": {"text": "Key Authority token"},
        "fullDescription": {"text": "A token of Key Authority whose check digits are right."},
        "help": {"text": _HELP, "markdown": _HELP},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["security", "secret"], "security-severity": "9.0"},
    }


def _result(finding: Finding, state: str) -> dict[str, Any]:
    text = f"{finding.mode} {finding.kind} key {finding.access_key}"
    if state:
        text += f", {state}"
    if finding.commit:
        text += f", added by commit {finding.commit}"
    uri = quote(PurePath(finding.file).as_posix().encode("utf-8", "surrogateescape"))
    location = {"artifactLocation": {"uri": uri}, "region": {"startLine": finding.line}}
    return {
        "ruleId": _RULE,
        "ruleIndex": 0,
        "level": "error",
        "message": {"text": f"Token of {text}"},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"accessKey/v1": finding.access_key},
    }
