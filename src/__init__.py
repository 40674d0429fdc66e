"""Lets the specification's ``python -m src.X.Y`` run ``smolvlm2.X.Y`` from an installed clone."""

from pathlib import Path

__path__.append(str(Path(__file__).parent / "smolvlm2"))  # its modules import `smolvlm2.` only
