#!/usr/bin/env bash
# Everything that needs a GPU, in one run of at most nine minutes: tests, compute-sanitizer, benchmarks and the demo. Nothing is
# installed or compiled: dist/, node_modules/ and the addon must be there. PYTHON names a Python with the torch that the addon is
# linked to. A part that fails stops nothing.
#   usage: scripts/gpu-check.sh [--part tests|sanitizer|compile|demo|bench]... [FOLDER FOR LOGS]
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
((${#parts[@]})) || parts=(tests sanitizer compile demo bench)
device=${DEVICE:-cuda}
export DEVICE=$device
logs=$folder/logs
mkdir -p "$logs" "$logs/results" "$logs/traces"
: >"$folder/table.txt"
began=$SECONDS
wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

# run NAME LIMIT COMMAND...: runs the command with a limit in seconds, its output in a log, and adds a line to the table
run() {
  local name=$1 limit=$2 start=$SECONDS code
  shift 2
  timeout --kill-after=10 "$limit" "$@" >"$logs/$name.log" 2>&1 </dev/null
  code=$?
  local outcome="failed ($code)"
  ((code == 0)) && outcome=passed
  ((code == 124 || code == 137)) && outcome="stopped after $limit s"
  printf '%-24s %-22s %4d s  from %4d s  %s\n' "$name" "$outcome" $((SECONDS - start)) $((start - began)) \
    "$(grep -aE '^ +[0-9]+ (passing|failing|pending)|ERROR SUMMARY|RACECHECK SUMMARY|final mIoU|done' "$logs/$name.log" | tr -s ' \n' ' ' | tail -c 100)" \
    >>"$folder/table.txt"
}

mocha=(node node_modules/mocha/bin/mocha.js --no-config --timeout 60000)
bench=(node bench/run.mjs cuda --device "$device" --output "$logs/results" --cache "$logs/../compiled")
compiled=(--engine torch.compile --engine 'torch.compile, bf16 autocast')
sanitizer=$(command -v compute-sanitizer || true)
[[ $device == cpu ]] || nvidia-smi >"$logs/nvidia-smi.log" 2>&1

# Together: they fill a GPU badly alone, and nothing of them is timed.
if wanted tests; then
  for file in dist/test/gpu/*.test.js; do
    name=$(basename "$file" .test.js)
    if [[ $device == cpu ]]; then run "test-$name" 400 "${mocha[@]}" "$file"; else run "test-$name" 200 "${mocha[@]}" "$file" & fi
  done
fi
if wanted sanitizer; then
  if [[ $device == cpu || -z $sanitizer ]]; then
    echo "sanitizer                skipped: ${sanitizer:-no compute-sanitizer}, device $device" >>"$folder/table.txt"
  else
    for tool in memcheck racecheck; do
      run "$tool" 200 "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 "${mocha[@]}" \
        dist/test/gpu/sanitized-kernels.js &
    done
  fi
fi
if wanted compile && [[ $device != cpu ]]; then
  run compile-segmentation 230 "${bench[@]}" segmentation-step --case ResNet-101 --turns 0 "${compiled[@]}" &
  run compile-translation 230 "${bench[@]}" translation-step --turns 0 "${compiled[@]}" &
  run compile-inference 230 "${bench[@]}" inference --turns 0 "${compiled[@]}" &
fi
if wanted demo; then
  if [[ $device == cpu ]]; then
    run demo 60 node dist/lib/cli/main.js demo --output "$folder/demo" --set segmentation.steps=2 --set segmentation.sourceOnlySteps=2 --set segmentation.pseudoLabelSteps=2 --set translation.steps=2
  else
    run demo 300 node dist/lib/cli/main.js demo --device "$device" --output "$folder/demo" &
  fi
fi
wait

# Alone, because it measures.
if wanted bench; then
  if [[ $device == cpu ]]; then
    run bench 300 "${bench[@]}" --turns 1 --seconds 0.1 --engine 'bidiseg' --engine 'bidiseg, tf32' --engine eager
  else
    run bench-losses 60 "${bench[@]}" masked-cross-entropy --traces "$logs/traces"
    run bench-segmentation 120 "${bench[@]}" segmentation-step --traces "$logs/traces"
    run bench-translation 120 "${bench[@]}" translation-step --traces "$logs/traces"
    run bench-inference 100 "${bench[@]}" inference --traces "$logs/traces"
  fi
fi

tar -czf "$folder/logs.tar.gz" -C "$folder" logs
echo "took $((SECONDS - began)) s on $device" >>"$folder/table.txt"
grep -ahE '^\| (bidiseg|eager|torch|reference|engine|ours)' "$logs"/bench*.log 2>/dev/null || true
cat "$folder/table.txt"
