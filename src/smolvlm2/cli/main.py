"""The ``smolvlm2`` command. Each command parses, calls one function, prints.

To add one: write a function with ``@app.command()`` here, and import the work inside it, so that
``smolvlm2 --help`` loads nothing heavy. Its docstring is its help text.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from smolvlm2.errors import SmolVLMError

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
data_app = typer.Typer(help="Look at prepared data as a whole.", rich_markup_mode=None)
app.add_typer(data_app, name="data")

Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto for the best one here.")]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Dtype = Annotated[Precision, typer.Option(help="Number type of the weights; auto is as saved.")]


def main() -> None:
    """Run the command line; an error meant for the user is one line and exit status 2."""
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


@app.command("demo-data")
def demo_data(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Draw the demo's pages and clips from handwritten digits."""
    from smolvlm2.data.demo_digits import write_demo_data

    summary = write_demo_data(out, seed=seed)
    for name, rows in summary.train_rows.items():
        print(f"{rows:6d} samples    {out / 'raw' / name}")
    for name, questions in summary.benchmarks.items():
        print(f"{questions:6d} questions  {out / 'held_out' / name}.jsonl")


@app.command()
def prepare(
    sources: Annotated[list[str], typer.Argument(help="Names of sources.")],
    tokenizer: Annotated[
        str, typer.Option(help="Text decoder or SmolVLM checkpoint whose tokenizer counts tokens.")
    ] = "HuggingFaceTB/SmolLM2-135M-Instruct",
    data: Annotated[Path, typer.Option(help="Data root, with raw/.", envvar="DATA_DIR")] = Path(
        "data"
    ),
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 works in this one.")] = 0,
    task: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Map only share I, from 0, of N; finish without it."),
    ] = None,
    consume: Annotated[
        bool, typer.Option("--consume", help="Delete raw files once their content is in shards.")
    ] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Keep the wanted frames of clips, not the files.")
    ] = False,
    frames_per_second: Annotated[float, typer.Option(help="With --frames.")] = 1.0,
    max_frames: Annotated[int, typer.Option(help="With --frames: most frames of a clip.")] = 64,
    frame_size: Annotated[
        int, typer.Option(help="With --frames: longest edge of a frame, in pixels.")
    ] = 512,
    max_left_out: Annotated[
        float, typer.Option(min=0, max=1, help="Fail when a source loses more than this share.")
    ] = 0.2,
) -> None:
    """Index raw data: manifest, geometry, and a ledger of every row left out."""
    from smolvlm2.cli.prepare import map_shares, prepare_sources
    from smolvlm2.data.kept_frames import FrameSettings
    from smolvlm2.data.prepare import PrepareSettings

    kept = FrameSettings(fps=frames_per_second, max_frames=max_frames, size=frame_size)
    settings = PrepareSettings(workers=workers, frames=kept if frames else None, consume=consume)
    if task is not None:
        map_shares(sources, data, task, settings)
        return
    raise typer.Exit(prepare_sources(sources, data, tokenizer, settings, max_left_out=max_left_out))


@app.command()
def plan(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE... [KEY=VALUE]...", help="Recipes, merged, and settings."),
    ],
    ranks: Annotated[int | None, typer.Option(min=1, help="Devices to deal the packs to.")] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, help="GiB of one device, to suggest capacities for.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="What the stage starts from, in place of components.")
    ] = None,
) -> None:
    """Plan a recipe's data: packs, steps, shares, waiting; reads no weights and no media."""
    from smolvlm2.cli.plan import describe_plan

    print(describe_plan(recipes, checkpoint=checkpoint, ranks=ranks, gpu_memory=gpu_memory))


RecipeFiles = Annotated[
    list[str] | None,
    typer.Option(help="Recipe by name or file, repeatable; default: SUBJECT's own, else 256M's."),
]
DataTokenizer = Annotated[
    str | None,
    typer.Option(help="As in prepare, or a run or checkpoint; default: the recipe's."),
]
DataRoot = Annotated[Path | None, typer.Option(help="Data root; default: the recipe's.")]


@app.command()
def inspect(
    subject: Annotated[str, typer.Argument(help="A prepared source, a mixture or a recipe.")],
    sample: Annotated[
        list[str] | None, typer.Option(help="A sample by its id, shown whole; repeatable.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples drawn, over all modalities.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    recipe: RecipeFiles = None,
    tokenizer: DataTokenizer = None,
    data: DataRoot = None,
    resample: Annotated[
        Literal["exact", "fast"], typer.Option(help="How images are resized; fast needs torch.")
    ] = "exact",
    output: Annotated[
        Path | None, typer.Option(help="The page; default: runs/inspect/SUBJECT.html.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print instead of writing a page.")] = False,
) -> None:
    """Show what the model will see: tiles, frames, tokens, labels, lengths, the ledger."""
    from smolvlm2.cli.inspect import inspect

    inspect(
        subject,
        sample_ids=sample or (),
        count=count,
        seed=seed,
        recipes=recipe or (),
        tokenizer=tokenizer,
        data=data,
        resample=resample,
        output=output,
        text=text,
    )


@data_app.command("stats")
def data_stats(
    subject: Annotated[str, typer.Argument(help="A mixture, a recipe or a prepared source.")],
    recipe: RecipeFiles = None,
    tokenizer: DataTokenizer = None,
    data: DataRoot = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Shares of samples, tokens, tiles and labels next to the mixture's weights."""
    from smolvlm2.cli.data_stats import data_stats

    print(data_stats(subject, recipes=recipe or (), tokenizer=tokenizer, data=data, as_json=json))


@data_app.command("contamination")
def data_contamination(
    sources: Annotated[list[str], typer.Argument(help="Names of prepared sources.")],
    benchmarks: Annotated[list[Path], typer.Option(help="Folder of benchmark images, repeatable.")],
    data: Annotated[
        Path, typer.Option(help="Data root, with prepared/.", envvar="DATA_DIR")
    ] = Path("data"),
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 works in this one.")] = 0,
) -> None:
    """Find training samples that show a benchmark's image; training leaves them out."""
    from smolvlm2.cli.contamination import find_contamination

    find_contamination(sources, benchmarks, data, workers=workers)


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
) -> None:
    """Write a checkpoint in Hugging Face format, adapters merged, and compare its logits."""
    from smolvlm2.training.export import export_checkpoint

    export_checkpoint(checkpoint, out)
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
_OWN_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_OWN_ARGUMENTS, add_help_option=False)
def download(context: typer.Context) -> None:
    """Fetch published data sets; flags: smolvlm2 download --help."""
    from smolvlm2.cli.download import benchmark_source
    from smolvlm2.data.download_datasets import run

    raise typer.Exit(run(context.args, benchmark_source=benchmark_source))


@app.command("train-vision", context_settings=_OWN_ARGUMENTS, add_help_option=False)
def train_vision(context: typer.Context) -> None:
    """Train the vision stage; flags: smolvlm2 train-vision --help."""
    from smolvlm2.training.command_line import run_stage

    run_stage("vision", context.args)


@app.command("train-video", context_settings=_OWN_ARGUMENTS, add_help_option=False)
def train_video(context: typer.Context) -> None:
    """Train the video stage; flags: smolvlm2 train-video --help."""
    from smolvlm2.training.command_line import run_stage

    run_stage("video", context.args)


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
        typer.Option(min=1, help="Only so many questions of each."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode ahead.")] = 2,
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
