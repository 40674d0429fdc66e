"""A model behind an OpenAI-compatible address, such as vLLM's server."""

import base64
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from smolvlm2.evaluation.backends import Asked, Reply
from smolvlm2.evaluation.benchmark import Benchmark, PromptStyle
from smolvlm2.evaluation.clips import frame_rule
from smolvlm2.evaluation.pictures import Pictures, decode_pictures, picture_messages
from smolvlm2.evaluation.prompts import conversation
from smolvlm2.evaluation.questions import Medium, Question
from smolvlm2.processing.video import VideoSettings

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the key; servers of one's own need none."""
_BUSY = (408, 429, 500, 502, 503, 504)
"""Answers of a server that may do better later."""
_BROKEN = (OSError, http.client.HTTPException)
"""No connection, one that ended early, or something that is not HTTP."""


@dataclass(kw_only=True)
class EndpointBackend:
    """Asks ``POST <address>/chat/completions``, one request a question, several at a time."""

    address: str
    """Up to and including ``/v1``."""
    model: str
    """Name of the model at the server."""
    benchmark: Benchmark
    style: PromptStyle = "native"
    blank_images: bool = False
    """Replace every picture by mid-grey."""
    video: VideoSettings
    """Which frames of a clip are sent."""
    timeout_s: float = 120.0
    """Seconds until a request is given up."""
    attempts: int = 3
    """Requests made for one answer before the question counts as unanswered."""
    pause_s: float = 1.0
    """Seconds before the second attempt; doubled before each further one."""

    def describe(self) -> dict[str, Any]:
        """Settings that change an answer."""
        return {
            "backend": "endpoint",
            "address": self.address,
            "model": self.model,
            "max_frames": self.video.max_frames,
            "fps": self.video.fps,
        }

    def decode(self, medium: Medium) -> tuple[Pictures, dict[int, str]]:
        """Pictures, each as the text of a data address: made once for all questions."""
        pictures = decode_pictures(
            medium, self.video, frame_rule(self.style), blank=self.blank_images
        )
        lossless = medium.kind == "image"
        return pictures, {id(i): _data_address(i, lossless) for i in pictures.images}

    def ask(self, question: Question, media: Sequence[tuple[Pictures, dict[int, str]]]) -> Asked:
        """The request's messages."""
        addresses = {key: value for _, encoded in media for key, value in encoded.items()}
        pictures = [found for found, _ in media]
        times = [t for found in pictures for t in found.timestamps]
        messages = picture_messages(
            conversation(question, self.benchmark, self.style, times),
            pictures,
            lambda image: {"type": "image_url", "image_url": {"url": addresses[id(image)]}},
        )
        count = sum(len(found.images) for found in pictures)
        text = sum(len(str(item.get("text", ""))) for m in messages for item in m["content"])
        return Asked(question=question, prompt=messages, media=tuple(pictures), shape=(count, text))

    def answer(self, batch: Sequence[Asked]) -> list[Reply]:
        """Greedy answers; a request that fails for good is a problem of its question alone."""
        with ThreadPoolExecutor(len(batch)) as pool:
            return list(pool.map(self._answer, batch))

    def _answer(self, asked: Asked) -> Reply:
        prompt = self.benchmark.prompt(self.style)
        body = {
            "model": self.model,
            "messages": asked.prompt,
            "max_tokens": prompt.max_new_tokens or self.benchmark.max_new_tokens,
            "temperature": 0,
        }
        problem = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            try:
                found = self._post(body)
                text = found["choices"][0]["message"]["content"] or ""
                tokens = int((found.get("usage") or {}).get("completion_tokens") or 0)
                return Reply(text=str(text).strip(), tokens=tokens)
            except urllib.error.HTTPError as error:
                problem = f"endpoint: {self.address} answered {error.code}: {_detail(error)}"
                if error.code not in _BUSY:
                    break
            except TimeoutError:
                problem = f"endpoint: {self.address} gave no answer in {self.timeout_s} s"
            except (*_BROKEN, ValueError, KeyError, IndexError, TypeError) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    problem = f"endpoint: {self.address} gave no answer in {self.timeout_s} s"
                else:
                    problem = f"endpoint: {self.address} failed ({reason!r})"
        return Reply(text="", tokens=0, problem=problem)

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.address.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            return json.load(response)


def _detail(error: urllib.error.HTTPError) -> str:
    """The beginning of what a server says to a request it refuses."""
    try:
        found = error.read()
    except http.client.IncompleteRead as cut:
        found = cut.partial
    except _BROKEN as broken:
        return repr(broken)
    return found[:200].decode("utf-8", "replace")


def _data_address(image: Image.Image, lossless: bool) -> str:
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=95)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
