"""Finds tokens in files, git histories and streams; a token counts if its check digits are right.

Nothing here connects to the authority or prints: `cli.scan` does. A secret is in `Finding.token`
only, never in a report. Begin with `text`, then `files` and `history`.
"""

from __future__ import annotations

from keyauthority.scan.files import scan_paths
from keyauthority.scan.history import scan_history
from keyauthority.scan.rules import RULES
from keyauthority.scan.sarif import sarif_report
from keyauthority.scan.text import Finding, ScanError, scan_stream

__all__ = [
    "RULES",
    "Finding",
    "ScanError",
    "sarif_report",
    "scan_history",
    "scan_paths",
    "scan_stream",
]
