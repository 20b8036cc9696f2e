"""The PyTorch side of a benchmark. It executes commands, one line of JSON each, and answers each with one line.

    python bench/twins/side.py BENCHMARK

BENCHMARK is a module beside this one with `make_inputs(case, condition, random, folder)` and `TWINS`, classes by name.
A twin is made from a case, and has load(inputs), warm_up(), prepare() (before each run, not timed), run() and result().
bench/ours/side.mjs does the same in Node.js.
"""

import gc
import importlib
import json
import os
import statistics
import sys
import time
import traceback
import warnings

import numpy
import torch

import memory


def write_values(values, prefix):
    """Writes arrays into raw files, which JavaScript reads as typed arrays. Names of files stay names."""
    described = {}
    for name, value in values.items():
        if isinstance(value, str):
            described[name] = value
            continue
        array = value.detach().cpu().contiguous().numpy() if torch.is_tensor(value) else numpy.asarray(value)
        file = f"{prefix}-{name}.raw"
        array.tofile(file)
        described[name] = {"file": file, "dtype": str(array.dtype), "shape": list(array.shape)}
    return described


def read_values(described):
    return {
        name: value if isinstance(value, str) else numpy.fromfile(value["file"], value["dtype"]).reshape(value["shape"])
        for name, value in described.items()
    }


class Side:
    def __init__(self, benchmark):
        self.benchmark = importlib.import_module(benchmark)
        self.kept = {}

    def versions(self, request):
        versions = {
            "torch": torch.__version__,
            "python": ".".join(map(str, sys.version_info[:3])),
            "numpy": numpy.__version__,
        }
        if torch.cuda.is_available():
            versions["gpu"] = torch.cuda.get_device_name()
            versions["cuda"] = torch.version.cuda
            versions["cudnn"] = torch.backends.cudnn.version()
        return versions

    def inputs(self, request):
        """Makes fresh inputs, for both sides."""
        random = numpy.random.default_rng(request["seed"])
        torch.manual_seed(request["seed"][0])
        inputs = self.benchmark.make_inputs(request["case"], request["condition"], random, request["prefix"])
        return write_values(inputs, request["prefix"])

    def create(self, request):
        torch.set_num_threads(request["threads"])
        self.device = request["case"].get("device", "cpu")
        torch.backends.cudnn.allow_tf32 = request.get("tf32", True)
        self.twin = self.benchmark.TWINS[request["twin"]](request["case"])

    def keep(self, request):
        """Keeps the twin under a name, for turns of several twins."""
        self.kept[request["name"]] = self.twin

    def use(self, request):
        self.twin = self.kept[request["name"]]

    def forget(self, request):
        """Frees all twins and the memory of the device."""
        self.kept, self.twin = {}, None
        gc.collect()
        torch.compiler.reset()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def run(self):
        self.twin.run()
        if self.device != "cpu":
            torch.cuda.synchronize()

    def sample(self, request):
        """Measures the seconds of each run, for as long as requested."""
        seconds = []
        while sum(seconds) < request["seconds"] or len(seconds) < request["least"]:
            self.twin.prepare()
            start = time.perf_counter()
            self.run()
            seconds.append(time.perf_counter() - start)
        return seconds

    def profile(self, request):
        """Returns what one run does, as lib/native/profiling.ts does: operations, calls of CUDA, kernels, copies."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device != "cpu":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.twin.prepare()
        with torch.profiler.profile(activities=activities) as profile:
            self.run()
        lines = {}
        for event in profile.profiler.kineto_results.events():
            key = (event.name(), event.device_type() != torch.autograd.DeviceType.CPU)
            count, seconds = lines.get(key, (0, 0))
            lines[key] = (count + 1, seconds + 1e-9 * event.duration_ns())
        return [
            {"name": name, "onDevice": on_device, "count": count, "seconds": seconds}
            for (name, on_device), (count, seconds) in lines.items()
        ]

    def device_memory(self, request):
        """Measures the bytes that a run adds on the device at its peak."""
        self.twin.prepare()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.run()
        return torch.cuda.max_memory_allocated() - before

    def load(self, request):
        self.twin.load(read_values(request["inputs"]))

    def warm_up(self, request):
        start = time.perf_counter()
        self.twin.warm_up()
        return time.perf_counter() - start

    def memory(self, request):
        """Measures the bytes that a run adds to the process at its peak. None if the system does not report them."""
        self.twin.prepare()
        before = memory.reset_peak()
        self.twin.run()
        return memory.peak_above(before)

    def measure(self, request):
        """Measures the median seconds of as many runs as fit into the requested time, at least one."""
        seconds = []
        while sum(seconds) < request["seconds"] or not seconds:
            self.twin.prepare()
            start = time.perf_counter()
            self.twin.run()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def figures(self, request):
        """Returns the figures that the last run reports."""
        return self.twin.figures()

    def result(self, request):
        return write_values(self.twin.result(), request["prefix"])


def main():
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    side = Side(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(side, request["do"])(request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


main()
