#!/usr/bin/env bash
# Runs what incr-ckpt does on Debian 12's own kernel (6.1), in a virtual machine: the trackers soft-dirty and
# uffd-wp are for kernels like it. See usage() for what it takes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'EOF'
Usage: scripts/old_kernel.sh [OPTIONS]               the suites of scripts/old_kernel/suites
       scripts/old_kernel.sh [OPTIONS] --run COMMAND  a shell command in the same machine
Options:
  --tracker NAME     only this back end (default: soft-dirty uffd-wp compare, and that uffd-wp-async is refused)
  --with FILE        another file that is to be there, with its libraries: below bazel-bin/, testdata/ or / (repeat)
  --env NAME=VALUE   for what runs inside (repeat)
  --results DIR      where results go: DIR/TRACKER/SUITE/test.xml, DIR/labels, DIR/failed, DIR/console.log
  --timeout SEC      then the machine is ended, and what is missing counts as failed (default 900)
  --no-build         takes what bazel-bin/ has
Inside, the folder /incr has the files below bazel-bin/ at their own paths, as under `bazel test`; what a command
leaves in /results comes out in --results. Examples:
  scripts/old_kernel.sh --run 'cli/incr-ckpt doctor'
  scripts/old_kernel.sh --with /usr/bin/strace --run '/usr/bin/strace -f cli/incr-ckpt doctor'
  scripts/old_kernel.sh --tracker compare --run 'tracker/write_tracker_test --gtest_filter=*Huge*'
Exit status: 0 all passed, 1 something failed, 77 there is no such machine here (the reason: last line of stderr);
with --run that of the command.
EOF
}

trackers="" command="" results="" timeout_s=900 build=yes
files=() settings=()
while [ $# -gt 0 ]; do
  case $1 in
    --tracker) trackers=$2; shift ;;
    --run) command=$2; shift ;;
    --with) files+=("${2#bazel-bin/}"); shift ;;
    --env) settings+=("$2"); shift ;;
    --results) results=$2; shift ;;
    --timeout) timeout_s=$2; shift ;;
    --no-build) build=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

work=$(mktemp -d "${TMPDIR:-/tmp}/old-kernel.XXXXXX")
trap 'rm -rf "$work"' EXIT
[ -n "$results" ] || results=$work/results
rm -rf "$results"
mkdir -p "$results"

# What count_tests.py counts when the suites did not run: one case.
machine=//old_kernel:machine
if ! kernel=$(scripts/old_kernel/fetch.sh 2>"$results/skipped"); then
  cat "$results/skipped" >&2
  scripts/old_kernel/skipped_case.sh "$results/machine" "$(cat "$results/skipped")"
  echo "$machine" >"$results/labels"
  exit 77
fi
rm "$results/skipped"

# The suites, what they start, and the program itself.
targets=(//cli:incr-ckpt //cli/e2e:round_trip_test //tracker:write_tracker_test //tracker:tracker_random_test
  //tracker:tracker_torture_test //testdata/targets:trk_target //testdata/targets:trk_torture //testdata/targets:torture)
[ "$build" = no ] || bazel build --show_result=0 "${targets[@]}" >&2
for target in "${targets[@]}"; do files+=("$(tr : / <<<"${target#//}")"); done

{
  for setting in "${settings[@]}"; do printf 'export %q\n' "$setting"; done
  if [ -n "$command" ]; then
    [ -z "$trackers" ] || printf 'export INCR_TRACKER=%q\n' "$trackers"
    printf '%s\n' "$command"
  else
    printf '. /old_kernel/suites.sh %s\n' "$trackers"
  fi
} >"$work/command"
scripts/old_kernel/initramfs.sh "$kernel" "$work/command" "${files[@]}" >"$work/initramfs"

# tcg: KVM inside a virtual machine may hang. ttyS0 is the console, ttyS1 takes a tar of /results.
# timeout(1) ends this one process only.
started=$SECONDS
quiet() { grep --line-buffered -vE '^\[( RUN|  *OK|-+|=+) *\]|^Running main|^$' || true; }
[ -z "$command" ] || quiet() { cat; }
set +e
timeout --kill-after=5 "$timeout_s" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 \
  -nodefaults -display none -no-reboot -serial stdio -serial "file:$work/results.tar" \
  -kernel "$kernel/vmlinuz" -initrd "$work/initramfs" \
  -append "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check" </dev/null 2>&1 |
  tr -d '\r' | tee "$results/console.log" | quiet
[ "${PIPESTATUS[0]}" != 124 ] || echo "old_kernel: not done after $timeout_s s" >&2
set -e
tar -xf "$work/results.tar" -C "$results" 2>/dev/null || true

if [ ! -e "$results/status" ]; then
  echo "old_kernel: the machine did not get to its end; the last of its console:" >&2
  tail -5 "$results/console.log" >&2
  echo 1 >"$results/status"
  echo "$machine" | tee "$results/labels" >"$results/failed"
fi
status=$(cat "$results/status")
[ -n "$command" ] || echo "old_kernel: $((SECONDS - started)) s in all, exit status $status"
exit "$status"
