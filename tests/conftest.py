"""What all tests share: one thread, fixed seeds, and marks that skip themselves with a reason."""

import importlib.util
import random

import numpy as np
import pytest

try:
    import torch
except ImportError:  # the processing and planning tests need none
    torch = None

if torch is not None:
    torch.set_num_threads(1)  # tiny tensors: more threads cost more than they give


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and what takes long where nobody asks for it."""
    devices = torch.cuda.device_count() if torch is not None and torch.cuda.is_available() else 0
    missing = {
        "gpu": None if devices else "needs one CUDA device",
        "multi_gpu": None if devices > 1 else f"needs several CUDA devices, found {devices}",
        "mlx": None if _has_mlx() else "needs mlx (pip install smolvlm2[local])",
        "long": None if "long" in config.option.markexpr else "takes minutes: pytest -m long",
    }
    for item in items:
        for mark, reason in missing.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_mlx() -> bool:
    """Whether mlx is installed: the clone's own folder ``mlx/`` looks like a package, too."""
    try:
        return importlib.util.find_spec("mlx.core") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Every test starts from the same global random state."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may read the legacy state
    if torch is not None:
        torch.manual_seed(0)
