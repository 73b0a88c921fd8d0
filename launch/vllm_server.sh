#!/usr/bin/env bash
# A vLLM server that vqr1 train rollout=vllm_server draws its answers from and keeps up to date.
#   CUDA_VISIBLE_DEVICES=6,7 launch/vllm_server.sh Qwen/Qwen2.5-VL-7B-Instruct --tensor-parallel-size 2
# PICTURES=2 for a run with data.reference=true, and twice the MAX_LENGTH that a picture takes.
set -euo pipefail
MODEL=${1:?usage: launch/vllm_server.sh MODEL [flags of vllm serve]}
shift
# Development mode serves what training needs: taking over weights and dropping caches. Do not let others reach the port.
export VLLM_SERVER_DEV_MODE=1
export VLLM_NO_USAGE_STATS=1
# The pages that take and return tokens: vLLM 0.26 always has them, later versions when asked.
SCALE_OUT=()
if [[ $(vllm serve --help=all 2>/dev/null) == *--enable-scale-out* ]]; then SCALE_OUT=(--enable-scale-out); fi
exec vllm serve "$MODEL" \
  --host "${HOST:-127.0.0.1}" \
  --port "${PORT:-8000}" \
  --gpu-memory-utilization "${MEMORY_SHARE:-0.9}" \
  --max-model-len "${MAX_LENGTH:-2048}" \
  --limit-mm-per-prompt "{\"image\": ${PICTURES:-1}, \"video\": 0}" \
  --weight-transfer-config '{"backend": "nccl"}' \
  --logprobs-mode processed_logprobs \
  --max-logprobs -1 \
  --generation-config vllm \
  "${SCALE_OUT[@]}" \
  "$@"
