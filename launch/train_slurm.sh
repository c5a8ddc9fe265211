#!/usr/bin/env bash
#SBATCH --job-name=lmtx_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: sbatch [SBATCH FLAG...] launch/train_slurm.sh --flagfile=FILE --run_dir=DIR [FLAG...]

Trains on all GPUs of all nodes of the job, one process a node, in bfloat16.
Five minutes before the time is up, and when the job is preempted, the trainer
is told by SIGTERM; it saves what it has and the job is put back in the queue,
as often as it takes.

  DIR     a folder that all nodes see
  FLAG    flags of python -m lmtx_jax.main; they win over those set here
  PYTHON  the Python that has lmtx_jax and jax[cuda12] (default python3)

Nodes, GPUs and time are set by SBATCH flags, for example --nodes=4.
USAGE
}

run_dir=
for word in "$@"; do
  case $word in
    -h | --help)
      usage
      exit
      ;;
    --dry_run*)
      echo "error: --dry_run is for one process, not for a job that goes on" >&2
      exit 2
      ;;
    --run_dir=*) run_dir=${word#--run_dir=} ;;
  esac
done
run_dir=${run_dir/#\~/$HOME}
if [[ -z $run_dir ]]; then
  echo "error: --run_dir=DIR is missing: a folder that all nodes see" >&2
  usage >&2
  exit 2
fi
if [[ -z ${SLURM_JOB_ID-} ]]; then
  echo "error: this is a job: sbatch launch/train_slurm.sh ..." >&2
  exit 2
fi

# A preemption sends SIGTERM to this shell as well; srun hands it on.
trap : TERM
code=0
srun --kill-on-bad-exit=0 "${PYTHON:-python3}" -m lmtx_jax.main \
  --compute_dtype=bfloat16 "$@" || code=$?
if ((code == 0)) && [[ ! -e $run_dir/summary.json ]]; then
  echo "the run is not done; the job goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
