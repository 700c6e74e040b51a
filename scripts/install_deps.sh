#!/usr/bin/env bash
# Installs the Debian 12 packages that the build, the tests and the demo need.
# Idempotent; says nothing when nothing is missing. Needs root only to install.
set -euo pipefail

packages=(
  # build
  g++ bazel-bootstrap protobuf-compiler libprotobuf-dev libabsl-dev liburing-dev libxxhash-dev
  liblz4-dev librocksdb-dev libcli11-dev libmicrohttpd-dev libcurl4-openssl-dev
  # tests and benchmarks
  libgtest-dev libgmock-dev libbenchmark-dev python3 gdb curl
  # real Go and Java programs to checkpoint (cli/e2e/runtimes_test). Large: Go is 81 MB to fetch and 464 MB
  # installed, about a minute; Java about as much. Without them those tests are skipped.
  golang-go openjdk-17-jdk-headless
  # demo
  redis-server redis-tools
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "install_deps: these Debian packages are missing; run as root or install them yourself:" >&2
  echo "  apt-get install ${missing[*]}" >&2
  exit 1
fi

echo "install_deps: installing ${#missing[@]} Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Debian starts a service when its package arrives; nobody asked for a Redis on port 6379.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
log=$(mktemp)
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "install_deps: apt-get failed (its log is above)" >&2
  exit 1
fi
rm -f "$log"
