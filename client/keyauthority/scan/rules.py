"""Rules with which general secret scanners find the tokens.

The expression has the syntax that RE2, Go and Python share. Those scanners do not compute the check
digits, except detect-secrets, whose rule is a Python plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_ACCESS_KEY: Final = "KA[0-9A-HJKMNP-TV-Z]{18}"
_TOKEN: Final = (
    r"(?:[a-z][a-z0-9]{1,15}_)?(?:(?:(?:sk|rk)_(?:test|live)|op_live)_"
    rf"{_ACCESS_KEY}_[0-9A-Za-z]{{49}})"
)
"""Secret, restricted and operator tokens. A publishable token is public and no leak."""

_GITLEAKS: Final = f"""\
[[rules]]
id = "keyauthority-token"
description = "Key Authority token: revoke the key"
regex = '''{_TOKEN}'''
keywords = ["_ka"]
"""

_TRUFFLEHOG: Final = f"""\
detectors:
  - name: KeyAuthority
    keywords:
      - _KA
    regex:
      token: '{_TOKEN}'
"""

_DETECT_SECRETS: Final = f'''\
"""Plugin of detect-secrets: detect-secrets scan --plugin keyauthority_tokens.py"""

import re
import zlib

from detect_secrets.plugins.base import RegexBasedDetector

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class KeyAuthorityTokenDetector(RegexBasedDetector):
    secret_type = "Key Authority token"
    denylist = [re.compile(r"{_TOKEN}", re.ASCII)]

    def analyze_string(self, string):
        return (text for text in super().analyze_string(string) if _check_is_right(text))


def _check_is_right(text):
    check = 0
    for digit in text[-6:]:
        check = check * 62 + _DIGITS.index(digit)
    body = text[:-6]
    while body and zlib.crc32(body.encode()) != check:
        body = body.partition("_")[2]  # a word before the token is no part of it
    return bool(body)
'''

RULES: Final[Mapping[str, str]] = {
    "gitleaks": _GITLEAKS,
    "betterleaks": _GITLEAKS,
    "trufflehog": _TRUFFLEHOG,
    "detect-secrets": _DETECT_SECRETS,
}
"""The text of a rule file by the name of the scanner."""
