#!/usr/bin/env bash
# One command from a clean clone: a live Redis is checkpointed every second while a client
# writes to it, killed with SIGKILL, and brought back to two different moments.
# Installs what is missing (as root), builds, runs, cleans up after itself, ends by itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

KEYS=200000
started=$SECONDS

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { printf 'demo: FAILED: %s\n' "$*" >&2; exit 1; }

scripts/install_deps.sh
[ "$(id -u)" -eq 0 ] || fail "run it as root: restoring a pid needs CAP_CHECKPOINT_RESTORE"
say "Building incr-ckpt"
bazel build //cli:incr-ckpt

ckpt=$PWD/bazel-bin/cli/incr-ckpt
work=$(mktemp -d /tmp/incr-ckpt-demo.XXXXXX)
export INCR_CKPT_STORE=$work/store
redis_pid= writer_pid=

cleanup() {
  touch "$work/stop"
  [ -z "$writer_pid" ] || wait "$writer_pid" 2>/dev/null || true
  "$ckpt" stop --all >/dev/null 2>&1 || true
  [ -z "$redis_pid" ] || kill -9 "$redis_pid" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis() { redis-cli -p "$port" "$@"; }
digest() { redis debug digest; }

await_redis() {
  for _ in $(seq 100); do
    [ "$(redis ping 2>/dev/null)" = PONG ] && return
    sleep 0.1
  done
  fail "redis-server does not answer on port $port; its log: $(tail -3 "$work/redis.log")"
}

# Writes some hundred keys a second until $work/stop exists; rests while $work/pause exists.
write_keys() {
  local n=0 i
  while [ ! -e "$work/stop" ]; do
    if [ -e "$work/pause" ]; then
      touch "$work/paused"
      sleep 0.02
      continue
    fi
    for i in $(seq 50); do
      echo "SET live:$(((n + i) % 20000)) value-$n-$i"
    done | redis >/dev/null 2>&1 || true
    n=$((n + 50))
    sleep 0.05
  done
}
pause_writer() {
  rm -f "$work/paused"
  touch "$work/pause"
  for _ in $(seq 200); do [ -e "$work/paused" ] && return; sleep 0.02; done
  fail "the writer does not pause"
}
resume_writer() { rm -f "$work/pause" "$work/paused"; }

# Sets epoch_NAME, size_NAME, digest_NAME: with the writer at rest, the data set is the epoch's.
mark() {
  pause_writer
  local size digest epoch
  size=$(redis dbsize)
  digest=$(digest)
  epoch=$("$ckpt" --json checkpoint "$redis_pid" | python3 -c 'import json, sys; print(json.load(sys.stdin)["epoch"])')
  resume_writer
  printf -v "size_$1" '%s' "$size"
  printf -v "digest_$1" '%s' "$digest"
  printf -v "epoch_$1" '%s' "$epoch"
  echo "epoch $epoch: DBSIZE $size, digest $digest"
}

epochs_now() {
  "$ckpt" --json list | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["epochs"]))'
}

# restore_and_check EPOCH SIZE DIGEST
restore_and_check() {
  "$ckpt" restore --epoch "$1" --detach --interval 1
  await_redis
  local size digest
  size=$(redis dbsize)
  digest=$(digest)
  echo "restored epoch $1: DBSIZE $size, digest $digest"
  [ "$size" = "$2" ] || fail "DBSIZE is $size, was $2 at epoch $1"
  [ "$digest" = "$3" ] || fail "digest is $digest, was $3 at epoch $1"
  [ "$(redis set demo:after-restore "$1")" = OK ] || fail "the restored server does not write"
  local before
  before=$(epochs_now)
  for _ in $(seq 100); do
    [ "$(epochs_now)" -ge $((before + 2)) ] && break
    sleep 0.1
  done
  [ "$(epochs_now)" -ge $((before + 2)) ] || fail "the restored server is not tracked"
  echo "it answers clients, and is tracked again: $(epochs_now) epochs"
}

kill_redis() {
  kill -9 "$redis_pid"
  while kill -0 "$redis_pid" 2>/dev/null; do
    wait "$redis_pid" 2>/dev/null || true
    sleep 0.1
  done
  echo "killed redis-server (pid $redis_pid) with SIGKILL"
}

say "A redis-server with $KEYS keys"
redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" \
  --enable-debug-command local </dev/null >"$work/redis.log" 2>&1 &
redis_pid=$!
await_redis
redis debug populate $KEYS key 200 >/dev/null
echo "pid $redis_pid, port $port, DBSIZE $(redis dbsize), $(redis info memory | grep -o 'used_memory_human:[^[:space:]]*')"

say "Tracking it: an epoch a second, while a client writes"
write_keys &
writer_pid=$!
echo "\$ incr-ckpt start --interval 1 $redis_pid"
"$ckpt" start --interval 1 "$redis_pid"
sleep 4
mark a
sleep 4
mark b
sleep 3

say "The epochs: the first is large, the later ones hold what changed"
"$ckpt" list
"$ckpt" status

say "Killing it"
kill_redis

say "Back to epoch $epoch_a"
pause_writer
restore_and_check "$epoch_a" "$size_a" "$digest_a"

say "Killing it again, and back to epoch $epoch_b"
kill_redis
restore_and_check "$epoch_b" "$size_b" "$digest_b"
resume_writer
sleep 2

say "All epochs: epoch numbers go on; each restore began a branch"
"$ckpt" list
"$ckpt" doctor
du -sh "$work/store" | sed "s|$work/||"

printf '\ndemo: OK: a live Redis was brought back to two different moments (%d s in all)\n' $((SECONDS - started))
