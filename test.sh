#!/usr/bin/env bash
# Installs what is missing, builds everything, runs every test.
# Last line: "N passed, N failed, N skipped". Exit status 0 only if nothing failed.
# Needs root: the tests trace processes and restore pids.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

scripts/install_deps.sh || exit 1
if [ "$(id -u)" -ne 0 ]; then
  echo "test.sh: run it as root; restoring a pid needs CAP_CHECKPOINT_RESTORE" >&2
  exit 1
fi

bazel build //... || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }

labels=$(bazel query 'tests(//...)' 2>/dev/null | sort)
testlogs=$(bazel info bazel-testlogs 2>/dev/null)
# Old results must not count for targets that do not run now.
rm -rf "$testlogs"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
bazel test --keep_going --cache_test_results=no //... 2>&1 | tee "$log"

# Trackers and a round trip on Debian's own kernel, where not all of them could work here.
old_kernel=$testlogs/old_kernel
scripts/old_kernel.sh --no-build --results "$old_kernel"
labels+=" $(cat "$old_kernel/labels")"

# awk, not grep: under pipefail a grep that finds no failure would fail the run.
{
  awk '/^\/\/[^ ]+ +(FAILED|TIMEOUT|NO STATUS|FLAKY|.*FAILED TO BUILD)/ {print $1}' "$log"
  cat "$old_kernel/failed" 2>/dev/null
  [ ! -e "$old_kernel/skipped" ] || sed 's/^/SKIPPED: /' "$old_kernel/skipped"
} | scripts/count_tests.py "$testlogs" $labels
