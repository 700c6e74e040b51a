#!/usr/bin/env bash
# Installs the Debian 12 packages that the build, the tests and the demo need.
# Idempotent; says nothing when nothing is missing. Needs root only to install.
set -euo pipefail

packages=(
  # build
  g++ bazel-bootstrap protobuf-compiler libprotobuf-dev libabsl-dev liburing-dev libxxhash-dev
  liblz4-dev libzstd-dev librocksdb-dev libcli11-dev libmicrohttpd-dev libcurl4-openssl-dev
  # tests and benchmarks
  libgtest-dev libgmock-dev libbenchmark-dev python3 gdb curl
  # real Go and Java programs to checkpoint (cli/e2e/runtimes_test). Large: Go is 81 MB to fetch and 464 MB
  # installed, about a minute; Java about as much. Without them those tests are skipped.
  golang-go openjdk-17-jdk-headless
  gnuplot-nox  # the plot of benchmarks/pause.py
  # demo
  redis-server redis-tools
)

# A virtual machine with an older kernel (old_kernel.sh). Without them those tests are skipped.
optional=(qemu-system-x86 busybox-static cpio)

print_missing() {
  local package status
  for package; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || echo "$package"
  done
}
mapfile -t missing < <(print_missing "${packages[@]}")
mapfile -t missing_optional < <(print_missing "${optional[@]}")
[ $((${#missing[@]} + ${#missing_optional[@]})) -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  [ ${#missing[@]} -eq 0 ] && exit 0
  echo "install_deps: these Debian packages are missing; run as root or install them yourself:" >&2
  echo "  apt-get install ${missing[*]}" >&2
  exit 1
fi

export DEBIAN_FRONTEND=noninteractive
# Debian starts a service when its package arrives; nobody asked for a Redis on port 6379.
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy" "$log"' EXIT
fi

install() {
  echo "install_deps: installing $# Debian packages: $*"
  apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1
}
apt-get update >"$log" 2>&1 || true
if [ ${#missing[@]} -gt 0 ] && ! install "${missing[@]}"; then
  cat "$log" >&2
  echo "install_deps: apt-get failed (its log is above)" >&2
  exit 1
fi
if [ ${#missing_optional[@]} -gt 0 ] && ! install "${missing_optional[@]}"; then
  echo "install_deps: no ${missing_optional[*]}: tests on an older kernel will be skipped" >&2
fi
