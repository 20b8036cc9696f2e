#!/usr/bin/env bash
# Checks that the C++ and CUDA code is formatted by .clang-format. Needs clang-format 19 on the PATH or in CLANG_FORMAT.
# usage: scripts/check-format.sh [--fix]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

format=${CLANG_FORMAT:-clang-format}
if ! "$format" --version 2>/dev/null | grep -q 'version 19\.'; then
  echo "check-format: skipped: there is no clang-format 19 (pip install clang-format==19.1.7)"
  exit 0
fi
mapfile -t files < <(find native test/native -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' | sort)
if [[ ${1:-} == --fix ]]; then
  "$format" -i "${files[@]}"
else
  "$format" --dry-run --Werror "${files[@]}"
fi
echo "check-format: ${#files[@]} files"
