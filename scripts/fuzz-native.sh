#!/usr/bin/env bash
# Runs libFuzzer, with address and undefined-behavior sanitizers, on the C++ code that parses bytes: the reader of tensors in
# weights files. TypeScript parses the headers (`npm run test:fuzz`). Needs Clang 14 or newer with compiler-rt, and
# `npm run setup` before. Findings are written to the working directory. See docs/robustness.md#fuzzing-the-parsers.
#   scripts/fuzz-native.sh [SECONDS]      600 by default
set -euo pipefail
start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

clang=$(command -v clang++ || compgen -c clang++- | sort -V | tail -1) || true
[[ -n $clang ]] || { echo "fuzz-native: no clang++ was found. Install Clang (on Debian: apt install clang)." >&2; exit 1; }
torch=$(cmake -P native/cmake/LibTorch.cmake | sed -n 's/^-- LIBTORCH_FOLDER=//p')
[[ -n $torch ]] || { echo "fuzz-native: no LibTorch was found. Run \`npm run setup\`." >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# No vptr check, because LibTorch's classes lack the type information that it needs.
"$clang" -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined -Inative \
  -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" \
  test/native/fuzz_tensor_file.cc native/core/io/tensor_file.cc native/core/io/file.cc native/core/cancellation.cc \
  -o "$folder/fuzz_tensor_file" -L"$torch/lib" -ltorch -ltorch_cpu -lc10 "-Wl,-rpath,$torch/lib"

mkdir "$folder/corpus"
seeds=$PWD/test/engines/fuzz/corpus/native # inputs that failed once
cd "$start"
# Inputs have hundreds of bytes, so an allocation above 64 MB is a bug. LibTorch leaks its registries at exit on purpose.
ASAN_OPTIONS=detect_leaks=0 "$folder/fuzz_tensor_file" -max_total_time="${1:-600}" -max_len=1024 -timeout=10 \
  -rss_limit_mb=2048 -malloc_limit_mb=64 -print_final_stats=1 -artifact_prefix=fuzz- "$folder/corpus" "$seeds" 2>&1 |
  grep -vE '^#[0-9]+[[:space:]]+(NEW|REDUCE|RELOAD)|NEW_FUNC'
echo "fuzz-native: nothing found"
