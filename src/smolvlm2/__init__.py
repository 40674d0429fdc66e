"""Train SmolVLM2 from SigLIP and SmolLM2, evaluate it, and hand it to transformers, vLLM and MLX.

The two names that most users need are imported on first use, so that ``import smolvlm2`` loads
neither torch nor numpy.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Processor", "SmolVLM", "__version__"]

if TYPE_CHECKING:
    from smolvlm2.model.smolvlm import SmolVLM
    from smolvlm2.processing.processor import Processor


def __getattr__(name: str) -> Any:
    if name == "SmolVLM":
        from smolvlm2.model.smolvlm import SmolVLM

        return SmolVLM
    if name == "Processor":
        from smolvlm2.processing.processor import Processor

        return Processor
    raise AttributeError(f"module 'smolvlm2' has no attribute {name!r}")
