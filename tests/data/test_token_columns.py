"""Token counts: geometry alone gives the length that the processor gives."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from smolvlm2.data import token_columns
from smolvlm2.data.geometry import token_folder
from smolvlm2.data.manifest import Manifest
from smolvlm2.data.media import MediaStore
from smolvlm2.data.sources.catalogue import DEMO_SOURCES
from smolvlm2.processing.images import ImageSettings
from smolvlm2.processing.processor import Processor
from smolvlm2.processing.video import VideoSettings


@pytest.mark.parametrize("name", sorted(DEMO_SOURCES))
@pytest.mark.parametrize("longest_edge", [32, 96])
def test_geometry_gives_the_processors_lengths(prepared_root, tokenizer, name, longest_edge):
    processor = Processor(
        tokenizer,
        tile_size=32,
        tokens_per_tile=4,
        image=ImageSettings(longest_edge=longest_edge),
        video=VideoSettings(backend="pyav"),
    )
    manifest = Manifest.open(prepared_root / "prepared" / name, tokenizer.key)
    store = MediaStore(manifest.data_root)
    g = manifest.geometry
    lengths = processor.length_model()
    for index in range(len(manifest)):
        row = manifest.row(index)
        media = slice(*g.media_offsets[index : index + 2])
        messages = slice(*g.message_offsets[index : index + 2])
        if (g.media_kind[media] == 1).any():
            tiles, tokens = lengths.videos(
                g.media_duration[media], g.media_fps[media], g.media_frames[media]
            )
        else:
            tiles, tokens = lengths.images(g.media_width[media], g.media_height[media])
        sample = processor.encode_sample(row.messages, [store.read(m) for m in row.media])
        assert len(sample.input_ids) == g.message_text_tokens[messages].sum() + tokens.sum()
        assert sample.supervised.sum() == g.message_supervised[messages].sum()
        assert len(sample.tiles) == tiles.sum()


def test_counts_do_not_depend_on_the_chunks(prepared_root, tokenizer, monkeypatch):
    folder = prepared_root / "prepared" / "text_digits"
    whole = Manifest.open(folder, tokenizer.key).geometry.message_text_tokens
    monkeypatch.setattr(token_columns, "CHUNK_ROWS", 4)
    chunks = token_columns.row_chunks(len(Manifest.open(folder)))
    assert len(chunks) > 2
    counted = [token_columns.count_tokens(folder, tokenizer, *chunk)[0] for chunk in chunks]
    assert np.concatenate(counted).tolist() == whole.tolist()


def test_two_runs_that_count_at_once_give_one_result(prepared_root, tokenizer, tmp_path):
    folder = shutil.copytree(prepared_root / "prepared" / "text_digits", tmp_path / "text_digits")
    target = token_folder(folder / "geometry", tokenizer.key)
    whole = {path.name: path.read_bytes() for path in target.iterdir()}
    shutil.rmtree(target)
    child = (
        "import sys; from pathlib import Path; from smolvlm2.processing.tokenizer import Tokenizer;"
        "from smolvlm2.data.token_columns import *;"
        "write_token_columns(Path(sys.argv[1]), Tokenizer.from_pretrained(sys.argv[2]),"
        " lambda tasks: [count_tokens(*task) for task in tasks])"
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    command = [sys.executable, "-c", child, str(folder), str(tmp_path / "tokenizer")]

    def after_another(tasks):
        subprocess.run(command, check=True)
        return [token_columns.count_tokens(*task) for task in tasks]

    token_columns.write_token_columns(folder, tokenizer, after_another)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == whole
    assert [path.name for path in target.parent.glob("tokens-*")] == [target.name]
