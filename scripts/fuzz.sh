#!/usr/bin/env bash
# Fuzzes the store's parsers with libFuzzer, AddressSanitizer and UBSan: scripts/fuzz.sh [SECONDS for each, default 60].
# Needs clang with its runtime (Debian: clang libclang-rt-dev). New inputs are not kept; a finding is written to
# /tmp/incr-ckpt-fuzz and belongs into testdata/fuzz/<parser>.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}
out=/tmp/incr-ckpt-fuzz
mkdir -p "$out/proto"
protoc --proto_path=. --cpp_out="$out" proto/epoch.proto
# As the build knows them, so that none is forgotten.
sources=$(bazel query --noshow_progress 'kind("source file", deps(//store:fuzz_parsers))' 2>/dev/null |
  sed -n 's|^//\(.*\):\(.*\.cc\)$|\1/\2|p')
absl=$(cd /usr/lib/x86_64-linux-gnu && ls libabsl_*.so | sed 's/^lib/-l/; s/\.so$//')
# RocksDB of Debian has no type information for its own classes.
clang++ -std=c++20 -O1 -g -fno-sanitize-recover=all -fsanitize=fuzzer,address,undefined -fno-sanitize=vptr \
  -I. -I"$out" store/fuzz_target.cc $sources \
  "$out/proto/epoch.pb.cc" -o "$out/fuzz" -lrocksdb -llz4 -lzstd -lxxhash -lprotobuf $absl
for parser in manifest record pack body export; do
  mkdir -p "$out/$parser"
  echo "== $parser"
  INCR_CKPT_FUZZ_PARSER=$parser "$out/fuzz" -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=10 -print_final_stats=1 \
    -artifact_prefix="$out/$parser-" -verbosity=0 "$out/$parser" "testdata/fuzz/$parser"
done
