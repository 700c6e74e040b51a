#!/usr/bin/env bash
# Prints the path of a folder with Debian 12's own kernel: vmlinuz, and the modules that modules.txt
# names. From a cache or else downloaded (27 MB; unpacked, not installed). Where that or qemu cannot be
# had, says why and fails.
set -euo pipefail
modules=$(cd "$(dirname "${BASH_SOURCE[0]}")" && grep -v '^#' modules.txt)
cache=${INCR_CKPT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/incr-ckpt}
meta=linux-image-cloud-amd64

no_machine() { echo "no machine with an older kernel: $*" >&2; exit 1; }

for tool in qemu-system-x86_64 busybox cpio; do
  command -v "$tool" >/dev/null || no_machine "$tool is not installed"
done

# The newest that there is, or nothing.
cached() { { find "$cache" -maxdepth 1 -name '6.1.*' 2>/dev/null || true; } | sort -V | tail -1; }
package() {
  { apt-cache depends "$meta" 2>/dev/null || true; } | awk '$1 == "Depends:" && $2 ~ /^linux-image-6\.1\./ {print $2}'
}

kernel=$(cached)
if [ -z "$kernel" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # The lists may be missing, or older than what the mirror has.
  name=$(package)
  if [ -z "$name" ] || ! (cd "$work" && apt-get download "$name") >"$work/log" 2>&1; then
    apt-get update >"$work/log" 2>&1 || true
    name=$(package)
    [ -n "$name" ] || no_machine "no package source has the 6.1 kernel that $meta stands for"
    (cd "$work" && apt-get download "$name") >"$work/log" 2>&1 ||
      no_machine "apt-get download $name: $(tail -1 "$work/log")"
  fi
  dpkg -x "$work"/linux-image-*.deb "$work/unpacked" || no_machine "$name cannot be unpacked"
  vmlinuz=$(echo "$work"/unpacked/boot/vmlinuz-6.1.*)
  version=${vmlinuz##*/vmlinuz-}
  mkdir "$work/kernel"
  cp "$vmlinuz" "$work/kernel/vmlinuz"
  for module in $modules; do
    find "$work/unpacked/lib/modules/$version" -name "$module.ko" -exec cp -t "$work/kernel" {} +
  done
  # By rename: another run never sees half of it.
  kernel=$cache/$version
  mkdir -p "$cache"
  cp -r "$work/kernel" "$kernel.$$"
  mv -T "$kernel.$$" "$kernel" 2>/dev/null || rm -rf "$kernel.$$"
fi
echo "$kernel"
