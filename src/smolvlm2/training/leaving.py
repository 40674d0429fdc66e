"""How a command of training ends when it does not end in order."""

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from smolvlm2.errors import SmolVLMError


def exit_on_error(command: Callable[[], None]) -> None:
    """Run a command; an error meant for the user is one line and exit status 2, Ctrl-C 130."""
    leads = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    try:
        command()
    except SmolVLMError as error:
        # What all ranks found out together, one of them says.
        if not error.shared or leads:
            print(f"error: {error}", file=sys.stderr)
        _leave_with(2)
    except KeyboardInterrupt:
        if leads:
            print(
                "interrupted: started again, a run goes on from its last checkpoint (a single "
                "Ctrl-C saves one before it ends)",
                file=sys.stderr,
            )
        _leave_with(130)


def _leave_with(status: int) -> NoReturn:
    """End this process, past the threads of a group of ranks that was not left in order.

    At an ordinary exit some of them are still at work now and then, and turn the status into that
    of an abort. Everything that had to be closed was, on the error's way here.
    """
    distributed = sys.modules.get("torch.distributed")
    if (
        distributed is not None
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    ):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
