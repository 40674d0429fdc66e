"""What the six published benchmarks are: where they lie, which part is asked, how it is scored."""

from fnmatch import fnmatch

import pytest

from smolvlm2.evaluation.benchmark import load_benchmark

SHORT = "{question}\nAnswer the question using a single word or phrase."
LETTER = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
FACTS = {
    "docvqa": {
        "hub": [("lmms-lab-encoder/DocVQA", "lmms-lab/DocVQA", None)],
        "asked": "DocVQA/validation-00000-of-00006.parquet",
        "passed over": "DocVQA/test-00000-of-00006.parquet",
        "fetched": "DocVQA/validation-00000-of-00006.parquet",
        "score": ("anls/lmms-eval", None, "none"),
        "columns": ("question", "answers", "image"),
        "groups": ({}, "{docId}"),
        "native": SHORT,
        "tokens": (32, {"vlmevalkit": 2048}),
    },
    "textvqa": {
        "hub": [("lmms-lab-encoder/textvqa", "lmms-lab/textvqa", None)],
        "asked": "data/validation-00000-of-00003.parquet",
        "passed over": "data/test-00000-of-00003.parquet",
        "fetched": "data/validation-00000-of-00003.parquet",
        "score": ("vqa_accuracy/lmms-eval", None, "none"),
        "columns": ("question", "answers", "image"),
        "groups": ({}, "{image_id}"),
        "native": SHORT,
        "tokens": (32, {"lmms": 4096, "vlmevalkit": 2048}),
    },
    "chartqa": {
        "hub": [("lmms-lab-encoder/ChartQA", "lmms-lab/ChartQA", None)],
        "asked": "data/test-00000-of-00001.parquet",
        "passed over": "data/train-00000-of-00001.parquet",
        "fetched": "data/test-00000-of-00001.parquet",
        "score": ("relaxed_accuracy/lmms-eval", None, "none"),
        "columns": ("question", "answer", "image"),
        "groups": ({"split": "{type}"}, None),
        "native": "{question}\nAnswer the question with a single word.",
        "tokens": (16, {"vlmevalkit": 2048}),
    },
    "video_mme": {
        "hub": [("lmms-eval/Video-MME", "lmms-lab/Video-MME", None)],
        "asked": "videomme/test-00000-of-00001.parquet",
        "passed over": "videomme/train-00000-of-00001.parquet",
        "fetched": "videos_chunked_01.zip",
        "score": ("choice/lmms-eval", None, "choices"),
        "columns": ("question", "answer", None),
        "groups": (
            {
                "duration": "{duration}",
                "domain": "{domain}",
                "sub_category": "{sub_category}",
                "task": "{task_type}",
                "duration and domain": "{duration} {domain}",
                "duration and task": "{duration} {task_type}",
            },
            "{videoID}",
        ),
        "native": LETTER,
        "tokens": (16, {"vlmevalkit": 2048}),
    },
    "mlvu": {
        "hub": [("sy1998/MLVU_dev", None, None), ("MLVU/MVLU", None, None)],
        "asked": "mlvu/test-00000-of-00001.parquet",
        "passed over": "mlvu.json",
        "fetched": "video_part_1.zip",
        "score": ("choice/lmms-eval", "task", "choices"),
        "columns": ("question", "answer", None),
        "groups": ({"task": "{task_type}"}, "{video_name}"),
        "native": LETTER,
        "tokens": (16, {"vlmevalkit": 2048}),
    },
    "mvbench": {
        "hub": [("OpenGVLab/MVBench", None, "video")],
        "asked": "json/action_antonym.json",
        "passed over": "other/action_antonym.json",
        "fetched": "video/star.zip",
        "score": ("choice/lmms-eval", "task", "choices"),
        "columns": ("question", "answer", None),
        "groups": ({"task": "{file}"}, "{file}/{video}"),
        "native": LETTER,
        "tokens": (16, {"vlmevalkit": 2048}),
    },
}
"""Source: the data sets' cards, lmms-eval 0.7.3 and VLMEvalKit at commit e8e78f0."""

MVBENCH = """
action_sequence star/Charades_segment star/Charades_v1_480
action_prediction star/Charades_segment star/Charades_v1_480
object_interaction star/Charades_segment star/Charades_v1_480
action_localization sta/sta_video_segment sta/sta_video
episodic_reasoning tvqa/video_fps3_hq_segment tvqa/frames_fps3_hq
action_antonym ssv2_video_mp4 ssv2_video
fine_grained_action Moments_in_Time_Raw/videos
unexpected_action FunQA_test/test
fine_grained_pose nturgbd_convert nturgbd
object_shuffle perception/videos
action_count perception/videos
state_change perception/videos
character_order perception/videos
object_existence clevrer/video_validation
moving_direction clevrer/video_validation
moving_count clevrer/video_validation
moving_attribute clevrer/video_validation
counterfactual_inference clevrer/video_validation
scene_transition scene_qa/video
egocentric_navigation vlnqa
"""
"""Tasks, and their folders on the revisions `video` and `main`."""


@pytest.mark.parametrize("name", FACTS)
def test_a_published_benchmark_is_the_published_one(name):
    benchmark, facts = load_benchmark(name), FACTS[name]
    layout = benchmark.layouts[0]
    assert [(hub.repo, hub.formerly, hub.revision) for hub in benchmark.hub] == facts["hub"]
    for key, found in (("asked", True), ("passed over", False)):
        assert any(fnmatch(facts[key], pattern) for pattern in layout.files) is found, facts[key]
    assert any(fnmatch(facts["fetched"], pattern) for pattern in benchmark.hub[0].patterns)
    assert any(fnmatch(facts["asked"], pattern) for pattern in benchmark.hub[0].patterns)
    assert (benchmark.rule, benchmark.macro_over, benchmark.chance) == facts["score"]
    assert (layout.question, layout.answer, layout.image) == facts["columns"]
    groups = {name: " ".join(templates) for name, templates in layout.groups.items()}
    assert (groups, layout.cluster) == facts["groups"]
    assert benchmark.prompts["native"].text == facts["native"]
    tokens, others = facts["tokens"]
    assert benchmark.max_new_tokens == tokens
    limits = {style: prompt.max_new_tokens for style, prompt in benchmark.prompts.items()}
    assert limits == dict.fromkeys(benchmark.prompts) | others


def test_the_multiple_choice_tasks_of_mlvu_are_asked_and_no_other():
    tasks = ["plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning"]
    files = [f"{number}_{task}.json" for number, task in enumerate(tasks, start=1)]
    wanted = [f"{folder}json/{file}" for folder in ("MLVU/", "") for file in files]
    assert load_benchmark("mlvu").layouts[1].files == wanted


def test_the_tasks_of_mvbench_lie_where_both_revisions_have_them():
    found = {
        task: [
            folder
            for folder in (*folders.segments, *folders.whole, *folders.frames)
            if not folder.startswith("data0613")  # replaced clips, by the same names
        ]
        for task, folders in load_benchmark("mvbench").layouts[0].folders.items()
    }
    assert len(found) == 20
    assert found == {
        task: folders for task, *folders in map(str.split, MVBENCH.strip().split("\n"))
    }
