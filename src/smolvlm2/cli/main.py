"""The ``smolvlm2`` command. Each command parses, calls one function, prints.

To add one: write a function with ``@app.command()`` here, and import the work inside it, so that
``smolvlm2 --help`` loads nothing heavy. Its docstring is its help text.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from smolvlm2.cli import data_commands
from smolvlm2.errors import SmolVLMError
from smolvlm2.training.launch import let_threads_sleep

# Plain help: the boxes of rich cost as much time as everything else together.
app = typer.Typer(
    name="smolvlm2",
    help="Train SmolVLM2 from its components, evaluate it and ask it questions.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="List, show and compare the shipped recipes.", rich_markup_mode=None)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_commands.commands)
app.add_typer(data_commands.data_app, name="data")

Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: cuda where it is, else cpu.")]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Dtype = Annotated[Precision, typer.Option(help="Number type of the weights; auto is as saved.")]


def main() -> None:
    """Run the command line; an error meant for the user is one line and exit status 2."""
    let_threads_sleep(os.environ)
    try:
        app()
    except SmolVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/demo"),
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings for both stages' recipes."),
    ] = None,
) -> None:
    """Make, train, evaluate and report a tiny model, in minutes on a CPU."""
    from smolvlm2.cli.demo import run_demo

    run_demo(output, tuple(overrides or ()))


@app.command()
def estimate(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE... [KEY=VALUE]...", help="Recipes, merged, and settings."),
    ] = None,
    gpu: Annotated[str, typer.Option(help="rtx4090, a100-40, h100 or h200.")] = "h100",
    gpus: Annotated[int | None, typer.Option(min=1, help="Devices; default: the recipe's.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder: print its log beside the estimate.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="What the stage starts from, in place of components.")
    ] = None,
) -> None:
    """Memory, time, GPU-hours and disk of a stage on a named GPU, on paper."""
    from smolvlm2.cli.estimate import describe_estimate

    print(describe_estimate(recipes or [], gpu=gpu, gpus=gpus, run=run, checkpoint=checkpoint))


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="A run, a step folder or a hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    scores: Annotated[
        Path | None, typer.Option(help="JSON file of an evaluation, for the model card.")
    ] = None,
) -> None:
    """Write a checkpoint in Hugging Face format, adapters merged, and compare its logits.

    What comes from a run gets a model card, README.md, unless there is one.
    """
    from smolvlm2.cli.evaluate import scores_of
    from smolvlm2.training.export import export_checkpoint

    export_checkpoint(checkpoint, out, scores=None if scores is None else scores_of(scores))
    print(out)


@app.command()
def average(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    steps: Annotated[list[int], typer.Argument(help="Steps whose checkpoints are averaged.")],
    output: Annotated[Path, typer.Option(help="Folder to write to.")],
) -> None:
    """Write the mean of several checkpoints' weights in Hugging Face format."""
    from smolvlm2.training.export import average_checkpoints

    average_checkpoints(run, steps, output)
    print(output)


# The training commands have the specification's flags and key=value; their module parses both.


@app.command("train-vision", context_settings=data_commands.OWN_ARGUMENTS, add_help_option=False)
def train_vision(context: typer.Context) -> None:
    """Train the vision stage; flags: smolvlm2 train-vision --help."""
    from smolvlm2.cli.train import train

    train("vision", context.args)


@app.command("train-video", context_settings=data_commands.OWN_ARGUMENTS, add_help_option=False)
def train_video(context: typer.Context) -> None:
    """Train the video stage; flags: smolvlm2 train-video --help."""
    from smolvlm2.cli.train import train

    train("video", context.args)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    data: Annotated[
        str | None, typer.Option(help="Data root; default: where the run read its data.")
    ] = None,
) -> None:
    """Compare what a run really trained on with its plan; exit status 1 when they differ."""
    from smolvlm2.cli.audit import print_audit

    raise typer.Exit(print_audit(run, data))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    output: Annotated[
        Path | None, typer.Option(help="HTML file; default: report.html in the run folder.")
    ] = None,
) -> None:
    """Write one HTML page of a run: curves, times, skips, checkpoints, recipe."""
    from smolvlm2.cli.run_report import write_run_report

    print(write_run_report(run, output))


