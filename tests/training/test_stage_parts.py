"""What a stage is made of, and what is said of it before training starts."""

import json
import logging
import shutil

import pytest

from smolvlm2.data.grouping import open_grouped
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.prepare import prepare_source
from smolvlm2.data.sources.catalogue import DEMO_SOURCES
from smolvlm2.processing.tokenizer import extend_for_images
from smolvlm2.training.stage_parts import warn_of_idle_ids


@pytest.fixture
def joined(world, tmp_path):
    """A source whose first two rows are about the same images, joined."""
    tokenizer = extend_for_images(world / "parts" / "smollm2", model_max_length=512)
    source = DEMO_SOURCES["m4_digits"]
    raw = tmp_path / "data" / "raw" / "m4"
    shutil.copytree(world / "data" / "raw" / source.raw_folder, raw)
    path = raw / "m4_instruct_annotations.json"
    rows = json.loads(path.read_text())
    question, *answers = rows[0]["conversations"]
    again = {**question, "value": question["value"] + " Again."}
    rows.append({**rows[0], "conversations": [again, *answers], "sample_id": 1000})
    path.write_text(json.dumps(rows))
    folder = tmp_path / "data" / "prepared" / "m4_digits"
    prepare_source(source.adapter, raw, folder, tokenizer)
    return open_grouped(Manifest.open(folder, tokenizer.key), 2, tokenizer)


def test_ids_that_leave_nothing_out_are_told(joined, caplog):
    [whole] = [each for row in range(len(joined)) if "+" in (each := joined.sample_id(row))]
    part = whole.rpartition("+")[0]
    with caplog.at_level(logging.WARNING):
        warn_of_idle_ids([whole], [joined, joined])
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        warn_of_idle_ids([part, "nowhere"], [joined])
    assert caplog.messages == [
        f"data.skip_ids: {part!r} has no effect, it is a row of the sample {whole!r}; list that",
        "data.skip_ids: 'nowhere' is no sample of this run's data",
    ]


def test_a_run_tells_of_them_when_it_starts(make_trainer, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path / "run", "data.skip_ids=[nowhere]")
    assert "data.skip_ids: 'nowhere' is no sample of this run's data" in caplog.messages
