"""Questions for data sets that have only captions; which one a sample gets depends on its id."""

import hashlib
from collections.abc import Sequence

VRIPT = ("Describe the video in detail.",)
"""The authors' question without its duration and sampling rate, which are known only once frames
are chosen, and which the template states of every clip.

Source: Vript, vriptor/build_vript_training_data."""

SHAREGPT4VIDEO = ("Describe this video in detail.",)
"""The authors' default question.

Source: ShareGPT4Video, run.py."""

MOVIECHAT = (
    "Describe this video in detail.",
    "What happens in this video?",
    "Give a detailed account of what this film clip shows.",
    "Describe the scenes, the people and what they do in this video.",
)
"""Our own wording: the question that belonged to these captions was never published."""

MATHWRITING = (
    "Write the formula in this image as LaTeX.",
    "Transcribe the handwritten expression into LaTeX.",
    "What is the LaTeX code of this formula?",
    "Convert this handwritten formula to LaTeX.",
)
"""Our own wording: the data set has formulas and no questions."""


def pick_prompt(prompts: Sequence[str], sample_id: str) -> str:
    """Choose a question that stays the same on every machine and in every order of rows.

    Args:
        prompts: At least one; another list may give every sample another question.
        sample_id: What tells the sample from others.
    """
    # Half surrogate pairs occur in published ids.
    text = sample_id.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, key=b"prompt", digest_size=8).digest()
    return prompts[int.from_bytes(digest, "little") % len(prompts)]
