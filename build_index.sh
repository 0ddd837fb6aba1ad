#!/usr/bin/env bash
# Build the suffix-array index of one or more token folders: 1 s for the digits.
#
#   ./build_index.sh                                                            (--help lists the options)
#   ./build_index.sh --tokens data/food101 data/cifar100 --index data/both
#
# Reads the token folders, writes --index-input (tokenized.0, offset.0) and --index (what Fastgram opens). The builder
# auto is Fastgram's tg_build_index where it is found ($TG_BUILD_INDEX, the PATH, Fastgram/build/), divsufsort elsewhere; all
# builders write the same bytes. The table is verified before the index appears; a finished one is left alone.
# Paths are those of the folder that you stand in, as with the other scripts.
set -euo pipefail

project="$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
PYTHON="${PYTHON:-$project/.venv/bin/python}"
command -v "$PYTHON" > /dev/null || { echo "error: no Python at $PYTHON: run \`make setup\` in $project" >&2; exit 1; }

# -P: what lies in the folder that you stand in is no part of the program.
PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -P -m imagegram.index build "$@"
