#!/usr/bin/env bash
# The original study asked again, its audited mistakes left out: docs/original-study.md says which command avoids which.
#   bash recipes/original_study/run.sh tiny            # the shipped family; two cores
#   bash recipes/original_study/run.sh llada           # LLaDA-8B-Instruct, two Qwen2.5 planners, GSM8K; one GPU of 24 GB
# N: test items, the same in EVERY arm. ITEMS, VOTED: training items of the two adapters. SEEDS: training seeds.
# PLANNERS, EXECUTOR: other models. Stopped anywhere, the same line goes on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case "${1:-}" in
  tiny)
    executor=${EXECUTOR:-tiny} planners=${PLANNERS:-tiny-planner-s,tiny-planner-m} task=gradeschool
    targets=q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj
    protocol=() ;;
  llada)
    executor=${EXECUTOR:-models/llada-8b-instruct} task=gsm8k
    planners=${PLANNERS:-models/qwen2.5-0.5b-instruct,models/qwen2.5-1.5b-instruct}
    targets=q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj
    protocol=(--set gen_length=128 --set block_length=32 --set steps=64) ;;
  *) echo "run.sh: first word: tiny or llada" >&2; exit 2 ;;
esac
out=${2:-runs/original-$1} n=${N:-200} seeds=${SEEDS:-0,1,2}
common=(--executor "$executor" --task "$task")
# shellcheck disable=SC2206  # words of two commands, for short runs
prefix_more=(${PREFIX_SET:-}) voted_more=(${VOTED_SET:-})

# 1. Axes 1 and 2, chains and votes, by the study's names: one N, the predictions' hash stamped before the first row.
triaxis diagnose "${common[@]}" --planners "$planners" --preset original --n "$n" "${protocol[@]}" \
  --prereg "$here/predictions.toml" --out "$out/base"
triaxis audit rows "$out/base"
triaxis prereg check "$here/predictions.toml" "$out/base" || test $? = 1 # 1: a prediction failed, which is an answer

# 2. What the study's target names attach to on this executor: 4 of 7 (v2). 1: the doctor found it.
triaxis doctor --executor "$executor" --targets "$targets" || test $? = 1

# 3. Prefix robustness on all modules, beside a control trained on bare prompts, before and after on the same items.
triaxis train prefix "${common[@]}" --planners "$planners" --items "${ITEMS:-1600}" --n "$n" --seeds "$seeds" \
  ${prefix_more[@]+"${prefix_more[@]}"} --out "$out/prefix"

# 4. Consensus: headroom first. 1: the vote is not above greedy, so there is nothing to put into one pass.
triaxis distill "${common[@]}" --items "${VOTED:-500}" --n "$n" --k 5 --blocks 1,3 --seeds "$seeds" \
  ${voted_more[@]+"${voted_more[@]}"} --out "$out/consensus" || test $? = 1

# 5. The two-by-two the study left incomplete: span of the loss by coverage, every cell run.
triaxis distill "${common[@]}" --items "${VOTED:-500}" --n "$n" --k 5 --label gold --diagnose --factors coverage,span \
  ${voted_more[@]+"${voted_more[@]}"} --out "$out/factorial" || test $? = 1
