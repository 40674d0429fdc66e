"""Train the video stage: ``python -m smolvlm2.training.train_video --help``."""

from smolvlm2.training.command_line import exit_on_error, run_stage


def main() -> None:
    """Entry point of the specification's command."""
    exit_on_error(lambda: run_stage("video"))


if __name__ == "__main__":
    main()
