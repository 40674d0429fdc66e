"""Which of the hub's files are wanted."""

import socket
from dataclasses import replace

import pytest

from smolvlm2.data.download.listing import choose, download_order
from smolvlm2.data.download.plan import make_plan
from smolvlm2.data.download.record import RemoteFile
from smolvlm2.data.download.selection import select

LLAVA_VIDEO = [
    "README.md",
    "0_30_s_youtube_v0_1/0_30_s_youtube_v0_1_cap_processed.json",
    "0_30_s_youtube_v0_1/0_30_s_youtube_v0_1_videos_1.tar.gz",
    "2_3_m_youtube_v0_1/2_3_m_youtube_v0_1_cap_processed.json",
    "2_3_m_youtube_v0_1/2_3_m_youtube_mc_v0_1_qa_processed.json",
    "2_3_m_youtube_v0_1/2_3_m_youtube_v0_1_videos_1.tar.gz",
    "llava_hound/sharegptvideo_qa_255k_processed.json",
    "llava_hound/train_300k/chunk_0.tar.gz",
]
CAULDRON = ["ai2d/train-00000-of-00001.parquet", "vqav2/train-00000-of-00002.parquet"]
ONEVISION = [
    "aokvqa(cauldron,llava_format)/train-00000-of-00014.parquet",
    "GeoQA+(MathV360K)/train-00000-of-00001.parquet",
]
DOCMATIX = ["data/train-00000-of-01106.parquet", "pdf/train-00000-of-00089.parquet"]
SHAREGPT = [
    "sharegpt4video_40k.jsonl",
    "zip_folder/bdd100k/bdd100k_videos.zip",
    "zip_folder/panda/panda_videos_1.zip",
    "zip_folder/pixabay/pixabay_videos_1.zip",
]
VISTA = [
    "spatiotemporal_niah_mcq/spatialtemporal_niah_mcq.json",
    "spatiotemporal_niah_mcq/spatiotemporal_niah_mcq_1.tar",
    "temporal_niah_mcq/temporal_niah_mcq.json",
    "temporal_niah_mcq/temporal_niah_mcq_1.tar",
]
M4 = ["m4_instruct_annotations.json", "HQ-Edit.zip", "dreamsim_split.z01", "dreamsim_split.zip"]


@pytest.mark.parametrize(
    ("subset", "paths", "wanted"),
    [
        ("the_cauldron:ai2d", CAULDRON, [0]),
        ("llava_onevision:aokvqa(cauldron,llava_format)", ONEVISION, [0]),
        ("llava_onevision:GeoQA+*", ONEVISION, [1]),
        ("llava_video_178k:2_3_m_*", LLAVA_VIDEO, [0, 3, 4, 5]),
        # One kind of annotation still needs the clips of its folder, and no other annotation.
        ("llava_video_178k:2_3_m_youtube_v0_1_cap", LLAVA_VIDEO, [0, 3, 5]),
        ("llava_video_178k:sharegptvideo_qa_255k", LLAVA_VIDEO, [0, 6, 7]),
        ("docmatix:pdf", DOCMATIX, [1]),
        ("sharegpt4video:pixabay", SHAREGPT, [0, 3]),
        ("vista_400k:temporal_niah_mcq", VISTA, [2, 3]),
        ("vista_400k:spati*temporal_niah_mcq", VISTA, [0, 1]),
        ("m4_instruct:dreamsim", M4, [0, 2, 3]),
    ],
)
def test_a_subset_takes_its_files_and_what_they_need(subset, paths, wanted):
    (selection,) = select(subsets=[subset])
    chosen, unmatched = choose(selection, paths)
    assert chosen == {paths[i] for i in wanted}
    assert unmatched == []


@pytest.mark.parametrize(
    ("source", "paths", "wanted"),
    [
        ("llava_video_178k", LLAVA_VIDEO, range(8)),
        ("docmatix", DOCMATIX, [0]),
        ("sharegpt4video", SHAREGPT, [0, 1, 2]),
        ("m4_instruct", M4, range(4)),
    ],
)
def test_a_source_takes_everything_but_what_has_to_be_named(source, paths, wanted):
    chosen, unmatched = choose(select(sources=[source])[0], paths)
    assert chosen == {paths[i] for i in wanted}
    assert unmatched == []


def test_a_subset_without_files_is_said():
    (selection,) = select(subsets=["the_cauldron:ai2d", "the_cauldron:websight"])
    assert choose(selection, CAULDRON) == ({CAULDRON[0]}, ["websight"])


def test_rows_come_before_archives_and_numbers_count():
    paths = ["x_10.tar.gz", "x_2.tar.gz", "z.json", "b_10.parquet", "b_9.parquet", "a.z01", "a.zip"]
    blank = {"source": "", "hub_id": "", "commit": "", "path": "", "size": 0, "blob_id": ""}
    files = [RemoteFile(local=path, sha256=None, **blank) for path in paths]
    assert [file.local for file in sorted(files, key=download_order)] == [
        *("b_9.parquet", "b_10.parquet", "z.json"),
        *("a.z01", "a.zip", "x_2.tar.gz", "x_10.tar.gz"),
    ]


def test_a_hub_that_never_answers_is_given_up(settings, tmp_path, monkeypatch, no_waiting):
    monkeypatch.setattr("smolvlm2.data.download.listing._SILENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:  # takes, says nothing
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        once = replace(settings.retries, attempts=1)
        quick = replace(settings, endpoint=endpoint, retries=once)
        chosen = select(sources=["vista_400k", "the_cauldron"])
        plan = make_plan(chosen, tmp_path, quick)
    assert {name: trouble.kind for name, trouble in plan.troubles.items()} == {
        "vista_400k": "busy",
        "the_cauldron": "busy",
    }


def test_once_the_hub_is_away_the_next_sources_are_tried_once(hub, settings, tmp_path):
    hub.fault("revision/main", "503", times=1000)
    plan = make_plan(select(sources=["vista_400k", "m4_instruct"]), tmp_path, settings)
    assert set(plan.troubles) == {"vista_400k", "m4_instruct"}
    assert hub.count("GET", "revision/main") == settings.retries.attempts + 1


@pytest.mark.parametrize("answer", [{}, [1]])
def test_what_answers_like_no_hub_is_said(hub, settings, tmp_path, monkeypatch, answer):
    handler = hub.server.RequestHandlerClass
    monkeypatch.setattr(handler, "_api", lambda self, *arguments: self._json(answer))
    plan = make_plan(select(sources=["vista_400k"]), tmp_path, settings)
    assert "VISTA-400K: what answers is no hub" in plan.troubles["vista_400k"].detail
    assert "look at HF_ENDPOINT, the proxy" in plan.troubles["vista_400k"].detail
