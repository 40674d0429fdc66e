"""What ``smolvlm2 download --benchmarks`` adds: benchmarks as sources to fetch."""

from smolvlm2.data.sources.catalogue import Repo, Source


def benchmark_source(name: str) -> Source:
    """The repository of a benchmark, in the form that a download is planned from.

    Raises:
        ConfigError: No such benchmark, or it is published nowhere.
    """
    from smolvlm2.evaluation.benchmark import download_plan

    hub = download_plan(name)
    repo = Repo(
        hub_id=hub.repo, files=tuple(hub.patterns), revision=hub.revision or "main", pinned=False
    )
    return Source(
        name=name,
        title=f"Benchmark {name}",
        stages=(),
        modality="questions and media",
        adapter_name="",
        repos=(repo,),
        size_gb=None,
        size_is="unknown",
        rows=None,
        licence="unknown; see the page of the repository",
    )
