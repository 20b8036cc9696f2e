"""The twin: one process of DistributedDataParallel with Gloo, doing the same segmentation step.

python twin.py FILE RANK SIZE SECONDS BATCHES WIDTH HEIGHT BUCKET. Prints JSON.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "test/parity"))
from networks import DeepLabV2  # noqa: E402

file, rank, size, seconds, batches, width, height, bucket = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
model = DeepLabV2("resnet50", 0.5, 4, 19).train()
trained = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=bucket) if size > 1 else model
groups = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.9, weight_decay=5e-4)
count = batches // size
generator = torch.Generator().manual_seed(rank)
images = [torch.randn(1, 3, height, width, generator=generator) * 50 for _ in range(count)]
labels = [torch.randint(0, 19, (1, height, width), generator=generator) for _ in range(count)]


def step():
    optimizer.zero_grad()
    for i in range(count):
        last = i == count - 1
        with contextlib.nullcontext() if last or size == 1 else trained.no_sync():
            logits = F.interpolate(trained(images[i]), (height, width), mode="bilinear", align_corners=True)
            (F.cross_entropy(logits, labels[i]) / count).backward()
    optimizer.step()


step()
step()
times = []
end = time.perf_counter() + seconds
go = torch.ones(1)
while go.item():
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
    go[0] = float(time.perf_counter() < end)
    dist.broadcast(go, 0)
# A process that ends while the other still receives from it can be aborted by Gloo's threads.
dist.barrier()
dist.destroy_process_group()
times.sort()
print(json.dumps({"ms": 1000 * times[len(times) // 2], "steps": len(times)}))
