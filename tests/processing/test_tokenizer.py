import json
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvlm2.errors import CheckpointError, CheckpointNotFoundError, PromptError
from smolvlm2.processing import prompt_strings
from smolvlm2.processing.tokenizer import Tokenizer, extend_for_images


def test_added_tokens_have_the_published_order(base_folder: Path, tokenizer: Tokenizer):
    base = len(json.loads((base_folder / "tokenizer.json").read_text())["model"]["vocab"])
    special = tokenizer.special
    assert tokenizer.vocab_size == base + 128
    assert special.global_image == base
    assert [special.row_col(r, c) for r in range(1, 7) for c in range(1, 7)] == [
        *range(base + 1, base + 37)
    ]
    assert special.fake == base + 37
    assert special.image == base + 38
    assert special.end_of_utterance == base + 127
    assert special.row_col(7, 1) is None
    assert tokenizer.decode([base + 39, base + 126], skip_special_tokens=False) == (
        "<|reserved_special_token_0|><|reserved_special_token_87|>"
    )


def test_extending_twice_changes_nothing(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    assert extend_for_images(tmp_path).vocab_size == tokenizer.vocab_size


def test_half_extended_tokenizer_is_rejected(base_folder: Path, tmp_path: Path):
    import tokenizers

    half = tokenizers.Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    half.add_special_tokens(["<image>"])
    half.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="holds 1 of SmolVLM's 128 added tokens"):
        extend_for_images(tmp_path)


def test_vocabulary_with_holes_is_rejected(base_folder: Path, tmp_path: Path):
    definition = json.loads((base_folder / "tokenizer.json").read_text())
    vocab = definition["model"]["vocab"]
    last = max(vocab, key=vocab.get)
    vocab[last] += 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(CheckpointError, match="do not fill the ids 0 to"):
        extend_for_images(tmp_path)


SPECIALS = [
    *(prompt_strings.row_col(r, c) for r in (1, 6) for c in (1, 6)),
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|reserved_special_token_3|>",
]


@given(st.lists(st.one_of(st.sampled_from(SPECIALS), st.text(max_size=8)), max_size=6))
def test_special_token_strings_in_text_are_ordinary_characters(tokenizer: Tokenizer, parts):
    text = "".join(parts)
    ids = tokenizer.encode_text(text)
    full = json.loads(tokenizer._definition)["added_tokens"]
    assert not set(ids.tolist()) & {token["id"] for token in full}
    assert tokenizer.decode(ids) == text.encode("utf-8", "replace").decode("utf-8")


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer):
    encoders = (
        tokenizer.encode_text,
        tokenizer.encode_with_starts,
        lambda text: tokenizer.count_tokens(["fine", text]),
    )
    for encode in encoders:
        with pytest.raises(PromptError, match=r"'a \\ud83d b' is no Unicode text; remove what"):
            encode("a \ud83d b")


def test_starts_point_at_characters(tokenizer: Tokenizer):
    text = "A cat é\n\n漢字 <image> 12"
    ids, starts = tokenizer.encode_with_starts(text)
    assert ids.tolist() == tokenizer.encode_text(text).tolist()
    assert starts[0] == 0
    assert (starts[1:] >= starts[:-1]).all()
    assert starts[-1] == len(text) - 1


def test_key_follows_the_vocabulary_and_the_template(
    tokenizer: Tokenizer, base_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    same = extend_for_images(base_folder)
    assert same.key == tokenizer.key
    definition = json.loads(tokenizer._definition)
    definition["model"]["merges"].pop()
    assert Tokenizer(json.dumps(definition)).key != tokenizer.key
    before = same.key
    monkeypatch.setattr(prompt_strings, "TEMPLATE_VERSION", 999)
    assert same.key != before


def test_tokenizer_reaches_spawned_workers(tokenizer: Tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode_text("A cat <image>").tolist() == (
        tokenizer.encode_text("A cat <image>").tolist()
    )
    assert copy.special == tokenizer.special
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(len, ([tokenizer.vocab_size],)) == 1
        assert pool.apply(tokenizer.decode, ([tokenizer.special.image], False)) == "<image>"


def test_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.key == tokenizer.key
    assert loaded.model_max_length == tokenizer.model_max_length


def test_transformers_loads_the_saved_tokenizer(tokenizer: Tokenizer, tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.bos_token_id == tokenizer.special.bos
    assert theirs.eos_token == "<end_of_utterance>"
    assert theirs.pad_token == "<|im_end|>"
    assert theirs.unk_token == "<|endoftext|>"
    assert theirs.image_token == "<image>"
    assert theirs.fake_image_token == "<fake_token_around_image>"
    assert theirs.truncation_side == "left"
    assert theirs.model_max_length == 8192
    text = "Anno 2024:\n\n a cat's 12 lives"
    assert theirs(text)["input_ids"] == tokenizer.encode_text(text).tolist()


def test_base_tokenizer_is_refused(base_folder: Path):
    with pytest.raises(CheckpointError, match=r"token <end_of_utterance> is missing.*extend_for"):
        Tokenizer.from_pretrained(base_folder)


def test_folder_without_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(CheckpointNotFoundError, match=r"no tokenizer\.json in this folder"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="no such folder"):
        Tokenizer.from_pretrained(tmp_path / "missing")


def test_unreachable_hub_id_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointNotFoundError, match="the hub did not give it"):
        Tokenizer.from_pretrained("nobody/nothing")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(CheckpointNotFoundError, match=r"hub repository nobody/nothing: holds no"):
        Tokenizer.from_pretrained("nobody/nothing")


def test_broken_files_are_named(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object, found list"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"expected a tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)


def test_processing_imports_neither_torch_nor_transformers():
    code = (
        "import sys, smolvlm2.processing.processor; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.text())
def test_token_bytes_joined_are_the_text(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode_text(text).tolist()
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode("utf-8")


def test_token_bytes_of_a_special_token_are_its_name(tokenizer: Tokenizer):
    special = tokenizer.special
    assert tokenizer.token_bytes(special.image) == b"<image>"
    assert tokenizer.token_bytes(special.bos) == b"<|im_start|>"
    with pytest.raises(ValueError, match="id 999999 is not in the vocabulary"):
        tokenizer.token_bytes(999_999)
