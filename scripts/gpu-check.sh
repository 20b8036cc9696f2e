#!/usr/bin/env bash
# Everything that needs a GPU, in one run of at most nine minutes: tests, compute-sanitizer, benchmarks and the demo. Nothing is
# installed or compiled: dist/, node_modules/ and the addon must be there. PYTHON names a Python with the torch that the addon is
# linked to. A part that fails stops nothing.
#   usage: scripts/gpu-check.sh [--part tests|sanitizer|demo|bench|compiled]... [FOLDER FOR LOGS]
#   Without --part: all but compiled, the benchmarks beside torch.compile, which compiles for minutes.
#   DEVICE=cpu tries the script itself on the CPU with tiny sizes; it shows no speed.
#   FOLDER gets table.txt and logs.tar.gz; the default is gpu-check.
set -uo pipefail
cd "$(dirname "$0")/.."
parts=() folder=gpu-check
while (($#)); do
  case $1 in
    --part) parts+=("$2"); shift 2 ;;
    -*) echo "gpu-check: expected --part NAME or a folder but received $1" >&2; exit 2 ;;
    *) folder=$1; shift ;;
  esac
done
((${#parts[@]})) || parts=(tests sanitizer demo bench)
device=${DEVICE:-cuda}
export DEVICE=$device
mkdir -p "$folder"
folder=$(realpath "$folder")
logs=$folder/logs
mkdir -p "$logs" "$logs/results" "$logs/traces"
: >"$folder/table.txt"
began=$SECONDS budget=${BUDGET:-540} # seconds
wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

# run NAME LIMIT COMMAND...: runs the command with a limit in seconds, its output in a log, and adds a line to the table
run() {
  local name=$1 limit=$2 start=$SECONDS code left=$((began + budget - SECONDS))
  shift 2
  ((limit < left)) || limit=$left
  if ((limit < 5)); then
    echo "$name: no time left" >>"$folder/table.txt"
    return
  fi
  timeout --kill-after=10 "$limit" "$@" >"$logs/$name.log" 2>&1 </dev/null
  code=$?
  local outcome="failed ($code)"
  ((code == 0)) && outcome=passed
  ((code == 124 || code == 137)) && outcome="stopped after $limit s"
  printf '%-24s %-22s %4d s  from %4d s  %s\n' "$name" "$outcome" $((SECONDS - start)) $((start - began)) \
    "$(grep -aE '^ +[0-9]+ (passing|failing|pending)|ERROR SUMMARY|RACECHECK SUMMARY|M[12]\(2\).*mIoU' "$logs/$name.log" | tr -s ' \n' ' ' | tail -c 100)" \
    >>"$folder/table.txt"
}

mocha=(node node_modules/mocha/bin/mocha.js --no-config --exit --timeout 60000)
bench=(node bench/run.mjs cuda --device "$device" --cache "$folder/compiled")
measure=("${bench[@]}" --output "$logs/results")
compile=("${bench[@]}" --output "$folder/compile" --turns 0)
sanitizer=$(command -v compute-sanitizer || true)
[[ $device == cpu ]] || nvidia-smi >"$logs/nvidia-smi.log" 2>&1

# Together: each fills a GPU badly alone, and nothing of this is timed.
threads=${OMP_NUM_THREADS:-}
[[ $device == cpu ]] || export OMP_NUM_THREADS=3
if wanted tests; then
  for file in dist/test/gpu/*.test.js dist/test/boundary/misuse-matrix.test.js; do
    name=test-$(basename "$file" .test.js)
    [[ $name == test-robustness ]] && continue
    if [[ $device == cpu ]]; then run "$name" 400 "${mocha[@]}" "$file"; else run "$name" 180 "${mocha[@]}" "$file" & fi
  done
fi
if wanted sanitizer; then
  if [[ $device == cpu || -z $sanitizer ]]; then
    for part in losses steps; do run "sanitized-$part" 60 node dist/test/gpu/sanitized-kernels.js "$part"; done
    echo "sanitizer: skipped, because ${sanitizer:-there is no compute-sanitizer} needs a GPU" >>"$folder/table.txt"
  else
    # Our kernels alone, if this version can choose: those of libraries take minutes.
    only=()
    "$sanitizer" --help | grep -q -e '--kernel-name' && only=(--kernel-name kns=bidiseg)
    # Not racecheck of steps: it fails on an exception of its own beside cuDNN. test/native looks for races there.
    for check in memcheck-losses memcheck-steps racecheck-losses; do
      run "$check" 180 "$sanitizer" --tool "${check%-*}" "${only[@]}" --error-exitcode 9 --print-limit 20 \
        node dist/test/gpu/sanitized-kernels.js "${check#*-}" &
    done
  fi
fi
if wanted demo; then
  few=()
  [[ $device == cpu ]] && few=(--set segmentation.steps=2 --set segmentation.sourceOnlySteps=2 --set segmentation.pseudoLabelSteps=2
    --set translation.steps=2)
  run demo 180 node dist/lib/cli/main.js demo --device "$device" --output "$folder/demo" "${few[@]}" &
fi
wait
# Alone, because it fills the device and measures its memory.
wanted tests && run test-robustness 90 "${mocha[@]}" dist/test/gpu/robustness.test.js
export OMP_NUM_THREADS=$threads
[[ -n $threads ]] || unset OMP_NUM_THREADS

# Alone, because it measures. A benchmark that is cut short leaves the cases that it has measured.
if wanted bench; then
  if [[ $device == cpu ]]; then
    run bench 300 "${measure[@]}" --turns 1 --seconds 0.1 --engine bidiseg --engine 'bidiseg, tf32' --engine eager
  else
    run bench-losses 60 "${measure[@]}" masked-cross-entropy --seconds 0.3 --traces "$logs/traces"
    run bench 240 "${measure[@]}" segmentation-step inference translation-step --without compile --seconds 0.3
  fi
fi
# The engines compile side by side, and a second run takes what they have compiled.
if wanted compiled && [[ $device != cpu ]]; then
  sizes=(--case 'ResNet-101, 512×1024' --case '9 blocks, 452²' --case 'ResNet-101 ×1')
  for engine in torch.compile 'torch.compile, bf16 autocast'; do
    for name in segmentation-step translation-step inference; do
      run "compile-$name-${engine//[^a-z0-9]/}" 240 "${compile[@]}" "$name" "${sizes[@]}" --engine "$engine" &
    done
  done
  wait
  run bench-compiled 200 "${bench[@]}" --output "$logs/results/compiled" segmentation-step translation-step inference \
    "${sizes[@]}" --turns 2 --seconds 0.3
fi

tar -czf "$folder/logs.tar.gz" -C "$folder" logs
echo "took $((SECONDS - began)) s on $device" >>"$folder/table.txt"
grep -ahE '^\| (bidiseg|eager|torch|reference|engine|ours)' "$logs"/bench*.log 2>/dev/null || true
cat "$folder/table.txt"
