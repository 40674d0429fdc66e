"""The download's command line, and the script over it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from smolvlm2.data.download_datasets import parse_arguments, run
from smolvlm2.errors import ConfigError

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "scripts" / "download_all_datasets.sh"


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "src.data.download_datasets", "--preview"],
        ["-m", "smolvlm2.cli.main", "download", "--preview"],
    ],
)
def test_the_documented_commands_show_the_table(command, tmp_path):
    done = subprocess.run(
        [sys.executable, *command, "--data", str(tmp_path)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the_cauldron" in done.stdout
    assert "sharegpt4video" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_preview_loads_neither_the_hubs_client_nor_arrow(tmp_path):
    code = (
        "import sys; from smolvlm2.data.download_datasets import run; run(['--preview']);"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"huggingface_hub", "httpx2", "numpy", "pyarrow", "rich", "torch"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())


def test_nothing_chosen_is_refused():
    with pytest.raises(ConfigError, match="nothing chosen to download; name a stage"):
        run([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vision", "--stage", "video"], "stage given twice"),
        (["--workers", "0"], "expected at least 1"),
        (["--max-gb", "none"], "no number of gigabytes above 0"),
        (["--max-gb", "-1"], "no number of gigabytes above 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(arguments)
    assert message in capsys.readouterr().err


def test_the_stage_may_be_a_flag_and_sizes_are_decimal():
    options = parse_arguments(["--stage", "video", "--max-gb", "1.5"])
    assert (options.stage, options.max_gb) == ("video", 1_500_000_000)


def test_an_unknown_source_is_one_line_and_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "smolvlm2.data.download_datasets", "--source", "vrip"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: source 'vrip' is unknown")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["hub.example", "http://[bad", "http://hub.example:port", ""])
def test_an_endpoint_that_is_no_address_is_one_line(address, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ConfigError, match=f"HF_ENDPOINT is {re.escape(repr(address))}"):
        run(["--source", "the_cauldron", "--data", str(tmp_path), "--yes"])


def test_fetched_names_the_sources_that_are_whole(tmp_path, capsys):
    for folder, complete in (("Mutonix__Vript", True), ("TIGER-Lab__VISTA-400K", False)):
        raw = tmp_path / "raw" / folder
        raw.mkdir(parents=True)
        (raw / "download.json").write_text(json.dumps({"complete": complete}))
    assert run(["video", "--fetched", "--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == ["vript"]


def script(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), str(data), *arguments],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_shows_one_stage_and_ends(tmp_path):
    done = script("vision", "--preview", data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the_cauldron" in done.stdout
    assert "vript" not in done.stdout


def test_the_script_wants_the_data_folder_first():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected the data folder first" in done.stderr
