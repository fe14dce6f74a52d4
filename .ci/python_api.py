"""The page of the Python API: the public names of `keyauthority`, from their docstrings."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

import keyauthority

HEAD = """# Python API

Every public name of `keyauthority`; `make docs` prints this page from the code.
`AsyncClient` and `AsyncVerifier` have the methods of `Client` and `Verifier`, awaited.
How to protect a service: [FastAPI](protect-a-fastapi-service.md),
[gRPC](protect-a-grpc-service.md).
"""
CLIENTS = ("Client", "Verifier")
TWINS = ("AsyncClient", "AsyncVerifier")
LINE_MAX = 96  # characters of a signature on one line


def page() -> str:
    """Return the page."""
    public = {name: getattr(keyauthority, name) for name in keyauthority.__all__}
    classes = {name: value for name, value in public.items() if inspect.isclass(value)}
    errors = {n: v for n, v in classes.items() if issubclass(v, BaseException)}
    enums = {n: v for n, v in classes.items() if issubclass(v, Enum)}
    rest = {n: v for n, v in classes.items() if n not in {*errors, *enums, *CLIENTS, *TWINS}}
    values = {n: v for n, v in public.items() if n not in classes}
    parts = [HEAD]
    for name in CLIENTS:
        parts.append(f"## {name}\n\n{inspect.getdoc(classes[name])}\n")
        parts.append("\n".join(_methods(classes[name])))
    parts.append("## Results and arguments\n\n" + "\n".join(map(_row, rest.items())) + "\n")
    parts.append("## Words\n\n" + "\n".join(map(_enum, enums.items())) + "\n")
    parts.append("## Errors\n\n" + "\n".join(map(_row, errors.items())) + "\n")
    parts.append("## Values\n\n" + ", ".join(f"`{name}`" for name in values) + "\n")
    return "\n".join(parts)


def _methods(owner: type[Any]) -> list[str]:
    lines = [f"```\n{_signature(owner.__name__, owner)}\n```\n"]
    for name, member in inspect.getmembers(owner):
        if name.startswith("_"):
            continue
        text = inspect.getdoc(member) or ""
        if not isinstance(member, property):
            text = f"```\n{_signature(name, member)}\n```\n\n{text}"
        lines.append(f"### {owner.__name__}.{name}\n\n{text}\n")
    return lines


class _Text(str):
    """An annotation that is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return self.removeprefix("_channel.")


def _signature(name: str, of: Any) -> str:
    found = inspect.signature(of)
    parameters = [
        one.replace(annotation=_Text(one.annotation), default=_default(one.default))
        for one in found.parameters.values()
        if one.name != "self"
    ]
    returns = _Text(found.return_annotation)
    line = name + str(found.replace(parameters=parameters, return_annotation=returns))
    if len(line) <= LINE_MAX:
        return line
    shown = [str(one) for one in parameters]
    first = next((at for at, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if first is not None:
        shown.insert(first, "*")
    return f"{name}(\n    " + ",\n    ".join(shown) + f",\n) -> {returns}"


def _default(value: Any) -> Any:
    return _Text("UNCHANGED") if value is keyauthority.UNCHANGED else value


def _row(item: tuple[str, Any]) -> str:
    name, value = item
    text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    fields = getattr(value, "__dataclass_fields__", None) or getattr(value, "_fields", ())
    named = f" Fields: {', '.join(f'`{one}`' for one in fields)}." if fields else ""
    return f"- `{name}`: {text}{named}"


def _enum(item: tuple[str, Any]) -> str:
    name, value = item
    return f"- `{name}`: " + ", ".join(f"`{one.value}`" for one in value)
