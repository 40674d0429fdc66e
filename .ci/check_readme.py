"""Run what the README shows, after `make demo`: its Python and its `smolvlm2` commands.

What a launcher starts is run on two processes and as a dry run.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
SKIPPED = ("git clone", "make ", "source ", "./scripts/", "pip ")
"""Commands that install, or that the caller has just run."""


def commands(text: str) -> list[str]:
    """Shell commands of the README, continuation lines joined."""
    lines = [
        line.split("  #")[0].strip()
        for language, body in BLOCK.findall(text)
        if language == "bash"
        for line in body.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith(SKIPPED)]


if __name__ == "__main__":
    repo, bin_folder = Path(__file__).parent.parent, Path(sys.executable).parent
    text = (repo / "README.md").read_text(encoding="utf-8")
    for command in commands(text):
        print(f"$ {command}", flush=True)
        if command.startswith("accelerate launch"):
            command = f"{command.replace('launch', 'launch --num_processes 2', 1)} --dry-run"
        names = r"^(smolvlm2|python|accelerate)\b"
        command = re.sub(names, lambda name: f"{bin_folder}/{name[0]}", command)
        subprocess.run(command, shell=True, check=True, cwd=repo, stdout=subprocess.DEVNULL)
    snippets = [body for language, body in BLOCK.findall(text) if language == "python"]
    with tempfile.TemporaryDirectory() as export:
        for snippet in snippets:
            print("python snippet", flush=True)
            code = snippet.replace('"export"', repr(export))
            subprocess.run([sys.executable, "-c", code], check=True, cwd=repo)
    print(f"readme: {len(commands(text))} commands and {len(snippets)} snippets ran")
