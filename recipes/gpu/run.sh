#!/usr/bin/env bash
# What only a GPU can say, one step a call: bash recipes/gpu/run.sh STEP OUT [more options of the step's command]
#
#   one GPU   speed     the engine at LLaDA-8B's shape, every mode, beside the reference loop and the machine's ceiling (its
#                       four bits need the extra quantize)
#             running   rows that enter a running batch, exact and with a dual cache
#             original  the original study's cost: predicted, then measured; run it again where it was cut off
#             train     throughput of the training loop, the published recipes at their own batch, a 4-bit base
#             small     the family `small` from its GGUF file (--gguf FILE) to tables, its prefix repair included
#   two GPUs  scale     a study on one and two of them through processes, a worker killed
#             ray       the same through Ray (extra ray)
#             launched  training under `accelerate launch` on one and two, data parallel and with the frozen weights in parts;
#                       again with --rows 16 --timed 10 where memory allows (82 GB)
#
# Random weights, no downloads; every step is under ten minutes but `original` and `small`. JSON lies in OUT/STEP.json and
# becomes a table of docs/performance.md as docs/measured/NAME.json (recipes/performance_tables.py).
set -euo pipefail
step=${1:?give a step, see the first lines of this file}
out=$(mkdir -p "${2:?give a folder for results}" && cd "$2" && pwd)
shift 2
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
python=${PYTHON:-python3}
shape=${SHAPE:-llada-8b}

case $step in
  speed) $python -m triaxis.sampling.speed --shape "$shape" --json "$@" > "$out/speed.json" ;;
  running)
    $python bench/running.py --shape "$shape" --rows 96 --batch 16 "$@" > "$out/running.txt"
    $python bench/running.py --shape "$shape" --rows 96 --batch 16 --cache dual "$@" >> "$out/running.txt"
    ;;
  original) $python bench/original.py "$out/original" --shape "$shape" --price-per-hour 2.99 "$@" > "$out/original.json" ;;
  train) $python -m triaxis.train.speed --shape "$shape" --budget 400 --json "$@" > "$out/train.json" ;;
  small) $python recipes/small/run.py all --out "$out/small" "$@" ;;
  scale) $python bench/scale.py --shape "$shape" "$@" > "$out/scale.json" ;;
  ray) RAY_AUTH_MODE=disabled $python bench/scale.py --shape "$shape" --backends ray "$@" > "$out/ray.json" ;;
  launched)
    $python -m triaxis.train.scale --shape "$shape" --processes 2 --launcher accelerate "$@" > "$out/launched.json"
    ;;
  *)
    echo "no step named '$step'; see the first lines of $0" >&2
    exit 2
    ;;
esac
