"""Writes the reference pages of `docs/` from the code: `make docs`.

`--check` writes nothing and exits 1 if a page is not as it would be written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Final

import commands_page
import python_api
from commands_page import flag, meaning, options
from proto_files import ENUM, MEMBER, ROOT, files
from rpc_page import RpcPage, cell

from keyauthority.cli.app import authority
from keyauthority.errors import REASONS, ErrorReason
from keyauthority_server.commands.serving import serve
from keyauthority_server.config import SETTINGS

REASONS_HEAD: Final = """# Error reasons

Every error carries a `google.rpc.ErrorInfo` with domain `keyauthority` and one of these reasons.
`make docs` prints this page from `error_reason.proto`. A denied verification is a verdict, not an
error.

Python raises the exception named with each reason; its attribute `reason` has the value of
`keyauthority.ErrorReason`. Over HTTP and with `--json` the reason is a member of the error
([from any language](from-any-language.md), [command line](command-line.md)).
"""
SETTINGS_HEAD: Final = """# Settings

Every setting of the server and of the command line. `make docs` prints this page from the code.

## Server

A setting is a flag of `keyauthority-server serve`, a variable, or a line of the TOML file that
`--config` names. A flag overrides the variable, and the variable overrides the file. An unknown
variable `KEYAUTHORITY_…` or line is an error. `keyauthority-server config show` prints the settings
in effect. [Deployment](deployment.md) explains their use.
"""
CLIENT_HEAD: Final = """
## Command line

The options of every `keyauthority` command. The operator key has no option: it is read from
`KEYAUTHORITY_OPERATOR_KEY`, or from the file that `KEYAUTHORITY_OPERATOR_KEY_FILE` names.
[Command line](command-line.md) explains forms of output and exit codes.
"""
CALLERS: Final = "Operators identified by [client certificates](deployment.md#client-certificates)."
REASON: Final = re.compile(
    r"(?P<status>[A-Z_]+): (?P<text>.+?) Example: (?P<example>.+?) Remedy: (?P<remedy>.+)"
)


def error_reasons() -> str:
    """Return the page of error reasons; raises ValueError for one without status or remedy."""
    parts = [REASONS_HEAD]
    for file in files():
        for index, enum in enumerate(file.descriptor.enum_type):
            if enum.name != "ErrorReason":
                continue
            for number, value in enumerate(enum.value[1:], start=1):
                comment = file.comment(ENUM, index, MEMBER, number)
                parts.append(_reason(value.name, comment))
    return "\n".join(parts)


def _reason(name: str, comment: str) -> str:
    found = REASON.fullmatch(comment)
    reason = ErrorReason[name.removeprefix("ERROR_REASON_")]
    error = REASONS[reason]
    if found is None or found["status"] != error.status:
        raise ValueError(f"the comment of {name} must read: {error.status}: … Example: … Remedy: …")
    text = found["text"][:1].upper() + found["text"][1:]
    return (
        f"## {reason.name}\n\n`{name}`, status `{error.status}`, in Python `{error.__name__}`.\n\n"
        f"{text}\n\nExample: {found['example']}\n\nRemedy: {found['remedy']}\n"
    )


def settings() -> str:
    """Return the page of settings."""
    rows = ["| flag | variable | line of the file | meaning |", "|---|---|---|---|"]
    flags = {str(option.name): option for option in options(serve)}
    for name in (*flags, *(name for name in SETTINGS if name not in flags)):
        option = flags.get(name)
        shown = f"`{flag(option)}`" if option else ""
        line = {"config": "", "callers": "`[[callers]]`"}.get(name, f"`{name}`")
        text = meaning(option) if option else CALLERS
        rows.append(f"| {cell(shown)} | `KEYAUTHORITY_{name.upper()}` | {line} | {text} |")
    rows.append(CLIENT_HEAD)
    rows += ["| option | meaning |", "|---|---|"]
    rows += [f"| `{cell(flag(option))}` | {meaning(option)} |" for option in options(authority)]
    return SETTINGS_HEAD + "\n" + "\n".join(rows) + "\n"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "commands.md": commands_page.page,
    "error-reasons.md": error_reasons,
    "python-api.md": python_api.page,
    "rpcs.md": lambda: RpcPage().text(),
    "settings.md": settings,
}


def main() -> int:
    """Write the pages, or check them."""
    stale = []
    for name, page in PAGES.items():
        path, text = ROOT / "docs" / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"docs: {', '.join(stale)} do not match the code: run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
