"""Commands about data: make, fetch, prepare, look, plan. `main` joins them to the others.

As there, each imports its work inside.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

commands = typer.Typer(rich_markup_mode=None)
data_app = typer.Typer(help="Look at prepared data as a whole.", rich_markup_mode=None)

# These commands have the specification's own flags; their modules parse them.
OWN_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
StartingPoint = Annotated[
    str | None, typer.Option(help="What the stage starts from, in place of components.")
]


@commands.command("demo-data")
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


@commands.command()
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
    frames_per_second: Annotated[
        float | None, typer.Option(help="With --frames; default: 1.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(help="With --frames: most frames of a clip; default: 64.")
    ] = None,
    frame_size: Annotated[
        int | None,
        typer.Option(help="With --frames: longest edge of a frame, in pixels; default: 512."),
    ] = None,
    max_left_out: Annotated[
        float, typer.Option(min=0, max=1, help="Fail when a source loses more than this share.")
    ] = 0.2,
) -> None:
    """Index raw data: manifest, geometry, and a ledger of every row left out."""
    from smolvlm2.cli.prepare import frame_settings, map_shares, prepare_sources
    from smolvlm2.data.prepare import PrepareSettings

    kept = frame_settings(frames, fps=frames_per_second, max_frames=max_frames, size=frame_size)
    settings = PrepareSettings(workers=workers, frames=kept, consume=consume)
    if task is not None:
        map_shares(sources, data, task, settings)
        return
    raise typer.Exit(prepare_sources(sources, data, tokenizer, settings, max_left_out=max_left_out))


@commands.command()
def plan(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE... [KEY=VALUE]...", help="Recipes, merged, and settings."),
    ],
    ranks: Annotated[int | None, typer.Option(min=1, help="Devices to deal the packs to.")] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, help="GiB of one device, to suggest capacities for.")
    ] = None,
    checkpoint: StartingPoint = None,
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
    typer.Option(help="As in prepare, or a run; default: the checkpoint's or the recipe's."),
]
DataRoot = Annotated[Path | None, typer.Option(help="Data root; default: the recipe's.")]


@commands.command()
def inspect(
    subject: Annotated[str, typer.Argument(help="A prepared source, a mixture or a recipe.")],
    sample: Annotated[
        list[str] | None, typer.Option(help="A sample by its id, shown whole; repeatable.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples drawn, over all modalities.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    recipe: RecipeFiles = None,
    tokenizer: DataTokenizer = None,
    checkpoint: StartingPoint = None,
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
        checkpoint=checkpoint,
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
    checkpoint: StartingPoint = None,
    data: DataRoot = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Shares of samples, tokens, tiles and labels next to the mixture's weights."""
    from smolvlm2.cli.data_stats import data_stats

    print(
        data_stats(
            subject,
            recipes=recipe or (),
            tokenizer=tokenizer,
            checkpoint=checkpoint,
            data=data,
            as_json=json,
        )
    )


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


@commands.command(context_settings=OWN_ARGUMENTS, add_help_option=False)
def download(context: typer.Context) -> None:
    """Fetch published data sets; flags: smolvlm2 download --help."""
    from smolvlm2.cli.download import benchmark_source
    from smolvlm2.data.download_datasets import run

    raise typer.Exit(run(context.args, benchmark_source=benchmark_source))
