#!/usr/bin/env bash
# install.sh VENV: a real SGLang server for the tests, on a CPU; 2.6 GB.
set -euo pipefail
if [[ $# -ne 1 || $1 == -* ]]; then
  echo "usage: $0 VENV" >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
venv=$1

"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --upgrade pip
"$venv/bin/pip" install --quiet -r "$here/requirements.txt"
# Without what they name themselves: that would bring the packages of CUDA.
"$venv/bin/pip" install --quiet --no-deps \
  sglang==0.5.20 torchvision==0.28.0 xgrammar==0.2.1
for architecture in llama qwen2; do
  "$venv/bin/python" "$here/make_tiny_model.py" \
    "$architecture" "$venv/models/tiny-$architecture"
done
