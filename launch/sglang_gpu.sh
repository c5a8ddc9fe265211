#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'EOF'
usage: [HOST=127.0.0.1] [PORT=30000] [TP=1] launch/sglang_gpu.sh MODEL [FLAG...]

Starts an SGLang server on this host as the teacher of lmtx_jax, and stays.

  MODEL  folder or hub name of an instruction-tuned language model
  FLAG   more flags of sglang.launch_server; they win over those set here
  HOST   address to listen at; 0.0.0.0 lets other hosts in: give --api-key then
  PORT   port to listen at
  TP     number of GPUs that one copy of the model is split over
  PYTHON the Python that has sglang (default python3)

The trainer reaches it by --teacher=sglang --teacher_url=http://HOST:PORT
EOF
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit
fi
if [[ $# -eq 0 || $1 == -* ]]; then
  echo "error: the first argument must be a model" >&2
  usage >&2
  exit 2
fi
for name in PORT TP; do
  if [[ ${!name-1} =~ [^0-9] || -z ${!name-1} ]]; then
    echo "error: $name=${!name} is not a number" >&2
    exit 2
  fi
done
model=$1
shift

# A question is some hundred tokens of prompt, most of them shared with the
# next one, and no token of answer:
# lpm         asks first what the cache knows best: the labels of one document
# prefill     large batches of prompts keep the GPU busy
# cuda-graph  nothing is decoded, so graphs would only take memory and time
# tokenizer   many texts come in one request
exec "${PYTHON:-python3}" -m sglang.launch_server \
  --model-path "$model" \
  --host "${HOST:-127.0.0.1}" \
  --port "${PORT:-30000}" \
  --tp-size "${TP:-1}" \
  --schedule-policy lpm \
  --chunked-prefill-size 16384 \
  --max-prefill-tokens 32768 \
  --cuda-graph-backend-decode disabled \
  --cuda-graph-backend-prefill disabled \
  --enable-tokenizer-batch-encode \
  --log-level-http warning \
  "$@"
