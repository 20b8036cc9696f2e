#!/usr/bin/env bash
# Runs native code with sanitizers. The CPU kernels run on random shapes with AddressSanitizer and UndefinedBehaviorSanitizer,
# for each instruction set of this machine. The CUDA kernels on the CPU, the compute thread and the heap of large blocks run
# with ThreadSanitizer. About two minutes.
# usage: scripts/check-kernels-sanitized.sh [TRIALS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

torch=$(cmake -P native/cmake/LibTorch.cmake | sed -n 's/^-- LIBTORCH_FOLDER=//p')
[[ -n $torch ]] || { echo "check-kernels-sanitized: no LibTorch was found. Run \`npm run setup\`." >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
common=(-std=c++20 -g -O1 -Inative -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include")
gomp=$(compgen -G "$torch/lib/libgomp*.so*" | head -1 || true)
link=("${gomp:--fopenmp}" -L"$torch/lib" -ltorch -ltorch_cpu -lc10 "-Wl,-rpath,$torch/lib")
cpu=(-fsanitize=address,undefined -fno-sanitize-recover=undefined)
# vptr needs type information that LibTorch does not export.
cpu+=(-fno-sanitize=vptr -ffp-contract=fast -fno-math-errno -fno-trapping-math)

objects=()
compile() { # SOURCE FLAGS...
  objects+=("$folder/$(basename "$1").o")
  g++ "${common[@]}" "${cpu[@]}" "${@:2}" -c "$1" -o "${objects[-1]}"
}
compile native/kernels/cpu/cell_sweep_portable.cc
capabilities=(default)
if [[ $(uname -m) == x86_64 ]]; then
  compile native/kernels/cpu/cell_sweep_avx2.cc -mavx2 -mfma
  compile native/kernels/cpu/cell_sweep_avx512.cc -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma
  for name in avx2 avx512; do
    # In /proc/cpuinfo the AVX-512 foundation is avx512f.
    if grep -q "${name/512/512f}" /proc/cpuinfo; then capabilities+=("$name"); fi
  done
  set -- "${1:-300}" -DBIDISEG_X86_KERNELS
fi
compile native/kernels/upsampled_softmax.cc "${@:2}"
compile test/native/cpu_kernels.cc
g++ "${cpu[@]}" "${objects[@]}" -o "$folder/cpu_kernels" "${link[@]}"
for capability in "${capabilities[@]}"; do
  # Without leak detection: LibTorch does not free its registries at exit.
  ASAN_OPTIONS=detect_leaks=0 ATEN_CPU_CAPABILITY=$capability "$folder/cpu_kernels" "${1:-300}"
done
for pair in normalization_on_cpu:cpu_normalization products:cpu_products; do
  program=${pair#*:}
  objects=()
  # Without OpenMP, at::parallel_for is serial, and MKL would start threads of its own.
  compile "native/kernels/${pair%:*}.cc" -fopenmp
  compile "test/native/$program.cc"
  g++ "${cpu[@]}" "${objects[@]}" -o "$folder/$program" "${link[@]}"
  ASAN_OPTIONS=detect_leaks=0 "$folder/$program" "${1:-300}"
done

g++ "${common[@]}" -fsanitize=thread test/native/cuda_kernels.cc test/native/cuda_normalization.cc -o "$folder/cuda_kernels" "${link[@]}"
# Without address space randomization: ThreadSanitizer of GCC 12 does not know the memory layout of newer Linux kernels.
TSAN_OPTIONS=exitcode=66 setarch -R "$folder/cuda_kernels" | tail -1
g++ -std=c++20 -g -O1 -Inative -fsanitize=thread native/core/block_heap.cc test/native/block_heap.cc -o "$folder/block_heap"
TSAN_OPTIONS=exitcode=66 setarch -R "$folder/block_heap"
node_api=(-DNAPI_VERSION=9 -DNODE_ADDON_API_CPP_EXCEPTIONS_ALL)
for package in node-api-headers/include node-addon-api; do node_api+=(-isystem "node_modules/$package"); done
sources=(native/binding/compute_thread.cc native/core/cancellation.cc test/native/compute_thread.cc)
for source in "${sources[@]}"; do
  g++ "${common[@]}" "${node_api[@]}" -fsanitize=thread -c "$source" -o "$folder/tsan-${source//\//-}.o"
done
names() { nm "$1" "$folder"/tsan-*.o | awk '/ napi_/ { print $NF }' | sort -u; }
mapfile -t missing < <(comm -23 <(names --undefined-only) <(names --defined-only) | sed 's/.*/-Wl,--defsym=&=unexpected_call/')
g++ -fsanitize=thread "$folder"/tsan-*.o "${missing[@]}" -o "$folder/compute_thread" "${link[@]}"
TSAN_OPTIONS=exitcode=66 setarch -R "$folder/compute_thread"
echo "check-kernels-sanitized: nothing found"