@app.command()
def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="A run, a checkpoint folder, a hub id; a name at an endpoint.")
    ],
    benchmarks: Annotated[str, typer.Option(help="Names, with commas between.")],
    data: Annotated[
        Path, typer.Option(help="Data root, or folder with the question files.", envvar="DATA_DIR")
    ] = Path("data"),
    output: Annotated[
        Path | None,
        typer.Option(help="JSON file of the scores; a table and the answers are kept beside it."),
    ] = None,
    prompt_style: Annotated[
        Literal["native", "vlmevalkit", "lmms"], typer.Option(help="Whose prompts are used.")
    ] = "native",
    backend: Annotated[
        Literal["smolvlm2", "transformers", "endpoint"],
        typer.Option(help="What runs the checkpoint."),
    ] = "smolvlm2",
    address: Annotated[
        str | None, typer.Option(help="Of an OpenAI-compatible server, up to /v1.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for a request to it.")] = 120.0,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many questions of each, from all its files."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 16,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that decode ahead; default: by the cores, 2 to 16."),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of a clip, instead of the checkpoint's.")
    ] = None,
    longest_edge: Annotated[
        int | None, typer.Option(min=1, help="Pixels of an image, instead of the checkpoint's.")
    ] = None,
    blank_images: Annotated[
        bool, typer.Option("--blank-images", help="Grey pictures: what guessing alone scores.")
    ] = False,
    control: Annotated[
        bool, typer.Option("--control", help="Ask on grey pictures too, for the table.")
    ] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score earlier answers again, without the model.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Score a checkpoint on benchmarks."""
    from smolvlm2.cli.evaluate import EvaluationOptions, evaluate_checkpoint

    evaluate_checkpoint(
        checkpoint,
        [name.strip() for name in benchmarks.split(",") if name.strip()],
        data,
        output=output,
        options=EvaluationOptions(
            style=prompt_style,
            backend=backend,
            address=address,
            timeout_s=timeout,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            max_frames=max_frames,
            longest_edge=longest_edge,
            blank_images=blank_images,
            control=control,
            rescore=rescore,
            device=device,
            dtype=dtype,
        ),
    )


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="JSON file of `smolvlm2 evaluate --output`.")],
    b: Annotated[Path, typer.Argument(help="Another, over the same questions.")],
) -> None:
    """Compare two evaluations question by question, with significance."""
    from smolvlm2.cli.evaluate import compare_files

    print(compare_files(a, b), end="")


@app.command()
def generate(
    checkpoint: Annotated[str, typer.Argument(help="A run, a checkpoint folder or a hub id.")],
    prompt: Annotated[
        str, typer.Option(help="The question; <image> and <video> in it place the media.")
    ] = "Describe this.",
    image: Annotated[
        list[Path] | None,
        typer.Option(help="An image file; repeat for several."),
    ] = None,
    video: Annotated[
        list[Path] | None,
        typer.Option(help="A video file; repeat for several."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the likeliest token; more is more random.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=1e-6, max=1, help="Sample among tokens of this joint probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Answer a question about images, videos, or neither."""
    from smolvlm2.cli.generate import generate_answer

    print(
        generate_answer(
            checkpoint,
            prompt,
            images=image or (),
            videos=video or (),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            device=device,
            dtype=dtype,
        )
    )


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List, show and compare the shipped recipes."""
    if context.invoked_subcommand is None:
        from smolvlm2.cli.recipes import list_recipes

        print(list_recipes())


@recipes_app.command("show")
def recipes_show(
    name: Annotated[str, typer.Argument(help="A name from `smolvlm2 recipes`, or a file.")],
) -> None:
    """Print a recipe with everything that it extends merged in."""
    from smolvlm2.cli.recipes import show_recipe

    print(show_recipe(name), end="")


@recipes_app.command("diff")
def recipes_diff(
    a: Annotated[
        str | None,
        typer.Argument(help="A recipe; default: model and both stages, in turn."),
    ] = None,
    b: Annotated[
        str | None,
        typer.Argument(help="Another; default: the published counterpart of the first."),
    ] = None,
) -> None:
    """Print where two recipes differ, and why."""
    from smolvlm2.cli.recipes import diff_recipes

    print(diff_recipes(a, b))


@app.command()
def version() -> None:
    """Print the version."""
    from smolvlm2 import __version__

    print(__version__)


if __name__ == "__main__":
    main()
