"""Whether mlx and mlx-vlm are here, and what to do where they are not."""

import importlib.metadata
import logging
import platform

from smolvlm2.errors import MissingDependencyError

CHECKED = {"mlx": "0.32.4", "mlx-vlm": "0.7.10"}
"""Versions that the tests ran with; mlx-vlm renames and removes commands between releases."""
REQUIREMENTS = "mlx/requirements_mlx.txt"

_log = logging.getLogger(__name__)


def require_mlx() -> None:
    """Check that mlx can be imported, and log where a version is another than the checked one.

    Raises:
        MissingDependencyError: It cannot; the message names the pip command for this machine.
    """
    try:
        # The folder mlx/ of a clone can pass for the package mlx, but not for mlx.core.
        import mlx.core  # noqa: F401 - the check is the import
    except ImportError as error:
        raise MissingDependencyError(
            f"mlx cannot be imported ({error}); {advice(platform.system(), platform.machine())}"
        ) from error
    try:
        import mlx_vlm  # noqa: F401 - the check is the import
    except ImportError as error:
        raise MissingDependencyError(
            f"mlx-vlm cannot be imported ({error}); run: pip install -r {REQUIREMENTS}"
        ) from error
    for package, checked in CHECKED.items():
        found = importlib.metadata.version(package)
        if found != checked:
            _log.warning("%s is %s here; checked with %s", package, found, checked)


def advice(system: str, machine: str) -> str:
    """What helps a machine on which mlx cannot be imported.

    Args:
        system: As ``platform.system()`` names it.
        machine: As ``platform.machine()`` names it.
    """
    if (system, machine) == ("Darwin", "arm64"):
        return f"run: pip install -r {REQUIREMENTS}"
    if system == "Darwin":
        return (
            f"this Python is built for {machine}, and mlx for Apple silicon (arm64); on an "
            f"M-series Mac install an arm64 Python, then run: pip install -r {REQUIREMENTS}"
        )
    if system == "Linux":
        return (
            f"on Linux mlx needs its CPU part; run: pip install 'mlx[cpu]=={CHECKED['mlx']}' "
            f"mlx-vlm=={CHECKED['mlx-vlm']}"
        )
    return (
        f"mlx is for Apple silicon and Linux, this is {system} {machine}; use torch instead: "
        f"smolvlm2 generate CHECKPOINT --image FILE"
    )
