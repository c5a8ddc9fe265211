#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch/train_gpu.sh --flagfile=configs/NAME.flags [FLAG...]

Trains on all GPUs of this host, in bfloat16.

  FLAG    flags of python -m lmtx_jax.main; they win over those set here
  PYTHON  the Python that has lmtx_jax and jax[cuda12] (default python3)

SIGTERM and Ctrl-C end it with all that was done saved; the same command goes on.
USAGE
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit
fi
if [[ $# -eq 0 ]]; then
  echo "error: no flags; at least --flagfile=FILE is needed" >&2
  usage >&2
  exit 2
fi
exec "${PYTHON:-python3}" -m lmtx_jax.main --compute_dtype=bfloat16 "$@"
