"""No assignment of images to ranks hangs, and each equals one process."""

from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "matrix_worker.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "ranks"),
    [("full", 2), ("replicate", 2), ("full", 4), ("hybrid", 4), ("replicate", 4)],
)
def test_every_assignment_of_images_to_ranks_equals_one_process(run_ranks, layout, ranks):
    for rank in run_ranks([WORKER, layout], ranks, seconds=250):
        assert rank.code == 0, rank.output
        assert f"{2 * 3**ranks} steps" in rank.output
