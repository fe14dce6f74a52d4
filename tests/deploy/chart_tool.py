"""Renders a Helm chart with Helm's own library, and validates manifests by Kubernetes's schemas.

Runs in an environment of its own, `make .venv-chart/.tools`: the library is Go's, which must not
share a process with the tests. Reads JSON from standard input: `chart`, a folder; `versions` of
Kubernetes; `cases`, values by name. Prints for each case its `manifests`, or the `error`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python
import kubernetes_validate
import yaml


def rendered(chart: Any, values: dict[str, Any], versions: list[str]) -> dict[str, Any]:
    """Return the manifests of a release; each must be valid in all versions."""
    try:
        chart.validate_schema(values)
        files = chart.render(values, name="prod", namespace="keys")
    except helm_python.HelmError as failure:
        return {"error": str(failure)}
    manifests = [
        manifest
        for name, text in files.items()
        if not name.endswith(".txt")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]
    for manifest in manifests:
        for version in versions:
            kubernetes_validate.validate(manifest, version, strict=True)
    return {"manifests": manifests}


def main() -> None:
    """Render all cases."""
    order = json.load(sys.stdin)
    with helm_python.Chart.load(order["chart"]) as chart:
        results = {
            name: rendered(chart, values, order["versions"])
            for name, values in order["cases"].items()
        }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
