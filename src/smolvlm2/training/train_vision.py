"""Train the vision stage: ``python -m smolvlm2.training.train_vision --help``."""

from importlib import import_module


def main() -> None:
    """Entry point of the specification's command.

    The specification puts it here, and what it starts lies in the room above, which brings
    evaluation and report along. The name is all that this room knows of it.
    """
    import_module("smolvlm2.cli.train").main("vision")


if __name__ == "__main__":
    main()
