#!/usr/bin/env bash
# tools/benches/gpu.sh [OUT]: everything that docs/speed.md says of a GPU, in under eight minutes and one JSON.
#
# Needs one NVIDIA GPU and `pip install -e ".[train,cuda]"`. open_clip is measured if it can be imported:
# `pip install torch torchvision open_clip_torch`. A part that fails or takes too long is noted, and the rest goes on.
# Parts are in order of worth, because the last ones are left out when the time is over.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/gpu}
mkdir -p "$out"
end=$((SECONDS + ${LIMIT_S:-460}))
# One program per process would otherwise compile what the one before it has compiled.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}
b16="--size 224 --patch 16 --width 768 --depth 12 --heads 12 --length 64 --dtype bfloat16 --attention cudnn --parts 0"

part() { # part NAME SECONDS COMMAND...: runs it, with its output in NAME.log
    local name=$1 most=$2 left=$((end - SECONDS))
    shift 2
    ((left > 5)) || { echo "$name: no time left"; echo "no time left" > "$out/$name.failed"; return; }
    rm -f "$out/$name.json" "$out/$name.failed"
    timeout $((most < left ? most : left)) "$@" > "$out/$name.log" 2>&1
    local status=$?
    ((status == 0)) || echo "status $status: $(tail -n 1 "$out/$name.log")" > "$out/$name.failed"
    echo "$name: status $status"
}
bench() { # bench NAME SECONDS ARGUMENTS...
    local name=$1 most=$2
    shift 2
    part "$name" "$most" python -m tools.bench "$@" --json "$out/$name.json"
}

# The backward pass first: a step's time means nothing if its gradients are not numbers.
bench attention-196 40 attention --tokens 196
bench attention-64 40 attention --tokens 64
bench attention-196-negative 40 attention --tokens 196 --negative 1000 --rounds 0
bench attention-64-negative 40 attention --tokens 64 --negative 1000 --rounds 0
# shellcheck disable=SC2086 # b16 is several words
bench step-256 150 step $b16 --batch 256
bench step-1024 120 step $b16 --batch 1024 --rounds 5 --peers "open_clip compiled"
for lead in activations-from-arguments variance-in-one-pass flat-gradients; do
    bench "without-$lead" 60 step $b16 --batch 256 --peers --without "$lead"
done
# XLA makes one product of the queries, keys and values of texts; apart they move 1 % fewer bytes. The flags of
# cuBLASLt and of latency hiding give the same program as without them, on one GPU, so they are not here.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_dot_merger_threshold_mb=0" bench with-products-apart 60 step $b16 --batch 256 --peers
bench losses 60 losses --batches 4096 16384 --forms dense chunked open_clip --devices 1
bench kmeans 40 kmeans --rows 1000000 --k 100
part main-job 150 python -m bias_clip.train --config=configs/emoji.py --workdir="$out/emoji" \
    "--config.total=200 steps"
python -m tools.benches.gather "$out" > "$out/gpu.json" && echo "wrote $out/gpu.json"
