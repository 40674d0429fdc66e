"""What prepare leaves out and why: one line a row, nothing disappears."""

from dataclasses import dataclass
from typing import Any

REASONS = (
    "missing_media",
    "corrupt_media",
    "unsupported_media",
    "bad_image_size",
    "placeholder_mismatch",
    "empty_answer",
    "no_conversation",
    "no_caption",
    "bad_role_order",
    "unreadable_record",
    "bad_text",
    "non_train_split",
    "duplicate",
    "unsafe_path",
    "incomplete_record",
)
"""The closed list of reasons (data rules)."""


class LeftOutError(Exception):
    """Raised while a row is read to leave that row out; never reaches the user."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class DamagedFileError(LeftOutError):
    """A row that its file has lost; another copy of the file may have it."""


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """One row, archive member or file that is not in the manifest."""

    file: str
    """Relative to the raw folder."""
    row: int | None = None
    """Number of the row in its file, from 0; None for a member or a whole file."""
    member: str | None = None
    """Name of the archive member; None for a row or a whole file."""
    sample_id: str | None = None
    """What the row would be called."""
    reason: str
    """One of ``REASONS``."""
    detail: str
    """For a human: what was found and expected."""

    def to_json(self, source: str) -> dict[str, Any]:
        """The line as written to ``ledger.jsonl``."""
        return {
            "source": source,
            "file": self.file,
            "row": self.row,
            "member": self.member,
            "sample_id": self.sample_id,
            "reason": self.reason,
            "detail": self.detail,
        }
