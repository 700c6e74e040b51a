#!/usr/bin/env bash
# Writes an initramfs to stdout: busybox, our programs below /incr, the shared libraries they need, and
# a file of shell commands to run. Built anew each time: half a second, and nothing that can be stale.
#
# Usage: initramfs.sh KERNEL COMMANDS FILE...   (KERNEL: the folder that fetch.sh prints)
# FILE below bazel-bin/ or this clone goes to the same place below /incr; with a leading / to where it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
kernel=$1 commands=$2
shift 2

root=$(mktemp -d "${TMPDIR:-/tmp}/initramfs.XXXXXX")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,dev,proc,sys,tmp,results,old_kernel,incr}
cp "$(command -v busybox)" "$root/bin/busybox"
cp scripts/old_kernel/init "$root/init"
cp scripts/old_kernel/{suites,skipped_case}.sh "$root/old_kernel/"
cp "$kernel"/*.ko scripts/old_kernel/modules.txt "$root/old_kernel/"
cp "$commands" "$root/old_kernel/commands"

programs=("$root/bin/busybox")
for file in "$@"; do
  source=bazel-bin/$file place=$root/incr/$file
  [ -e "$source" ] || source=$file
  case $file in /*) place=$root$file ;; esac
  mkdir -p "$(dirname "$place")"
  cp -L "$source" "$place"
  programs+=("$place")
done
# At the paths that the programs ask for; ldd names each, the loader included.
{ ldd "${programs[@]}" 2>/dev/null || true; } | grep -oE '/lib[^ ]*/[^ ]+' | sort -u | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
(cd "$root" && find . | cpio --quiet -o -H newc)
