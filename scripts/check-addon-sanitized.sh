#!/usr/bin/env bash
# Builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer in build/sanitized/ (build/Release/ does not change)
# and runs tests with it. By default these are the tests of hostile weights files, a minute of fuzzing for each of their
# parsers, and the boundary tests. Run `npm run setup` first. Needs GCC or Clang with their sanitizers.
#   scripts/check-addon-sanitized.sh [TEST FILE OR MOCHA OPTION ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake -S . -B build/sanitized -DCMAKE_BUILD_TYPE=Release -DBIDISEG_SANITIZE=address,undefined
cmake --build build/sanitized --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-2}"

# Node is built without sanitizers, so that their runtimes must be loaded before it starts. libstdc++ must be loaded with them,
# because the sanitizer intercepts __cxa_throw.
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' build/sanitized/CMakeCache.txt)
runtimes=()
for library in libasan.so libubsan.so libstdc++.so.6; do
  runtimes+=("$("$compiler" -print-file-name=$library)")
done

# Without leak detection: Node, V8 and LibTorch keep memory until the process ends. test/boundary/ counts our objects instead.
common=detect_leaks=0:quarantine_size_mb=64
# An allocation above 256 MB, which no small file justifies, ends the process.
strict=$common:max_allocation_size_mb=256
# The boundary tests allocate too much on purpose.
lenient=$common:max_allocation_size_mb=16384:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-}
export BIDISEG_ADDON=$PWD/build/sanitized/bidiseg.node
sanitized() { # ASAN_OPTIONS ARGUMENTS...
  ASAN_OPTIONS=$1:${ASAN_OPTIONS:-} LD_PRELOAD="${runtimes[*]}" node "${@:2}"
}
mocha=(node_modules/mocha/bin/mocha.js --no-config --timeout 1800000)
if (( $# )); then
  sanitized "$lenient" "${mocha[@]}" "$@"
  exit
fi
sanitized "$strict" "${mocha[@]}" dist/test/unit/weights/pth.test.js dist/test/boundary/safetensors.test.js
for parser in safetensors pth 'places in weights files'; do
  sanitized "$strict" dist/test/engines/fuzz/main.js 60 1 "$parser"
done
# Without the test of resident memory: freed memory stays in the sanitizer's quarantine for a while.
sanitized "$lenient" "${mocha[@]}" --spec 'dist/test/boundary/*.test.js' \
  --ignore dist/test/boundary/safetensors.test.js --ignore dist/test/boundary/pseudo-label-memory.test.js
