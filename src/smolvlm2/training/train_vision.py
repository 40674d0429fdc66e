"""Train the vision stage: ``python -m smolvlm2.training.train_vision --help``."""

from smolvlm2.training.command_line import exit_on_error, run_stage


def main() -> None:
    """Entry point of the specification's command."""
    exit_on_error(lambda: run_stage("vision"))


if __name__ == "__main__":
    main()
