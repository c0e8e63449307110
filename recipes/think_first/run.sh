#!/usr/bin/env bash
# Think First, Diffuse Fast (arXiv:2603.13243) asked again, with the twin it did not run: docs/think-first.md.
#   bash recipes/think_first/run.sh tiny               # the shipped family; two cores
#   bash recipes/think_first/run.sh llada              # LLaDA-8B-Instruct, a Qwen2.5 planner, GSM8K; one GPU of 24 GB
# N: items. PLANNERS, EXECUTOR: other models; a frontier planner is openai:MODEL@URL. Stopped anywhere, the line goes on.
set -euo pipefail
case "${1:-}" in
  tiny)
    executor=${EXECUTOR:-tiny} planners=${PLANNERS:-tiny-planner-s,tiny-planner-m,tiny-planner-l} task=gradeschool n=${N:-300}
    protocol=() ;;
  llada)
    executor=${EXECUTOR:-models/llada-8b-instruct} planners=${PLANNERS:-models/qwen2.5-7b-instruct,self} task=gsm8k n=${N:-1319}
    protocol=(--set gen_length=256 --set block_length=32 --set steps=128 --plan-set budget=100) ;;
  *) echo "run.sh: first word: tiny or llada" >&2; exit 2 ;;
esac
out=${2:-runs/think-first-$1}
study=(--executor "$executor" --planners "$planners" --task "$task" --n "$n" "${protocol[@]}")

# What the paper's N and its discordance can see, before anything is run.
triaxis power --n "$n" --discordance .232
# The closed wrapper after the question: none, empty, filler, random tokens, true plan and its corruptions, each planner.
triaxis diagnose "${study[@]}" --preset think-first --out "$out/wrapper"
# The published comparison (plan against nothing), and the two it consists of: shape, then content.
triaxis compare "$out/wrapper:none" "$out/wrapper:true-plan"
triaxis compare "$out/wrapper:none" "$out/wrapper:filler"
triaxis compare "$out/wrapper:filler" "$out/wrapper:true-plan"
# Does it hang on the wrapper? Placement, closure, label and length as factors of one grid.
triaxis diagnose "${study[@]}" --preset factorial --out "$out/grid"
# Beside the published claims of the same axis.
triaxis registry compare "$out/wrapper" --axis trust
