#!/bin/bash
# Trains on two "machines": network namespaces that a pair of virtual network devices joins, with torchrun in each. One
# process is killed, and then the link is cut for good. Needs root, iproute2 and a Python with torch. Takes two minutes.
#
#   scripts/check-two-machines.sh [FOLDER]     FOLDER: new, for the runs; default: a temporary one
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath "${1:-$(mktemp -d)}")
mkdir -p "$folder"
python=${PYTHON:-.libtorch/bin/python}
bidiseg="node dist/lib/cli/main.js" # relative, because the path of a checkout may have spaces
timeout=15
export OMP_NUM_THREADS=1 # results depend on the number of threads, in the last bits

cleanup() {
  set +e
  kill $(jobs -p) 2>/dev/null
  for name in bidiseg-a bidiseg-b; do
    ip netns pids $name 2>/dev/null | xargs -r kill -9
    ip netns delete $name 2>/dev/null
  done
}
trap cleanup EXIT
fail() {
  echo "FAILED: $*"
  exit 1
}

ip netns add bidiseg-a
ip netns add bidiseg-b
ip link add bidiseg-va type veth peer name bidiseg-vb
ip link set bidiseg-va netns bidiseg-a
ip link set bidiseg-vb netns bidiseg-b
for side in a b; do
  address=10.213.7.$([ $side = a ] && echo 1 || echo 2)
  ip -n bidiseg-$side address add $address/24 dev bidiseg-v$side
  ip -n bidiseg-$side link set bidiseg-v$side up
  ip -n bidiseg-$side link set lo up
done

cat > "$folder/config.yaml" <<CONFIG
preset: demo
segmenter: { width: 0.0625 }
discriminator: { baseWidth: 2 }
translator: { blocks: 6, baseWidth: 2, discriminatorWidth: 2 }
sizes:
  { source: [64, 32], target: [64, 32], evaluation: [64, 32], translation: { source: [64, 32], target: [64, 32], crop: [32, 32] } }
segmentation: { steps: 40, pseudoLabelSteps: 10, sourceOnlySteps: 40, batchSize: 1, accumulation: 2 }
translation: { steps: 10, batchSize: 2, perceptualWeight: 0, perceptualReconstructionWeight: 0, learningRate: 0.0001 }
loop: { rounds: 1, selfTrainingRounds: 1 }
data: { embedded: { size: [64, 32], sourceCount: 10, targetCount: 8, validationCount: 6 } }
checkpoint: { every: 5 }
logEvery: 1
sampleCount: 0
CONFIG

# machine SIDE RUN RESTARTS: torchrun on one machine
machine() {
  local address=10.213.7.$([ $1 = a ] && echo 1 || echo 2)
  GLOO_SOCKET_IFNAME=bidiseg-v$1 ip netns exec bidiseg-$1 "$python" -m torch.distributed.run --nnodes 2 \
    --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 10.213.7.1:29400 --rdzv-id "$2" --local-addr $address \
    --rdzv-conf "is_host=$([ $1 = a ] && echo 1 || echo 0)" --max-restarts "$3" --no-python $bidiseg train \
    "$folder/config.yaml" --output "$folder/$2" --process-timeout $timeout > "$folder/$2-$1.log" 2>&1
}
# wait_for RUN TEXT: until the run's event log has the text
wait_for() {
  for _ in $(seq 600); do
    grep -qs "$2" "$folder/$1/events.jsonl" && return
    sleep 0.2
  done
  tail -20 "$folder/$1"-?.log
  fail "the run $1 never came to $2"
}
# compare RUN: with the undisturbed run, bit for bit
compare() {
  for file in "$folder"/undisturbed/stages/*/weights.safetensors; do
    cmp "$file" "$folder/$1/${file#"$folder"/undisturbed/}" || fail "the run $1 is not the undisturbed one"
  done
  echo "  all weights are those of the undisturbed run, bit for bit"
}

echo "two processes on one machine, undisturbed"
$bidiseg train "$folder/config.yaml" --output "$folder/undisturbed" --processes 2 > "$folder/undisturbed.log" 2>&1 ||
  fail "$(tail -1 "$folder/undisturbed.log")"

echo "two machines, one process killed"
machine a killed 2 &
a=$!
machine b killed 2 &
b=$!
wait_for killed '"stage":"round-1/segmenter-0","step":10'
kill -9 "$(ip netns pids bidiseg-b | xargs -I{} sh -c 'tr "\0" " " < /proc/{}/cmdline | grep -q "^node" && echo {}' | head -1)"
wait $a || fail "$(tail -3 "$folder/killed-a.log")"
wait $b || fail "$(tail -3 "$folder/killed-b.log")"
grep -q 'continues after step' "$folder/killed-a.log" "$folder/killed-b.log" || fail "the run was not resumed"
compare killed

echo "two machines, the link cut for good"
machine a cut 0 &
a=$!
machine b cut 0 2>/dev/null &
b=$!
wait_for cut '"stage":"round-1/segmenter-0","step":10'
ip -n bidiseg-a link set bidiseg-va down
start=$(date +%s)
wait $a && fail "the run went on"
echo "  ended after $(($(date +%s) - start)) s, with a timeout of $timeout s"
grep -h '^bidiseg:' "$folder/cut-a.log" | cut -c1-160 | sed 's/^/  /'
grep -q 'no sign of rank' "$folder/cut-a.log" || fail "no error names the rank: $(tail -3 "$folder/cut-a.log")"
ip netns pids bidiseg-b | xargs -r kill -9
wait $b 2>/dev/null || true
$bidiseg resume "$folder/cut" --processes 2 > "$folder/cut.log" 2>&1 || fail "$(tail -1 "$folder/cut.log")"
compare cut
echo "all as it should be"
