#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: ZONE=ZONE [PROJECT=PROJECT] launch/train_tpu_pod.sh TPU_VM --run_dir=DIR [FLAG...]

Trains on all hosts of a Cloud TPU VM or pod, from any machine that has gcloud.
Each host must have this repository and its packages with jax[tpu] at the same
place, and see DIR (a mounted Filestore share, for example; a bucket will not
do, for a verdict store needs file locks).

  TPU_VM  name of the TPU VM or pod
  FLAG    flags of python -m lmtx_jax.main; they win over those set here
  REPO    folder of the repository on the hosts (default lmtx_jax)
  PYTHON  the Python on the hosts (default python3)

A host that is to be preempted gets SIGTERM: all hosts save what they have and
end with 0. The same command goes on, also on a pod of another size.
USAGE
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit
fi
if [[ $# -eq 0 || $1 == -* ]]; then
  echo "error: the first argument must be a TPU VM" >&2
  usage >&2
  exit 2
fi
if [[ -z ${ZONE-} ]]; then
  echo "error: ZONE is not set" >&2
  exit 2
fi
name=$1
shift
if [[ " $* " != *" --run_dir="* ]]; then
  echo "error: --run_dir=DIR is missing: a folder that all hosts see" >&2
  exit 2
fi

# Quoted twice: once for gcloud's shell on the host.
command="cd $(printf %q "${REPO:-lmtx_jax}") && exec ${PYTHON:-python3}"
command+=" -m lmtx_jax.main --compute_dtype=bfloat16$(printf ' %q' "$@")"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" \
  ${PROJECT:+--project="$PROJECT"} --worker=all --command="$command"
