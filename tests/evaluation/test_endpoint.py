"""A model behind an address: a local server that answers, stalls, breaks and refuses."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from smolvlm2.evaluation.endpoint import EndpointBackend
from smolvlm2.evaluation.runner import run_benchmark
from smolvlm2.processing.video import VideoSettings


class Server(ThreadingHTTPServer):
    """Answers with the red value of the first picture; ``faults`` come first, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict] = []
        self.headers: list[str | None] = []
        self.faults: list[str] = []
        self.lock = threading.Lock()
        self.released = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append(body)
            server.headers.append(self.headers.get("Authorization"))
            fault = server.faults.pop(0) if server.faults else ""
        if fault == "stall":
            server.released.wait(30)
            return
        if fault.startswith("cut"):
            self.send_response(int(fault.removeprefix("cut ")))
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"no, th")
            return
        if fault == "other protocol":
            self.wfile.write(b"SSH-2.0\r\n\r\n")
            return
        if fault.isdigit():
            self.reply(int(fault), b"no, thank you")
            return
        if fault:
            self.reply(200, fault.encode())
            return
        address = next(
            item["image_url"]["url"]
            for item in body["messages"][-1]["content"]
            if item["type"] == "image_url"
        )
        picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        text = f" {picture.getpixel((0, 0))[0] // 40}\n"
        answer = {
            "choices": [{"message": {"content": text}}],
            "usage": {"completion_tokens": 2},
        }
        self.reply(200, json.dumps(answer).encode())

    def reply(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.released.set()
        found.shutdown()
        thread.join()


@pytest.fixture
def ask(server, benchmark_, data_root):
    def run(**fields):
        backend = EndpointBackend(
            address=f"http://127.0.0.1:{server.server_port}/v1",
            model="small",
            benchmark=benchmark_,
            video=VideoSettings(backend="pyav"),
            pause_s=0.01,
            **fields,
        )
        blank = fields.get("blank_images", False)
        return run_benchmark(backend, benchmark_, data_root, batch_size=1, blank_images=blank)

    return run


def test_questions_are_asked_with_their_pictures(ask, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    result = ask()
    assert result.accuracy == 5 / 7
    assert result.tokens == 14
    request = server.requests[0]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("small", 16, 0)
    texts = [item.get("text") for item in request["messages"][0]["content"]]
    assert texts == [None, "How bright?", "\nIn short."]
    assert server.headers[0] == "Bearer secret"
    assert "secret" not in json.dumps(result.to_json())


def test_blank_pictures_are_grey(ask, server):
    ask(blank_images=True)
    address = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert picture.getcolors() == [(picture.width * picture.height, (128, 128, 128))]


def test_a_busy_server_is_asked_again(ask, server):
    server.faults = ["503", "429"]
    result = ask()
    assert (result.accuracy, result.unanswered) == (5 / 7, [])
    assert len(server.requests) == 9


@pytest.mark.parametrize(
    ("faults", "options", "problem"),
    [
        (["stall"] * 2, {"timeout_s": 0.3, "attempts": 2}, "gave no answer in 0.3 s"),
        (["400"], {}, "answered 400: no, thank you"),
        (["500"] * 3, {}, "answered 500: no, thank you"),
        (['{"choices": []}'] * 3, {}, "failed"),
        (["<html>"] * 3, {}, "failed"),
        (["cut 200"] * 3, {}, "failed (IncompleteRead"),
        (["cut 400"], {}, "answered 400: no, th"),
        (["other protocol"] * 3, {}, "failed (BadStatusLine"),
    ],
)
def test_a_question_without_an_answer_is_wrong_and_listed(ask, server, faults, options, problem):
    server.faults = faults
    result = ask(**options)
    (entry,) = result.unanswered
    assert entry["problem"].startswith("endpoint: http://127.0.0.1:")
    assert problem in entry["problem"]
    assert result.n == 7
    assert result.accuracy in (4 / 7, 5 / 7)  # the one that failed may have been a wrong one


def test_nobody_at_the_address_is_told(benchmark_, data_root):
    backend = EndpointBackend(
        address="http://127.0.0.1:1/v1",
        model="none",
        benchmark=benchmark_,
        video=VideoSettings(),
        attempts=1,
    )
    result = run_benchmark(backend, benchmark_, data_root)
    assert len(result.unanswered) == 7
    assert "failed (ConnectionRefusedError" in result.unanswered[0]["problem"]


def test_a_clip_is_sent_as_frames_with_their_times(server, encode_clip, write, tmp_path):
    from smolvlm2.evaluation.benchmark import Benchmark

    write.file(tmp_path / "a.mp4", encode_clip(1, seconds=3))
    row = {
        "question_id": "1",
        "messages": [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}
        ],
        "media": ["a.mp4"],
        "answer": "0",
    }
    write.file(tmp_path / "q.jsonl", json.dumps(row).encode())
    benchmark = Benchmark(name="clip", file="q.jsonl", modality="video", chance="none")
    backend = EndpointBackend(
        address=f"http://127.0.0.1:{server.server_port}/v1/",
        model="small",
        benchmark=benchmark,
        video=VideoSettings(max_frames=3, backend="pyav"),
    )
    result = run_benchmark(backend, benchmark, tmp_path)
    assert result.accuracy == 1
    content = server.requests[0]["messages"][0]["content"]
    kinds = [item["type"] for item in content]
    assert kinds == ["text", "image_url"] * 3 + ["text", "text"]
    assert content[0]["text"].startswith("You are provided the following series of three frames")
    assert content[2]["text"] == "\nFrame from 00:01:"
