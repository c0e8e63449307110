#!/usr/bin/env bash
# Both repairs and the plateau doctor on LLaDA-8B-Instruct and GSM8K, on one GPU, with what they will take computed first.
#   bash recipes/llada/run.sh 24gb     # frozen weights in four bits (extra `quantize`), layers recomputed
#   bash recipes/llada/run.sh 80gb     # frozen weights in bf16, layers compiled
# EXECUTOR, PLANNERS: other folders. N: test items. ITEMS, VOTED: training items. SEEDS: training seeds. PRICE: dollars an
# hour. ONLY=cost stops after the estimate. Stopped anywhere, the same line goes on.
set -euo pipefail
case "${1:-}" in
  24gb)
    weights=(--dtype 4bit) case_="4-bit base, layers recomputed"
    way=(--set recompute=1) ;;
  80gb)
    weights=(--dtype bf16) case_="compiled"
    way=(--set compiled=1) ;;
  *) echo "run.sh: first word: 24gb or 80gb" >&2; exit 2 ;;
esac
out=${2:-runs/llada-$1} n=${N:-500} seeds=${SEEDS:-0,1,2} price=${PRICE:-0}
executor=${EXECUTOR:-models/llada-8b-instruct}
planners=${PLANNERS:-models/qwen2.5-0.5b-instruct,models/qwen2.5-1.5b-instruct}
common=(--executor "$executor" --task gsm8k "${weights[@]}")
mkdir -p "$out"

# 1. What this GPU does, in this way of training, and what the recipes take at that speed. Random weights: no download.
test -s "$out/bench.json" || triaxis bench train --shape llada-8b --case "$case_" --json > "$out/bench.json"
for kind in prefix trust consensus; do
  echo "$kind"
  triaxis train cost "$kind" --bench "$out/bench.json" --case "$case_" --planners 2 --n "$n" --seeds "$seeds" \
    --items "${VOTED:-1500}" --price-per-hour "$price"
done
test "${ONLY:-}" != cost || exit 0

# 2. Names, ids and template, before anything is spent. 1: the doctor found something; mend it first.
triaxis doctor --executor "$executor"

# 3. The repairs, each beside a control on bare prompts, before and after on the same items.
triaxis train prefix "${common[@]}" --planners "$planners" --items "${ITEMS:-7473}" --n "$n" --seeds "$seeds" \
  "${way[@]}" --out "$out/prefix"
triaxis train trust "${common[@]}" --planners "$planners" --items "${ITEMS:-7473}" --n "$n" --seeds "$seeds" \
  "${way[@]}" --out "$out/trust"

# 4. Consensus: headroom first. 1: the vote is not above greedy in any regime, so there is nothing to put into one pass.
triaxis distill "${common[@]}" --items "${VOTED:-1500}" --n "$n" --k 5 --regime auto --blocks 1,3 --seeds "$seeds" \
  "${way[@]}" --out "$out/consensus" || test $? = 1

# 5. What limits it: placement, supervision, capacity or data.
triaxis distill "${common[@]}" --items "${VOTED:-1500}" --n "$n" --k 5 --label gold --diagnose --seeds "$seeds" \
  "${way[@]}" --out "$out/diagnosis" || test $? = 1
