#!/usr/bin/env bash
# What a CUDA GPU makes of the whole project, in under 14 minutes.
#
#   benchmarks/on_a_gpu.sh                 # into data/gpu; again: what is not done yet
#   TINY=1 benchmarks/on_a_gpu.sh FOLDER   # the same commands at toy sizes, for a CPU
#
# Every step has a limit of its own, and one that fails stops no other. The folder holds NAME.log of
# each, NAME.done of those that are done, and results.tsv: name, seconds, exit status (124: out of
# time), GPU. FlexTok's steps need requirements-flextok.txt, and use random weights of the size of
# flextok_d18_d28_dfn: speed needs no others.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
out=$(readlink -m "${1:-data/gpu}")
python="${PYTHON:-.venv/bin/python}"
export PYTHON="$python" PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
last=${SECONDS_IN_ALL:-810}  # after so many no step begins, and what runs is stopped
mkdir -p "$out"
exec 9>"$out/.lock"
flock -n 9 || { echo "error: $out is in use" >&2; exit 1; }
gpu=$("$python" -c 'import torch
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")')
if [ "$gpu" = "no GPU" ] && [ -z "${TINY:-}" ]; then
    echo "error: no CUDA GPU (TINY=1: toy sizes on a CPU)" >&2
    exit 1
fi
echo "$gpu, into $out"

if [ -z "${TINY:-}" ]; then
    shape=D18_D28 images=1500 decoded=64 waves=225000 drawn=596 scenes=20000 scenes_drawn=40000
    bench=()
    training=(--image-size 64 --dataset emoji --tokens 64 --levels 8 8 8 5 5 5 --encoder-steps 2000)
    training+=(--decoder-steps 4000)
else
    shape='Shape()' images=60 decoded=2 waves=60 drawn=4 scenes=200 scenes_drawn=64
    bench=(--small --repeats 1 --timesteps 2)
    training=(--image-size 64 --dataset digits --images 200 --encoder-steps 4 --decoder-steps 4)
fi

step() {  # NAME SECONDS COMMAND...
    local name=$1 limit=$2 began=$SECONDS status=0
    shift 2
    [ ! -e "$out/$name.done" ] || return 0
    limit=$((limit < last - SECONDS ? limit : last - SECONDS))
    [ "$limit" -gt 5 ] || { echo "$name: no time left, the same command goes on"; return 1; }
    timeout -k 10 "$limit" "$@" >>"$out/$name.log" 2>&1 9>&- || status=$?
    [ $status != 0 ] || touch "$out/$name.done"
    printf '%s\t%d\t%d\t%s\n' "$name" $((SECONDS - began)) $status "$gpu" |
        tee -a "$out/results.tsv"
    return $status
}

flextok_files() {  # a folder as the hub would have it, by the CPU, beside the GPU's work
    step flextok_files 300 env CUDA_VISIBLE_DEVICES= "$python" -c "
import shutil, sys; from pathlib import Path
from tests.support.random_flextok import D18_D28, Shape, save_random_flextok
shutil.rmtree(sys.argv[1], ignore_errors=True)
save_random_flextok(Path(sys.argv[1]), $shape)" "$out/flextok"
}

waves() {  # scenes as 256 tokens from coarse to fine, likewise
    step waves 300 env CUDA_VISIBLE_DEVICES= "$python" -c "
import shutil, sys; from pathlib import Path; from benchmarks.corpora import frequencies
shutil.rmtree(sys.argv[1], ignore_errors=True)
frequencies(Path(sys.argv[1]), $waves)" "$out/waves_corpus"
}

kernel_scenes() {
    "$python" tokenize_fast.py --dataset shapes --images $scenes --out "$out/scenes/tokens" &&
        ./build_index.sh --tokens "$out/scenes/tokens" --index-input "$out/scenes/input" \
            --index "$out/scenes/index" &&
        "$python" -m benchmarks.bench_kernel --index "$out/scenes/index" --drawn $scenes_drawn
}

flextok_pictures() {
    "$python" tokenize_fast.py --dataset shapes --images $images --codec "$out/flextok" \
        --batch-size 64 --out "$out/pictures/tokens" &&
        ./build_index.sh --tokens "$out/pictures/tokens" --index-input "$out/pictures/input" \
            --index "$out/pictures/index" &&
        "$python" generate_images.py --index "$out/pictures/index" --sequences 100 \
            --decoded $decoded --prefixes 1 ${TINY:+--timesteps 2} --out "$out/pictures/made" \
            aligned --context 2
}

export out python images scenes scenes_drawn decoded TINY="${TINY:-}"
export -f kernel_scenes flextok_pictures
files=""
"$python" -c 'import flextok' 2>/dev/null && { flextok_files & files=$!; }
waves &
corpus=$!
[ -z "$files" ] || step bench_flextok 260 "$python" -m benchmarks.bench_flextok "${bench[@]}"
step kernel_scenes 90 bash -c kernel_scenes
step training 200 "$python" train_tiny_flextok.py "${training[@]}" --out "$out/training"
if [ -n "$files" ] && wait "$files"; then step flextok_pictures 200 bash -c flextok_pictures; fi
if wait $corpus; then
    step kernel_waves 260 "$python" -m benchmarks.bench_kernel --folder "$out/waves_corpus" \
        --drawn $drawn
fi
[ -n "$files" ] || echo "flextok is not installed (requirements-flextok.txt): two steps left out"
echo "all results: $out/results.tsv; done: $(cd "$out" && ls ./*.done 2>/dev/null | tr '\n' ' ')"
