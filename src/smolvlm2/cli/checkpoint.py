"""Model and processor of a checkpoint named on the command line."""

from typing import TYPE_CHECKING

from smolvlm2.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from smolvlm2.model.smolvlm import SmolVLM
    from smolvlm2.processing.processor import Processor


def load_checkpoint(
    checkpoint: str, *, device: str = "auto", dtype: str = "auto"
) -> "tuple[SmolVLM, Processor]":
    """Load what a command was given.

    Args:
        checkpoint: Run folder, checkpoint folder or hub id.
        device: A torch device, or ``auto``: CUDA, else Apple's GPU, else the CPU.
        dtype: A torch dtype's name, or ``auto``: as saved.

    Raises:
        CheckpointNotFoundError: No checkpoint there.
        CheckpointError: Its files are no SmolVLM.
        ConfigError: This machine has no such device.
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            'this command needs torch: pip install "smolvlm2[local]"'
        ) from error
    from smolvlm2 import Processor, SmolVLM

    # The processor first: a wrong folder is told before any weight is read.
    processor = Processor.from_pretrained(checkpoint)
    model = SmolVLM.from_pretrained(
        checkpoint,
        dtype=None if dtype == "auto" else getattr(torch, dtype),
        device=choose_device(device),
    )
    return model.eval(), processor


def choose_device(name: str) -> str:
    """``auto`` resolved, anything else checked against this machine.

    ``auto`` takes CUDA where there is some, else the CPU. mps has to be named: its answers were
    never compared with the CPU's, and torch's attention there has had faults without a word.

    Raises:
        ConfigError: No such device here.
    """
    import torch

    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.append("mps")
    if torch.cuda.is_available():
        # Without a number first: a launcher's processes each put their own behind it.
        here = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *here]
    if name == "auto":
        return here[0]
    if name not in here:
        raise ConfigError(f"--device {name}: not on this machine; expected {', '.join(here)}")
    return name
