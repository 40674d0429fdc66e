"""Keep a benchmark's figures with what they were measured on."""

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "smolvlm2",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pillow",
    "av",
    "accelerate",
    "mlx",
    "mlx-vlm",
)


def record(name: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Append a run to ``results/<name>.json`` (a list, newest last) and return the entry.

    Args:
        name: File name without ending.
        payload: Figures, JSON values only.
    """
    entry = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": _versions(),
        **payload,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    runs = json.loads(path.read_text()) if path.is_file() else []
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps([*runs, entry], indent=1) + "\n")
    os.replace(partial, path)
    return entry


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
