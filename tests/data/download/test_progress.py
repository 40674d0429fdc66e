"""What is said while files arrive."""

from smolvlm2.data.download.progress import DownloadProgress


def test_without_a_terminal_a_line_is_said_every_half_minute_and_at_the_end(capsys):
    now = [0.0]
    with DownloadProgress(1_000_000_000, 10, clock=lambda: now[0]) as progress:
        for second in range(1, 41):
            now[0] = float(second)
            progress.moved(10_000_000)
        progress.arrived()
    assert capsys.readouterr().err.splitlines() == [
        "fetched 300 MB of 1 GB, 0/10 files, 10 MB/s, 1 min 10 s left",
        "fetched 400 MB of 1 GB, 1/10 files, 10 MB/s, 1 min 0 s left",
    ]


def test_a_file_that_starts_anew_is_counted_once(capsys):
    with DownloadProgress(100, 1, clock=iter(range(1, 100)).__next__) as progress:
        progress.moved(60)
        progress.moved(-60)
        progress.moved(100)
        progress.arrived()
    assert "fetched 100 B of 100 B, 1/1 files" in capsys.readouterr().err


def test_nothing_to_fetch_says_nothing(capsys):
    with DownloadProgress(0, 0):
        pass
    assert capsys.readouterr().err == ""
