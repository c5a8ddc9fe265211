#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'EOF'
usage: [GPUS=0,1,..] [HOST=127.0.0.1] [PORT=30000] [ADVERTISE=127.0.0.1]
       [LOG_DIR=.] launch/sglang_fleet.sh MODEL [FLAG...]

Starts one SGLang server a GPU of this host, each by sglang_gpu.sh, prints the
flag that names them all to the trainer once they answer, and stays. If one of
them ends, or on Ctrl-C, all are ended.

  MODEL, FLAG  as sglang_gpu.sh takes them
  GPUS         numbers of the GPUs, separated by commas (default: all)
  HOST         address to listen at
  PORT         port of the first server; the others count on from there
  ADVERTISE    name of this host, as the trainer reaches it
  LOG_DIR      folder for sglang_PORT.log, one a server
EOF
}

fail() {
  echo "error: $1" >&2
  exit "${2-1}"
}

if [[ ${1-} == -h || ${1-} == --help ]]; then
  usage
  exit
fi
[[ $# -gt 0 && $1 != -* ]] || fail 'the first argument must be a model' 2
command -v curl >/dev/null || fail 'curl is missing'
if [[ -z ${GPUS-} ]]; then
  command -v nvidia-smi >/dev/null ||
    fail 'no nvidia-smi to count the GPUs with; name them with GPUS=0,1,..' 2
  GPUS=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)
fi
[[ $GPUS =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "GPUS=$GPUS is no list of numbers" 2
first_port=${PORT:-30000}
[[ $first_port =~ ^[0-9]+$ ]] || fail "PORT=$first_port is not a number" 2
log_dir=${LOG_DIR:-.}
[[ -d $log_dir ]] || fail "LOG_DIR=$log_dir is no folder" 2
here=$(cd "$(dirname "$0")" && pwd)
pids=() ports=()

is_running() {
  kill -0 -- "-$1" 2>/dev/null
}

end_all() {
  trap - EXIT
  trap '' INT TERM HUP
  local pid sign
  for sign in TERM KILL; do
    for pid in "${pids[@]}"; do
      kill "-$sign" -- "-$pid" 2>/dev/null || true
    done
    for _ in {1..30}; do
      local left=0
      for pid in "${pids[@]}"; do
        if is_running "$pid"; then left=1; fi
      done
      if [[ $left -eq 0 ]]; then return; fi
      sleep 0.5
    done
  done
}

check_all() {
  local i
  for i in "${!pids[@]}"; do
    kill -0 "${pids[$i]}" 2>/dev/null ||
      fail "a server ended; see $log_dir/sglang_${ports[$i]}.log"
  done
}

trap end_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
set -m # each server in a process group of its own

urls=()
IFS=, read -ra gpus <<<"$GPUS"
for gpu in "${gpus[@]}"; do
  port=$((first_port + ${#ports[@]}))
  CUDA_VISIBLE_DEVICES=$gpu PORT=$port TP=1 "$here/sglang_gpu.sh" "$@" \
    >"$log_dir/sglang_$port.log" 2>&1 </dev/null &
  pids+=($!) ports+=("$port")
  urls+=("http://${ADVERTISE:-127.0.0.1}:$port")
done

check_host=${HOST:-127.0.0.1}
if [[ $check_host == 0.0.0.0 ]]; then check_host=127.0.0.1; fi
for port in "${ports[@]}"; do
  until curl --fail --silent --output /dev/null --noproxy '*' --max-time 30 \
    "http://$check_host:$port/health"; do
    check_all
    sleep 1
  done
done
(
  IFS=,
  echo "--teacher_urls=${urls[*]}"
)
while true; do
  check_all
  sleep 1
done
