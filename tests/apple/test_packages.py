"""What is said where mlx is missing, for each kind of machine."""

import re
import sys

import pytest

from smolvlm2.apple.packages import advice, require_mlx
from smolvlm2.errors import MissingDependencyError


@pytest.mark.parametrize(
    ("machine", "help_"),
    [
        (("Darwin", "arm64"), "pip install -r mlx/requirements_mlx.txt"),
        (("Darwin", "x86_64"), "install an arm64 Python"),
        (("Linux", "x86_64"), r"pip install 'mlx\[cpu\]==0.32.4' mlx-vlm==0.7.10"),
        (("Windows", "AMD64"), "use torch instead: smolvlm2 generate"),
    ],
)
def test_each_machine_gets_its_command(machine, help_):
    assert re.search(help_, advice(*machine))


def test_missing_mlx_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(MissingDependencyError, match=r"mlx cannot be imported .*; ") as caught:
        require_mlx()
    assert "\n" not in str(caught.value)


@pytest.mark.mlx
def test_missing_mlx_vlm_is_told_apart(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_vlm", None)
    with pytest.raises(MissingDependencyError, match=r"mlx-vlm cannot be imported .*pip install"):
        require_mlx()


@pytest.mark.mlx
def test_another_version_is_logged(monkeypatch, caplog):
    from smolvlm2.apple import packages

    monkeypatch.setattr(packages, "CHECKED", {"mlx": "0.1"})
    require_mlx()
    assert "checked with 0.1" in caplog.text
