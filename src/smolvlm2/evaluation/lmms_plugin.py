"""Our checkpoints as a model of lmms-eval, so that its tasks run on them.

Installed with the extra ``lmms``, the entry point makes the name known:

    lmms-eval --model smolvlm2 --model_args pretrained=RUN --tasks docvqa_val --batch_size 8

or an object is passed to ``lmms_eval.evaluator.simple_evaluate(model=...)``. Prompts are the
task's own; pixels, frames and ids are made by our processor, as in style ``lmms`` here.
"""

import logging
from collections.abc import Sequence
from typing import Any

from smolvlm2.errors import MediaError, MissingDependencyError, PromptError
from smolvlm2.processing.processor import Processor

try:
    from lmms_eval.api.model import lmms as _Base
    from lmms_eval.models.registry_v2 import ModelManifest
except ImportError as error:
    raise MissingDependencyError(
        'the lmms-eval plug-in needs lmms-eval: pip install "smolvlm2[lmms]"'
    ) from error

logger = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 64
"""Longest answer where a task names none; lmms-eval's own wrapper takes 4096."""
VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def manifest() -> "ModelManifest":
    """What the entry point ``lmms_eval.models`` gives."""
    return ModelManifest(
        model_id="smolvlm2", simple_class_path="smolvlm2.evaluation.lmms_plugin.LmmsModel"
    )


class LmmsModel(_Base):
    """A SmolVLM behind lmms-eval's interface; greedy, batched, one process."""

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        model: Any = None,
        processor: Processor | None = None,
        batch_size: int | str = 8,
        device: str | None = None,
        dtype: str | None = None,
        **others: Any,
    ) -> None:
        """Load a checkpoint, or take a model with its processor.

        Without ``device`` the checkpoint goes to the GPU where there is one: lmms-eval passes a
        device on only if its command line names one.

        Raises:
            PromptError: Neither is given.
        """
        super().__init__()
        if unknown := sorted(others.keys() - {"max_batch_size"}):  # which lmms-eval passes itself
            logger.warning(
                "smolvlm2 knows no model argument %s, so it has no effect; pixels and frames are "
                "those of the checkpoint's preprocessor_config.json",
                ", ".join(unknown),
            )
        if pretrained is not None:
            import torch

            from smolvlm2.model.smolvlm import SmolVLM

            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            model = SmolVLM.from_pretrained(pretrained, dtype=dtype, device=device)
            processor = Processor.from_pretrained(pretrained)
        if model is None or processor is None:
            raise PromptError("give pretrained=PATH, or model and processor")
        self.model, self.processor = model, processor
        self.batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of the requests; empty where one cannot be shown or asked."""
        answers: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            answers += self._answer_each(requests[start : start + self.batch_size])
        return answers

    def _answer_each(self, requests: Sequence[Any]) -> list[str]:
        try:
            return self._answer(requests)
        except (MediaError, PromptError) as error:
            if len(requests) > 1:  # one by one, to find the one that fails
                return [answer for request in requests for answer in self._answer_each([request])]
            # lmms-eval keeps nothing of a run that stops, so an hour's answers would be lost.
            *_, doc_id, task, _ = requests[0].args
            logger.warning("%s, document %s: answered by nothing: %s", task, doc_id, error)
            return [""]

    def _answer(self, requests: Sequence[Any]) -> list[str]:
        conversations, limits, untils = [], [], []
        for request in requests:
            text, options, visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            media = [_item(medium) for medium in visual(doc) or []]
            content = [*media, {"type": "text", "text": text}]
            conversations.append([{"role": "user", "content": content}])
            limits.append(int(options.get("max_new_tokens") or DEFAULT_NEW_TOKENS))
            until = options.get("until") or []
            untils.append([until] if isinstance(until, str) else list(until))
        inputs = self.processor(conversations, add_generation_prompt=True)
        rows = self.model.generate(**inputs, max_new_tokens=max(limits))
        answers = []
        for row, limit, until in zip(rows, limits, untils, strict=True):
            answer = self.processor.decode(row[:limit])
            for mark in until:
                answer = answer.split(mark)[0] if mark else answer
            answers.append(answer.strip())
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not needed by tasks that generate."""
        raise NotImplementedError("smolvlm2 answers tasks of type generate_until only")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not needed by tasks of one round."""
        raise NotImplementedError("smolvlm2 answers tasks of one round only")


def _item(medium: Any) -> dict[str, Any]:
    """A content item of what a task shows: a PIL image, or the path of a video or image."""
    if isinstance(medium, str) and medium.lower().endswith(VIDEO_ENDINGS):
        return {"type": "video", "video": medium}
    return {"type": "image", "image": medium}
