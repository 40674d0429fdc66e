"""Errors that a user can meet: each says where, what was found, what was expected, what to do.

Every type is also the built-in it resembles, so ``except ValueError`` keeps working. The command
line catches ``SmolVLMError`` once, prints the message and exits with status 2.
"""


class SmolVLMError(Exception):
    """Base of all errors whose message is meant for the user."""

    shared = False
    """Whether all processes raise it, so that one of them says it."""


class ConfigError(SmolVLMError, ValueError):
    """A recipe or an option is wrong: unknown key, wrong type, contradicting values."""


class CheckpointError(SmolVLMError, ValueError):
    """A checkpoint cannot be used: missing, unexpected or misshapen tensor, wrong architecture."""


class CheckpointNotFoundError(SmolVLMError, FileNotFoundError):
    """A path or hub id holds no checkpoint."""


class PromptError(SmolVLMError, ValueError):
    """A conversation cannot be turned into a prompt: markers and media do not match, bad roles."""


class MediaError(SmolVLMError, ValueError):
    """An image or video cannot be read; ``reason`` is one of the ledger's reasons."""

    def __init__(self, message: str, *, reason: str = "corrupt_media") -> None:
        super().__init__(message)
        self.reason = reason


class MediaNotFoundError(MediaError, FileNotFoundError):
    """A media file named by a sample or on the command line does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="missing_media")


class DataError(SmolVLMError, ValueError):
    """A raw or prepared data set is not laid out as expected."""


class DataNotFoundError(SmolVLMError, FileNotFoundError):
    """A data set or its manifest is missing; the message names the command that makes it."""


class PlanError(SmolVLMError, ValueError):
    """No plan can be made: empty mixture, sample above capacity, more ranks than packs."""


class ResumeError(SmolVLMError, ValueError):
    """A run cannot be resumed as asked: the recipe, data or layout differs from the saved one."""


class AuditError(SmolVLMError, ValueError):
    """A run cannot be compared with its plan: files are missing, or its data are others now."""


class TrainingError(SmolVLMError, RuntimeError):
    """Training stopped on purpose: non-finite loss, too many skipped samples."""


class MissingDependencyError(SmolVLMError, ImportError):
    """An optional package is missing; the message names the pip command."""
