"""The media store: whole files, ranges, and everything it must refuse."""

import pickle

import pytest

from smolvlm2.data.media import Frame, MediaLocator, MediaStore, is_safe_path
from smolvlm2.errors import MediaError, MediaNotFoundError


@pytest.fixture
def store(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file.bin").write_bytes(b"0123456789")
    (tmp_path / "secret.bin").write_bytes(b"secret")
    return MediaStore(tmp_path / "data")


def test_files_and_ranges_are_read(store):
    assert store.read(MediaLocator("image", "file.bin")) == b"0123456789"
    assert store.read(MediaLocator("image", "file.bin", 3, 4)) == b"3456"


@pytest.mark.parametrize("path", ["../secret.bin", "a/../../secret.bin", "/etc/hostname", ""])
def test_paths_that_leave_the_root_are_refused(store, path):
    with pytest.raises(MediaError, match="leaves the data root") as caught:
        store.read(MediaLocator("image", path))
    assert caught.value.reason == "unsafe_path"


@pytest.mark.parametrize("path", ["gone.bin", "file.bin/inside.png"])
def test_a_missing_file_is_named(store, path):
    with pytest.raises(MediaNotFoundError, match=r"no such file.*prepare the source again"):
        store.read(MediaLocator("image", path, 0, 3))


def test_a_file_that_became_shorter_is_noticed(store):
    with pytest.raises(MediaError, match="found 2 bytes at offset 8, expected 5"):
        store.read(MediaLocator("image", "file.bin", 8, 5))


def test_a_folder_in_place_of_a_file_is_an_error(store):
    (store.root / "folder").mkdir()
    with pytest.raises(MediaError, match="cannot be read"):
        store.read(MediaLocator("image", "folder"))


CLIP = MediaLocator(
    "video",
    frames=(Frame("file.bin", 0, 3, 0.0), Frame("b", None, None, 1.5), Frame("file.bin", 3, 4, 2)),
    duration=2.5,
)


@pytest.mark.parametrize(
    "locator", [MediaLocator("image", "a"), MediaLocator("video", "a", 0, 7), CLIP]
)
def test_locators_survive_json_and_pickle(locator):
    assert MediaLocator.from_json(locator.to_json()) == locator
    assert pickle.loads(pickle.dumps(locator)) == locator


def test_a_store_can_be_sent_to_a_worker(store):
    assert pickle.loads(pickle.dumps(store)).read(MediaLocator("image", "file.bin", 0, 1)) == b"0"


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("a/b.png", True),
        ("a..b/c", True),
        ("./a", True),
        ("..", False),
        ("a\\..\\b", False),
        ("C:/x", False),
        ("a\0b", False),
    ],
)
def test_safe_paths(path, safe):
    assert is_safe_path(path) is safe


def test_frames_are_written_with_each_path_once():
    assert CLIP.to_json() == {
        "kind": "video",
        "duration": 2.5,
        "paths": ["file.bin", "b"],
        "frames": [[0, 0, 3, 0.0], [1, None, None, 1.5], [0, 3, 4, 2]],
    }


def test_frames_are_read_with_their_times(store):
    (store.root / "b").write_bytes(b"whole")
    for clip in (store.read(CLIP), store.open(CLIP)):
        assert clip.frames == [b"012", b"whole", b"3456"]
        assert (clip.timestamps, clip.duration) == ([0.0, 1.5, 2], 2.5)


def test_a_medium_is_opened_without_being_read(store):
    with store.open(MediaLocator("video", "file.bin", 3, 4)) as file:
        assert (file.seek(2), file.read()) == (2, b"56")
    with store.open(MediaLocator("video", "file.bin")) as file:
        assert file.read() == b"0123456789"
    with pytest.raises(MediaError, match="leaves the data root"):
        store.open(MediaLocator("video", "../secret.bin"))
