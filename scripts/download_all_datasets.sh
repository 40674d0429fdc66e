#!/usr/bin/env bash
# Fetches the data sets of both stages, or of one, and prepares those that arrived whole.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/download_all_datasets.sh DATA_DIR [vision|video] [--no-prepare] [OPTION]...

Fetches to DATA_DIR/raw, then prepares to DATA_DIR/prepared. Options of `smolvlm2 download` can follow:
--preview shows sizes, licences and free disk, and ends there; --max-gb takes less; --yes does not ask.
  --no-prepare    only fetch
TEXT
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  "" | -*) echo "error: expected the data folder first" >&2; usage >&2; exit 2 ;;
esac
data="$1" stage=all prepare=yes options=()
shift
case "${1:-}" in vision | video | all) stage="$1"; shift ;; esac
for argument in "$@"; do
  case "$argument" in
    --no-prepare) prepare="" ;;
    --preview) prepare=""; options+=("$argument") ;;
    *) options+=("$argument") ;;
  esac
done

python="$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python"
[ -x "$python" ] || python=python3
download=("$python" -m smolvlm2.data.download_datasets "$stage" --data "$data" ${options[@]+"${options[@]}"})

status=0
"${download[@]}" || status=$?
# 3: a part is missing, such as a gated set; the others can be prepared.
if [ -n "$prepare" ] && { [ "$status" -eq 0 ] || [ "$status" -eq 3 ]; }; then
  names="$("${download[@]}" --fetched)"
  # shellcheck disable=SC2086 # names of sources have no spaces
  [ -z "$names" ] || "$python" -m smolvlm2.cli.main prepare $names --data "$data" \
    --workers "$("$python" -c 'import os; print(os.cpu_count())')"
fi
exit "$status"
