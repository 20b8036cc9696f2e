#!/usr/bin/env bash
# Compiles every CUDA source, and every C++ source with a CUDA part, with nvcc. It links nothing and needs no GPU: the CPU
# build of LibTorch has the CUDA headers too, except the generated macros, which a define replaces. About half a minute per
# file. usage: scripts/check-cuda-compiles.sh [FILE ...]      ARCH=sm_90 by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

skip() { echo "check-cuda-compiles: skipped: $1"; exit 0; }
fail() { echo "check-cuda-compiles: $1" >&2; exit 1; }

if (( $# )); then
  files=("$@")
else
  mapfile -t files < <({ find native -name '*.cu'; grep -rl --include='*.cc' 'BIDISEG_CUDA' native || true; } | sort)
fi
(( ${#files[@]} )) || skip "there is no .cu file under native/, and no .cc file that mentions BIDISEG_CUDA"
command -v nvcc >/dev/null || skip "there is no nvcc on the PATH"
torch=$(cmake -P native/cmake/LibTorch.cmake | sed -n 's/^-- LIBTORCH_FOLDER=//p')
[[ -n $torch ]] || fail "no LibTorch was found. Run \`npm run setup\`."

includes=(-Inative)
for folder in "$torch/include" "$torch/include/torch/csrc/api/include" \
    node_modules/node-api-headers/include node_modules/node-addon-api; do
  includes+=(-isystem "$folder")
done
defines=(-DBIDISEG_CUDA "-DBIDISEG_LIBTORCH_ORIGIN=\"check\"" -DNAPI_VERSION=9 -DNODE_ADDON_API_CPP_EXCEPTIONS_ALL)
[[ -f $torch/include/c10/cuda/impl/cuda_cmake_macros.h ]] || defines+=(-DC10_USING_CUSTOM_GENERATED_MACROS)

object=$(mktemp --suffix=.o)
trap 'rm -f "$object"' EXIT
for file in "${files[@]}"; do
  SECONDS=0
  nvcc -std=c++20 -arch="${ARCH:-sm_90}" --expt-relaxed-constexpr -diag-suppress=20012,20013,20014 -Xcompiler=-fPIC \
    "${defines[@]}" "${includes[@]}" -c "$file" -o "$object" || fail "$file does not compile."
  echo "check-cuda-compiles: $file compiles ($SECONDS s)"
done
