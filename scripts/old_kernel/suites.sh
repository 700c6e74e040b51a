# shellcheck shell=dash
# Inside the machine: every suite for every back end. Arguments: back ends.
# Leaves /results/labels (what was to run), /results/failed, /results/TRACKER/SUITE/test.xml.

# Tracking is what takes the time, and it is 10 to 20 times slower here: fewer epochs, not fewer tests.
export INCR_TRACKER_EPOCHS=${INCR_TRACKER_EPOCHS:-40}
export INCR_E2E_EPOCHS=${INCR_E2E_EPOCHS:-3}
export GTEST_COLOR=no
: >/results/labels
: >/results/failed

uptime_s() { cut -d. -f1 /proc/uptime; }

# run TRACKER SUITE SECONDS PROGRAM ARGUMENTS...
run() {
  local tracker=$1 suite=$2 limit=$3 started status=0
  shift 3
  local label="//old_kernel/$tracker:$suite" folder=/results/$tracker/$suite
  echo "$label" >>/results/labels
  mkdir -p "$folder"
  started=$(uptime_s)
  INCR_TRACKER=$tracker timeout -s KILL "$limit" "$@" "--gtest_output=xml:$folder/test.xml" || status=$?
  [ "$status" = 0 ] || echo "$label" >>/results/failed
  echo "$label: exit status $status, $(($(uptime_s) - started)) s"
}

# These must work here: that all of a suite is skipped is no success.
must_have_run() {
  grep -q 'result="completed".*classname="BackEnds/' "/results/$1/$2/test.xml" && return
  echo "//old_kernel/$1:$2" >>/results/failed
  echo "//old_kernel/$1:$2: FAILED: every test was skipped, but $1 works on this kernel"
}

# One case that is skipped, for a back end that is not built in.
skip() {
  echo "//old_kernel/$1:$2" >>/results/labels
  sh /old_kernel/skipped_case.sh "/results/$1/$2" "$3"
  echo "//old_kernel/$1:$2: SKIPPED: $3"
}

[ $# -gt 0 ] || set -- soft-dirty uffd-wp compare uffd-wp-async
for tracker; do
  if ! INCR_TRACKER=$tracker tracker/write_tracker_test --gtest_list_tests | grep -q '^BackEnds/'; then
    skip "$tracker" all "this build has no back end called $tracker"
    continue
  fi
  if [ "$tracker" = uffd-wp-async ]; then
    # Says why not: one test is enough.
    run "$tracker" write_tracker_test 60 tracker/write_tracker_test --gtest_filter=*FirstEpochTakesAllThatIsThere*
    continue
  fi
  run "$tracker" write_tracker_test 240 tracker/write_tracker_test
  must_have_run "$tracker" write_tracker_test
  run "$tracker" tracker_random_test 240 tracker/tracker_random_test
  [ ! -e tracker/tracker_torture_test ] ||
    INCR_TRACKER_EPOCHS=$((INCR_TRACKER_EPOCHS / 4)) run "$tracker" tracker_torture_test 240 \
      tracker/tracker_torture_test
  run "$tracker" round_trip_test 240 cli/e2e/round_trip_test --gtest_filter=*EightThreads*
done
[ ! -s /results/failed ]
