#!/usr/bin/env bash
# Makes .venv in this clone and installs what this machine can use. Quick when nothing changed.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/setup_environment.sh [--extra NAMES]

Makes .venv and installs this package with the extras for this machine:
  NVIDIA GPU      cloud,dev
  Apple silicon   local,dev
  otherwise       local,dev, with a CPU build of torch where pip finds one (constraints-cpu.txt)

  --extra NAMES   install these extras of pyproject.toml instead, such as `cloud` or `local,dev`
  PYTHON=path     use this Python, 3.11 or newer (the package alone runs on 3.10 too)
TEXT
}

extra=""
while [ $# -gt 0 ]; do
  case "$1" in
    --extra) [ $# -ge 2 ] || { echo "error: --extra wants a name" >&2; exit 2; }; extra="$2"; shift 2 ;;
    --extra=*) extra="${1#*=}"; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."

if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
  machine="an NVIDIA GPU" chosen="cloud,dev" constraints=""
elif [ "$(uname -s)" = "Darwin" ]; then
  machine="Apple silicon" chosen="local,dev" constraints=""
else
  machine="no accelerator" chosen="local,dev" constraints="constraints-cpu.txt"
fi
if [ -n "$extra" ]; then
  chosen="$extra"
  case ",$extra," in *,cloud,*) constraints="" ;; esac # asked for CUDA, so torch is not pinned
fi

# On a Mac torch and mlx are built for arm64 only; a Python under Rosetta says x86_64.
usable='import platform, sys
intel_mac = sys.platform == "darwin" and platform.machine() != "arm64"
sys.exit(sys.version_info < (3, 11) or intel_mac)'
expected="Python 3.11 or newer"
[ "$machine" != "Apple silicon" ] || expected="$expected for arm64 (torch has no wheels for Intel Macs)"
python=""
for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
  if "$candidate" -c "$usable" 2>/dev/null; then
    python="$candidate"
    break
  elif [ "$candidate" = "${PYTHON:-}" ]; then
    echo "error: PYTHON=$PYTHON is not a $expected" >&2
    exit 1
  fi
done
[ -n "$python" ] || { echo "error: no $expected found; install one or set PYTHON" >&2; exit 1; }

stamp=.venv/installed
want="$chosen $("$python" -V) $(pwd) $(cat pyproject.toml constraints-cpu.txt scripts/setup_environment.sh | cksum)"
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && [ -x .venv/bin/smolvlm2 ]; then
  touch "$stamp"
  echo "setup: .venv is up to date ($machine, extras: $chosen)"
  exit 0
fi

echo "setup: found $machine; installing extras '$chosen' into .venv with $("$python" -V)"
if ! .venv/bin/python -c "$usable" 2>/dev/null; then
  rm -rf .venv
  "$python" -m venv .venv || {
    echo "error: '$python -m venv' failed; on Debian and Ubuntu install python3-venv" >&2
    exit 1
  }
fi
rm -f "$stamp"

# What an index calls torch is for CUDA on Linux, unless the version ends in +cpu; pip prefers that one.
torch="$(sed -n 's/^torch==//p' constraints-cpu.txt)"
if [ -n "$constraints" ] && [ "$(uname -sm)" = "Linux x86_64" ] \
  && ! .venv/bin/python -c 'import torch' 2>/dev/null \
  && ! .venv/bin/python -m pip index versions torch 2>/dev/null | grep -qF "$torch+cpu"; then
  echo "note: pip finds torch $torch with CUDA's libraries only, gigabytes that do no harm. To save them, end this,"
  echo "      set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds (pytorch.org, Get Started, CPU) and start again"
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
  ${constraints:+-c "$constraints"} -e ".[$chosen]"
printf '%s\n' "$want" >"$stamp"

echo "setup: done. Next:"
echo "  make demo                      train and test a tiny model"
echo "  source .venv/bin/activate      then: smolvlm2 --help"
