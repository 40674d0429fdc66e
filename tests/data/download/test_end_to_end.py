"""The commands as they are typed, against a hub on this machine."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "download_all_datasets.sh"
MODULE = [sys.executable, "-m", "smolvlm2.data.download_datasets"]
CAULDRON = "HuggingFaceM4/the_cauldron"
DOCMATIX = "HuggingFaceM4/Docmatix"


@pytest.fixture
def environment(hub, tmp_path):
    """This hub, no login of whoever runs the tests, and this Python first."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, "PATH": path}
    return {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "DATA_DIR")} | home


@pytest.fixture
def run(environment):
    def run(*command) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_complete_download_is_status_0_and_a_gated_source_status_3(hub, run, tmp_path):
    hub.add(CAULDRON, {"ai2d/train-00000-of-00001.parquet": b"rows", "README.md": b"card"})
    hub.add(DOCMATIX, {"data/train-00000-of-00001.parquet": b"rows"}, gated=True)
    arguments = ("--data", tmp_path, "--source", "the_cauldron")
    done = run(*MODULE, *arguments)
    assert done.returncode == 0, done.stderr
    assert "complete: the_cauldron in" in done.stdout
    done = run(*MODULE, *arguments, "--source", "docmatix")
    assert done.returncode == 3
    assert "missing of docmatix: data/train-00000-of-00001.parquet: the terms" in done.stderr
    assert run(*MODULE, *arguments, "--source", "docmatix", "--fetched").stdout == "the_cauldron\n"
    done = run(*MODULE, *arguments, "--source", "docmatix", "--token", "hf_good")
    assert done.returncode == 0, done.stderr


def test_an_online_preview_lists_real_files_and_fetches_none(hub, run, tmp_path):
    commit = hub.add(CAULDRON, {"ai2d/train-00000-of-00001.parquet": bytes(1234)})
    done = run(*MODULE, "--data", tmp_path, "--source", "the_cauldron", "--preview", "--online")
    assert done.returncode == 0, done.stderr
    assert commit[:8] in done.stdout
    assert "files to fetch: 1, 1.23 kB" in done.stdout
    assert not (tmp_path / "raw").exists()


def test_a_folder_that_cannot_be_written_is_one_line_and_status_2(hub, run, tmp_path):
    hub.add(CAULDRON, {"ai2d/train-00000-of-00001.parquet": b"rows"})
    (tmp_path / "raw").write_text("in the way")
    done = run(*MODULE, "--data", tmp_path, "--source", "the_cauldron")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"Not a directory: '{tmp_path}/raw/" in line
    assert f"--data is {tmp_path}, expected a folder" in line


def test_what_a_budget_leaves_out_is_not_called_complete(hub, run, tmp_path):
    hub.add(CAULDRON, {"ai2d/train-00000-of-00001.parquet": bytes(5_000)})
    done = run(*MODULE, "--data", tmp_path, "--source", "the_cauldron", "--max-gb", "0.000001")
    assert "complete, but for 1 files beyond --max-gb: the_cauldron" in done.stdout


def test_another_revision_is_fetched_and_recorded(hub, run, tmp_path):
    first = hub.add(CAULDRON, {"ai2d/train-00000-of-00001.parquet": b"old"})
    hub.add(CAULDRON, {"ai2d/train-00000-of-00001.parquet": b"new"})
    done = run(
        *(*MODULE, "--data", tmp_path, "--source", "the_cauldron"),
        *("--revision", f"the_cauldron={first}"),
    )
    assert done.returncode == 0, done.stderr
    raw = tmp_path / "raw" / "HuggingFaceM4__the_cauldron"
    assert (raw / "ai2d" / "train-00000-of-00001.parquet").read_bytes() == b"old"
    assert first in (raw / "download.json").read_text()


def test_the_script_fetches_a_stage_and_keeps_the_status(hub, run, tmp_path):
    hub.add(CAULDRON, {"ai2d/train-00000-of-00001.parquet": b"rows"})
    hub.add("lmms-lab/LLaVA-OneVision-Data", {"mathqa/train-00000-of-00001.parquet": b"rows"})
    hub.add(DOCMATIX, {"data/train-00000-of-00001.parquet": b"rows"}, gated=True)
    done = run("bash", SCRIPT, tmp_path, "vision", "--no-prepare")
    assert done.returncode == 3
    names = {path.parent.parent.name for path in (tmp_path / "raw").rglob("*.parquet")}
    assert names == {"HuggingFaceM4__the_cauldron", "lmms-lab__LLaVA-OneVision-Data"}
    # Preparing goes as far as the tokenizer, which this hub does not have.
    done = run("bash", SCRIPT, tmp_path, "vision")
    assert "SmolLM2-135M-Instruct" in done.stderr


@pytest.mark.parametrize(
    ("answer", "status", "here"), [("n\n", 3, False), ("y\n", 0, True), ("\x04", 3, False)]
)
def test_a_terminal_is_asked_first_and_sees_a_bar(hub, environment, tmp_path, answer, status, here):
    hub.add(CAULDRON, {"ai2d/train-00000-of-00001.parquet": bytes(50_000)})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MODULE, "--data", tmp_path, "--source", "the_cauldron"],
        env={**environment, "TERM": "xterm", "COLUMNS": "100"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    seen = b""
    try:
        while block := os.read(ours, 4096):
            seen += block
    except OSError:  # how Linux says that the other end has closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == status
    assert b"fetch 1 files? [y/N]" in seen
    assert (b"1/1 files" in seen) is here
    assert any((tmp_path / "raw").rglob("*.parquet")) is here
