"""``smolvlm2 prepare``: what it prints, and when it fails."""

import json
import sys

import pytest

from smolvlm2.cli.main import main
from smolvlm2.cli.prepare import parse_task, summary_table, unread_files
from smolvlm2.data.prepare import SourceSummary
from smolvlm2.errors import ConfigError
from smolvlm2.processing.tokenizer_training import train_base_tokenizer

SOURCE = "m4_digits"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_base_tokenizer(["Which digit is this?"] * 3, folder, vocab_size=300)
    return folder


@pytest.fixture
def data(tmp_path):
    """A data root with four rows of one source, one of them without its answer."""
    raw = tmp_path / "data" / "raw" / "demo__m4_digits"
    raw.mkdir(parents=True)
    rows = [
        {
            "sample_id": number,
            "conversations": [
                {"from": "human", "value": f"{number}?"},
                {"from": "gpt", "value": "" if number == 3 else "yes"},
            ],
        }
        for number in range(4)
    ]
    (raw / "m4_instruct_annotations.json").write_text(json.dumps(rows))
    return tmp_path / "data"


@pytest.fixture
def run(data, tokenizer_folder, monkeypatch, capsys):
    """Run the command: exit status, output, errors."""

    def call(*options):
        command = ["smolvlm2", "prepare", SOURCE, "--data", str(data)]
        command += ["--tokenizer", str(tokenizer_folder), *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def test_the_table_tells_rows_in_kept_and_left_out(run):
    status, out, err = run("--max-left-out", "0.25")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "source     rows in  kept  left out  media",
        "m4_digits        4     3         1      0",
        "  left out: empty_answer 1",
    ]


def test_a_source_that_lost_too_much_fails_with_status_1(run, data):
    status, out, err = run()
    assert status == 1
    assert "m4_digits        4     3         1" in out
    assert err.startswith("error: m4_digits: 1 of 4 rows (25.0%) are left out, more than")
    assert "ledger.jsonl, bring what is missing" in err
    assert (data / "prepared" / SOURCE / "manifest.arrow").is_file()


def test_tasks_say_what_is_left_and_how_to_finish(run, data):
    status, out, _ = run("--task", "1/2")
    assert status == 0
    assert out.splitlines() == [
        "m4_digits: task 1/2 has mapped its 0 of 1 inputs; 1 are left to other tasks",
        "to finish, run the same command when the other tasks have ended without --task",
    ]
    _, out, _ = run("--task", "0/2")
    assert "0 are left to other tasks" in out
    assert "to finish, run the same command now without --task" in out
    assert not (data / "prepared" / SOURCE).exists()
    assert run("--max-left-out", "1")[0] == 0


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "0/0", "1/2/3"])
def test_a_task_without_sense_is_refused(text):
    with pytest.raises(ConfigError, match=r"--task .*expected I/N with I from 0 to N - 1"):
        parse_task(text)


def test_frame_settings_reach_the_source(run, data):
    run("--frames", "--frames-per-second", "2", "--max-frames", "8", "--frame-size", "64")
    facts = json.loads((data / "prepared" / SOURCE / "source.json").read_text())
    assert facts["frames"] == {"fps": 2.0, "max_frames": 8, "size": 64, "quality": 90}


def test_settings_of_frames_want_frames_to_be_kept(run, data):
    status, _, error = run("--max-frames", "8")
    assert status == 2
    assert "max frames 8: says which frames are kept of a clip; add --frames" in error
    assert not (data / "prepared").exists()


def test_the_table_lines_up():
    def summary(name, read):
        empty = dict.fromkeys(SourceSummary.__dataclass_fields__)
        counts = {"rows_left_out": {}, "others_left_out": {"unsafe_path": 2}, "repairs": {}}
        rows = {"source": name, "rows_read": read, "rows_kept": read, "media_kept": 0}
        return SourceSummary(**empty | counts | rows)

    assert summary_table([summary("a", 1), summary("long_name", 1234567)]).splitlines() == [
        "source       rows in       kept  left out  media",
        "a                  1          1         0      0",
        "  besides rows: unsafe_path 2",
        "long_name  1,234,567  1,234,567         0      0",
        "  besides rows: unsafe_path 2",
    ]


def test_a_source_of_which_no_row_could_be_read_fails_and_names_its_files(run, data):
    file = data / "raw" / "demo__m4_digits" / "m4_instruct_annotations.json"
    file.write_text("<html>404</html>")
    status, out, err = run()
    assert status == 1
    assert "m4_digits: m4_instruct_annotations.json: begins with b'<'; expected a JSON list" in out
    assert "no row could be read" in err


def test_few_of_many_unread_files_are_named(tmp_path):
    line = {"row": None, "member": None, "reason": "unreadable_record", "detail": "cut"}
    lines = [json.dumps(line | {"file": f"{n}.parquet"}) for n in range(9)]
    lines += [json.dumps(line | {"file": "a", "row": 1}), json.dumps(line | {"member": "m"})]
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines))
    found = unread_files(tmp_path, most=2)
    assert found[0] == "0.parquet: cut; fetch it again"
    assert found[1:] == ["1.parquet: cut; fetch it again", "and 7 files more, see ledger.jsonl"]
