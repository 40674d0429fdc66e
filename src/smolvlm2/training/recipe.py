"""A whole run in one dataclass, composed of the settings of every room.

Files merge in this order: defaults, ``model_*.yaml``, ``train_*.yaml``, then ``key=value`` from the
command line. The merged result is saved with every run.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from smolvlm2.config import load_raw
from smolvlm2.data.mixture import MixtureSettings
from smolvlm2.errors import ConfigError
from smolvlm2.loading.loader import SAMPLE_TIMEOUT_S
from smolvlm2.loading.micro_batch import LossWeight
from smolvlm2.loading.sample_table import LimitSettings
from smolvlm2.model.component_shapes import ComponentSettings
from smolvlm2.plan.packs import PackSettings
from smolvlm2.processing.tiling import ImageSettings
from smolvlm2.processing.video import VideoSettings
from smolvlm2.training.launch import ParallelSettings
from smolvlm2.training.optimizer import OptimizerSettings
from smolvlm2.training.schedule import ScheduleSettings
from smolvlm2.training.training_settings import TrainingSettings
from smolvlm2.training.writers import LoggingSettings

MODEL_FILE = "model_256m.yaml"
"""Read before a recipe that names no model."""


@dataclass(kw_only=True)
class DataSettings:
    """Where the data are and how they are read."""

    root: str = "data"
    """Folder that holds ``prepared/``; the environment variable DATA_DIR replaces the default."""
    mixture: MixtureSettings | None = None
    """Sources and their shares of the samples; a run needs one, ``configs/mixtures/`` has some."""
    workers: int = 2
    """Processes that read and process samples; 0 reads in the main process."""
    sample_timeout_s: float = SAMPLE_TIMEOUT_S
    """Seconds that a worker may take for one sample before it is killed and the sample skipped;
    without workers only ``video.timeout_s`` holds, between frames."""
    skip_ids: list[str] = field(default_factory=list)
    """Samples to leave out."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"data.workers is {self.workers}, expected 0 or more")
        if not self.sample_timeout_s > 0:
            raise ConfigError(
                f"data.sample_timeout_s is {self.sample_timeout_s}, expected more than 0"
            )


@dataclass(kw_only=True)
class EncoderSettings:
    """How the vision encoder computes; leaves the result as it is. Only adapters' dropout draws its
    masks chunk by chunk."""

    tile_chunk: int | None = None
    """Tiles that go through a block at a time: with recomputation, memory for one chunk's
    activations instead of a pack's; null: all."""

    def __post_init__(self) -> None:
        if self.tile_chunk is not None and self.tile_chunk < 1:
            raise ConfigError(f"encoder.tile_chunk is {self.tile_chunk}, expected at least 1")


@dataclass(kw_only=True)
class LossSettings:
    """What one step minimises."""

    weight: LossWeight = "token"
    """``token``: every supervised token counts 1; ``sample``: every sample counts 1; ``sqrt``: a
    sample counts the square root of its supervised tokens."""


@dataclass(kw_only=True)
class CheckpointSettings:
    """When the run is saved."""

    every_steps: int = 500
    """Steps between checkpoints."""
    keep: int = 3
    """Newest checkpoints that stay."""
    background: bool | None = None
    """Write while training goes on, from a copy in CPU memory; null: on CUDA only, since on a CPU
    the writing would take its time from the training."""

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.keep < 1:
            raise ConfigError("checkpoint.every_steps and checkpoint.keep must be at least 1")


@dataclass(kw_only=True)
class SegmentSettings:
    """What changes from a step on; what is not given stays as it was before."""

    first_step: int
    """Optimiser step at which the change begins."""
    mixture: MixtureSettings | None = None
    """Sources and shares; a source that both have goes on where it was left."""
    pack: PackSettings | None = None
    """Capacity of a pack. All packs of a run take the memory of the largest."""
    gradient_accumulation_steps: int | None = None
    """As under ``training``: more make a larger batch."""

    def __post_init__(self) -> None:
        if self.first_step < 1:
            raise ConfigError(f"segments: first_step is {self.first_step}, expected at least 1")
        steps = self.gradient_accumulation_steps
        if steps is not None and steps < 1:
            raise ConfigError(
                f"segments: gradient_accumulation_steps is {steps}, expected at least 1"
            )


@dataclass(kw_only=True)
class ValidationSettings:
    """The loss on samples that training does not use."""

    mixture: MixtureSettings | None = None
    """Sources or subsets that ``data.mixture`` leaves out, each gone through once; null: none."""
    samples: int = 512
    """Samples of the mixture's order that are used, the same ones each time."""
    every_steps: int = 500
    """Optimiser steps between two; the last step has one too."""

    def __post_init__(self) -> None:
        for name in ("samples", "every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"validation.{name} is {getattr(self, name)}, expected at least 1"
                )


@dataclass(kw_only=True)
class EvaluationSettings:
    """Questions of benchmarks that the model in training answers."""

    benchmarks: list[str] = field(default_factory=list)
    """Names as ``smolvlm2 evaluate`` takes them, or YAML files; none: no evaluation."""
    data_root: str | None = None
    """Where their questions lie; null: ``data.root``."""
    limit: int = 100
    """Questions of each, from all of its files."""
    every_steps: int = 2000
    """Optimiser steps between two; the last step has one too."""
    batch_size: int = 16
    """Questions answered together."""

    def __post_init__(self) -> None:
        for name in ("limit", "every_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"evaluation.{name} is {getattr(self, name)}, expected at least 1"
                )


@dataclass(kw_only=True)
class Recipe:
    """One stage of training."""

    stage: Literal["vision", "video"] = "vision"
    """Which of the two stages; names the run's folder and nothing else."""
    model: ComponentSettings = field(default_factory=ComponentSettings)
    """The parts to start from; unused when a stage starts from a checkpoint."""
    image: ImageSettings = field(default_factory=ImageSettings)
    """How images become tiles."""
    video: VideoSettings = field(default_factory=VideoSettings)
    """How clips become frames."""
    data: DataSettings = field(default_factory=DataSettings)
    """Where the data are."""
    limits: LimitSettings = field(default_factory=LimitSettings)
    """Which samples are admitted."""
    pack: PackSettings = field(default_factory=PackSettings)
    """Capacity of a pack."""
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    """How the vision encoder computes."""
    loss: LossSettings = field(default_factory=LossSettings)
    """What is minimised."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How it is trained."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """How gradients become updates."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """How the learning rate changes."""
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    """How it is spread over processes."""
    segments: list[SegmentSettings] = field(default_factory=list)
    """Changes of the data at later steps, in order: a curriculum, or a batch that grows."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    """When the run is saved."""
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    """What the loss on unseen samples is taken of."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """What the model is asked on the way."""
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    """Where else its numbers go."""


def with_model(files: list[Path]) -> list[Path]:
    """Files of a recipe, behind the smaller model's where they name none.

    The model's file is the one beside the last of them that has one: published recipes have theirs.
    """
    beside = [file.parent / MODEL_FILE for file in files if (file.parent / MODEL_FILE).is_file()]
    return [*([] if "model" in load_raw(*files) else beside[-1:]), *files]
