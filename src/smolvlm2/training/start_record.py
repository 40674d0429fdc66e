"""Which weights a run began from, so that a later start with others is not taken for the same."""

import hashlib
import logging
from pathlib import Path

from smolvlm2.errors import CheckpointError
from smolvlm2.model.hub import hash_file, read_json, resolve_checkpoint, write_json
from smolvlm2.model.sharded_files import STATE_FILE
from smolvlm2.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

START_FILE = "start.json"
"""In the run's ``plan/``."""


def record_start(run: RunFolder, checkpoint: str | Path | None) -> None:
    """Write down what a run begins from, where that is a checkpoint."""
    if checkpoint is not None:
        start = {"checkpoint": str(checkpoint), "weights": weights_digest(checkpoint)}
        write_json(start, _file(run))


def warn_of_another_start(run: RunFolder, checkpoint: str | Path | None) -> None:
    """Say so where a run goes on although it began from other weights than ``checkpoint`` holds.

    A warning, since the weights in a folder may change for good reasons: a stage before that goes
    on, or is exported again.
    """
    try:
        began = read_json(_file(run), missing_ok=True)
    except CheckpointError:
        return
    if checkpoint is None or not began.get("weights"):
        return
    try:
        now = weights_digest(checkpoint)
    except OSError:  # the run needs them no more
        return
    if now is not None and now != began["weights"]:
        logger.warning(
            "%s: began from other weights (of %s) than %s holds now, and goes on with its own; to "
            "train from these, choose another --output-dir, or start over with --restart",
            run.root,
            began["checkpoint"],
            checkpoint,
        )


def weights_digest(checkpoint: str | Path) -> str | None:
    """Digest of a checkpoint's weights; None where they are not on this machine."""
    folder = resolve_checkpoint(checkpoint)
    files = sorted(folder.glob("*.safetensors"))
    if not files and (folder / STATE_FILE).is_file():
        files = [folder / STATE_FILE]  # holds the hashes of all others
    if not files:
        return None
    return hashlib.sha256("".join(map(hash_file, files)).encode()).hexdigest()


def _file(run: RunFolder) -> Path:
    return run.root / "plan" / START_FILE
