#!/usr/bin/env bash
# Build the suffix-array index of one or more token folders: 1 s for the digits.
#
#   ./build_index.sh
#   TOKENS="data/food101 data/cifar100" INDEX=data/both ./build_index.sh
#
# Reads TOKENS, writes INDEX_INPUT (tokenized.0, offset.0) and INDEX (what Fastgram opens). BUILDER=auto is Fastgram's
# tg_build_index where it is found ($TG_BUILD_INDEX, the PATH, Fastgram/build/), numpy elsewhere; all builders write the
# same bytes. The table is verified before INDEX appears; a finished INDEX is left alone.
set -euo pipefail
cd "$(dirname "$0")"

TOKENS="${TOKENS:-data/tokens}"                # token folders, separated by spaces
INDEX_INPUT="${INDEX_INPUT:-data/index_input}" # the flat corpus, input of the builders
INDEX="${INDEX:-data/index}"                   # the finished index
BUILDER="${BUILDER:-auto}"                     # auto | tg_build_index | numpy | divsufsort | infini-gram
SHARD_IMAGES="${SHARD_IMAGES:-0}"              # images a shard; 0: all in one
WORKERS="${WORKERS:-1}"                        # shards built at once, 14 bytes of memory a token each
PYTHON="${PYTHON:-.venv/bin/python}"

# shellcheck disable=SC2086  # TOKENS is a list
exec "$PYTHON" -m imagegram.index build --tokens $TOKENS --index-input "$INDEX_INPUT" --out "$INDEX" \
    --builder "$BUILDER" --shard-images "$SHARD_IMAGES" --workers "$WORKERS"
