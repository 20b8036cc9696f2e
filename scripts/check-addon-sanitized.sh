#!/usr/bin/env bash
# Builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer in build/sanitized/ and runs tests with it. It does
# not change build/Release/. By default it runs the hostile weights files, a minute of fuzzing for each of their parsers, and
# the boundary's tests. Needs `npm run setup` before, and GCC or Clang with their sanitizers. See docs/design/sanitizers.md.
#   scripts/check-addon-sanitized.sh [TEST FILE OR MOCHA OPTION ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake -S . -B build/sanitized -DCMAKE_BUILD_TYPE=Release -DBIDISEG_SANITIZE=address,undefined
cmake --build build/sanitized --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-2}"

# Node is built without sanitizers, so their runtimes must be loaded before it starts. libstdc++ must be loaded with them.
# Otherwise the sanitizer does not find the __cxa_throw that it intercepts.
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' build/sanitized/CMakeCache.txt)
runtimes=()
for library in libasan.so libubsan.so libstdc++.so.6; do
  runtimes+=("$("$compiler" -print-file-name=$library)")
done

# Leaks are not detected, because Node, V8 and LibTorch all keep memory until the process ends. test/boundary/ counts our
# objects instead.
common=detect_leaks=0:quarantine_size_mb=64
# An allocation above 256 MB ends the process. No small file needs so much.
strict=$common:max_allocation_size_mb=256
# The boundary's tests ask for too much memory on purpose.
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
# The sanitizer keeps freed memory in quarantine for a while, so tests of the resident size are left out.
sanitized "$lenient" "${mocha[@]}" --spec 'dist/test/boundary/*.test.js' \
  --ignore dist/test/boundary/safetensors.test.js --ignore dist/test/boundary/pseudo-label-memory.test.js
