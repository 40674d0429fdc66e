"""Fetching files in parallel: each arrives in a hidden folder, is checked, and only then moved.

The bytes are moved by ``hf_hub_download`` (through Xet where the hub and the installed client have
it, plain HTTP otherwise). It takes up a broken transfer where it stopped while it runs; a file that
was in flight when the process ended starts anew.
"""

import errno
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.utils import tqdm

from smolvlm2.data.download.disk import free_bytes
from smolvlm2.data.download.record import RemoteFile, content_digest
from smolvlm2.data.download.retries import (
    DamagedError,
    RetrySettings,
    StoppedError,
    Trouble,
    call_patiently,
    classify,
)
from smolvlm2.data.download.text import show_bytes
from smolvlm2.errors import DataError

STAGING = ".download"
"""Below the raw folder; hidden, so that prepare does not see what is in it."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What some cluster file systems answer to a request for a lock."""
_PATIENCE = 5.0
"""Seconds that a stopped download waits for its workers; a worker looks up at every 10 MB."""


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """How files are fetched."""

    workers: int = 8
    """Files at the same time."""
    token: str | None = None
    """None takes HF_TOKEN or the login of ``hf auth login``."""
    endpoint: str | None = None
    """Address of the hub; None takes HF_ENDPOINT, then the public one."""
    retries: RetrySettings = field(default_factory=RetrySettings)


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What became of one file."""

    file: RemoteFile
    trouble: Trouble | None = None
    """None: the file is in place and its content was checked."""


def transfer(
    files: Sequence[RemoteFile],
    raw_folders: dict[str, Path],
    settings: TransferSettings,
    moved: Callable[[int], None],
    stop: threading.Event,
) -> Generator[Arrival, None, None]:
    """Fetch files; they are handed out as they arrive, in any order.

    A gate or a refused token ends its source, a full disk ends everything; the files that were not
    tried then are handed out with the same trouble.

    Args:
        files: What is missing, in the order to fetch it.
        raw_folders: By source.
        settings: Workers, token and patience.
        moved: Told of bytes as they arrive; negative when a file has to start anew.
        stop: Set from outside to end it.
    """
    if not files:
        return
    crew = _Crew(raw_folders, settings, moved, stop)
    tasks: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
    arrivals: queue.SimpleQueue[Arrival | BaseException] = queue.SimpleQueue()
    for file in files:
        tasks.put(file)

    def work() -> None:
        while True:
            try:
                file = tasks.get_nowait()
            except queue.Empty:
                return
            try:
                arrivals.put(crew.fetch(file))
            except BaseException as error:  # handed to the caller: a thread has nobody to tell
                arrivals.put(error)
                return

    # Daemons: a thread inside the client's own transfer cannot be interrupted, only left behind.
    threads = [
        threading.Thread(target=work, name=f"download-{i}", daemon=True)
        for i in range(min(settings.workers, len(files)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in files:
            arrival = arrivals.get()
            if isinstance(arrival, BaseException):
                raise arrival
            yield arrival
    finally:
        stop.set()
        for thread in threads:
            thread.join(_PATIENCE / len(threads))


@contextmanager
def staging_folder(raw: Path) -> Iterator[None]:
    """Hold a source's hidden folder for this process alone, emptied before and after.

    Raises:
        DataError: Another process is downloading to the same folder.
    """
    import fcntl  # not on Windows, which nothing else here excludes

    raw.mkdir(parents=True, exist_ok=True)
    lock = raw / f"{STAGING}.lock"
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise DataError(
                    f"{raw}: another process is downloading to this folder; wait for it or stop it"
                ) from error
            print(
                f"{raw}: this file system has no locks ({error.strerror}); start no second "
                "download to this folder while this one runs",
                file=sys.stderr,
            )
        shutil.rmtree(raw / STAGING, ignore_errors=True)
        try:
            yield
        finally:
            # The lock's file stays: a process that has it open could otherwise lock what is gone.
            shutil.rmtree(raw / STAGING, ignore_errors=True)


class _Crew:
    """What the workers share."""

    def __init__(
        self,
        raw_folders: dict[str, Path],
        settings: TransferSettings,
        moved: Callable[[int], None],
        stop: threading.Event,
    ) -> None:
        self.raw_folders = raw_folders
        self.settings = settings
        self.moved = moved
        self.stop = stop
        self.closed: dict[str, Trouble] = {}
        """Sources that nothing more is asked of, and why."""
        self.disk_full: Trouble | None = None

    def fetch(self, file: RemoteFile) -> Arrival:
        """Bring one file to its place, or say why it is not there."""
        ended = self.disk_full or self.closed.get(file.source)
        if ended is not None:
            return Arrival(file=file, trouble=ended)
        trouble = None
        for _ in range(2):  # what arrives wrong, or is gone, is asked for once more from scratch
            meter = _Meter(self.moved, self.stop)
            try:
                call_patiently(
                    lambda meter=meter: self._fetch_once(file, meter),  # type: ignore[misc]
                    self.settings.retries,
                    self.stop,
                )
                return Arrival(file=file)
            except StoppedError:
                return Arrival(file=file, trouble=Trouble("error", "stopped"))
            except Exception as error:
                meter.take_back()
                trouble = classify(error)
            if trouble.kind not in ("damaged", "gone"):
                break
        assert trouble is not None
        if trouble.kind in ("gated", "refused"):
            self.closed[file.source] = trouble
        elif trouble.kind == "disk full":
            self.disk_full = trouble
        return Arrival(file=file, trouble=trouble)

    def _fetch_once(self, file: RemoteFile, meter: "_Meter") -> None:
        if self.stop.is_set():
            raise StoppedError
        meter.take_back()
        raw = self.raw_folders[file.source]
        free = free_bytes(raw)
        if free < file.size:
            detail = f"{show_bytes(file.size - free)} are missing for {file.local}"
            raise OSError(errno.ENOSPC, f"no space left; {detail}")
        folder = raw / STAGING / file.hub_id.replace("/", "__")
        arrived = Path(
            hf_hub_download(
                file.hub_id,
                file.path,
                repo_type="dataset",
                revision=file.commit,
                local_dir=folder,
                cache_dir=folder / ".no-cache",  # what lies there is not looked at
                token=self.settings.token,
                endpoint=self.settings.endpoint,
                tqdm_class=meter.bar_class(),
            )
        )
        try:
            _check(arrived, file)
            place = raw / file.local
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(arrived, place)
        finally:
            arrived.unlink(missing_ok=True)
        meter.complete(file.size)


class _Meter:
    """Bytes of one file as they arrive; also where a stop reaches a running transfer."""

    def __init__(self, moved: Callable[[int], None], stop: threading.Event) -> None:
        self.moved = moved
        self.stop = stop
        self.count = 0

    def add(self, count: int) -> None:
        """Note bytes, and end the transfer when the download is being stopped."""
        if self.stop.is_set():
            raise StoppedError
        self.count += count
        self.moved(count)

    def take_back(self) -> None:
        """The file starts anew."""
        self.moved(-self.count)
        self.count = 0

    def complete(self, size: int) -> None:
        """Count what the client did not report."""
        self.moved(size - self.count)
        self.count = size

    def bar_class(self) -> type:
        """A bar that the client makes, reports to, and never draws."""
        meter = self

        class Bar(tqdm):
            def __init__(self, *arguments: object, **settings: object) -> None:
                super().__init__(disable=True)  # nothing is drawn
                self.total = settings.get("total")  # Xet writes and reads it

            def update(self, n: float | None = 1) -> None:
                meter.add(int(n or 0))

            def update_transfer(self, n: float) -> None:
                """Bytes on the wire, which Xet reports apart; those on disk are counted."""

            def set_transfer_postfix_str(self, *arguments: object, **settings: object) -> None:
                """The rate is the progress line's."""

        return Bar


def _check(path: Path, file: RemoteFile) -> None:
    size = path.stat().st_size
    if size != file.size:
        raise DamagedError(f"{size} bytes arrived, the hub lists {file.size}")
    digest = content_digest(path, file)
    if digest != file.digest:
        raise DamagedError(f"its content is {digest[:19]}..., the hub lists {file.digest[:19]}...")
