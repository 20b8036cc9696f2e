#!/usr/bin/env bash
# Builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer in build/sanitized/ (build/Release/ stays as it is)
# and runs tests with it: by default the hostile weights files, then a minute of fuzzing for each parser of them. Needs
# `npm run setup` before, and GCC or Clang with their sanitizers.
#   scripts/check-addon-sanitized.sh [TEST FILE OR MOCHA OPTION ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake -S . -B build/sanitized -DCMAKE_BUILD_TYPE=Release -DBIDISEG_SANITIZE=address,undefined
cmake --build build/sanitized --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-2}"

# Node is built without them, so the runtimes have to be there before it starts; libstdc++ with them, or the sanitizer finds
# no __cxa_throw to stand in front of.
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' build/sanitized/CMakeCache.txt)
runtimes=()
for library in libasan.so libubsan.so libstdc++.so.6; do
  runtimes+=("$("$compiler" -print-file-name=$library)")
done

# Leaks are not looked for: Node, V8 and LibTorch all keep memory until the process ends; test/boundary/ counts our objects.
# A piece of memory above 256 MB, which no small file is worth, ends the process.
export ASAN_OPTIONS=detect_leaks=0:max_allocation_size_mb=256:quarantine_size_mb=64:${ASAN_OPTIONS:-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-}
export BIDISEG_ADDON=build/sanitized/bidiseg.node
sanitized() { LD_PRELOAD="${runtimes[*]}" node "$@"; }
mocha=(node_modules/mocha/bin/mocha.js --no-config --timeout 600000)
if (( $# )); then
  sanitized "${mocha[@]}" "$@"
  exit
fi
sanitized "${mocha[@]}" dist/test/unit/pth.test.js dist/test/boundary/safetensors.test.js
for parser in safetensors pth 'places in weights files'; do
  sanitized dist/test/fuzz/main.js 60 1 "$parser"
done
