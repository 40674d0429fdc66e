"""How a command of training ends when it does not end in order."""

import pytest

from smolvlm2.errors import ConfigError
from smolvlm2.training.distributed import shared
from smolvlm2.training.leaving import exit_on_error


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_what_all_ranks_found_out_is_said_by_rank_0_alone(monkeypatch, capsys, variable):
    def fail():
        raise shared(ConfigError("fewer data than ranks"))

    monkeypatch.delenv("RANK", raising=False)
    for rank in ("0", "7"):
        monkeypatch.setenv(variable, rank)
        with pytest.raises(SystemExit):
            exit_on_error(fail)
        assert bool(capsys.readouterr().err) is (rank == "0")


def test_ctrl_c_is_one_line_and_status_130(capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        exit_on_error(interrupted)
    assert exit_.value.code == 130
    assert capsys.readouterr().err.startswith("interrupted: started again, a run goes on")


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_on_error(lambda: 1 / 0)
