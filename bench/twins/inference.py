"""Computes class indices from bytes of images: PyTorch eager, and ONNX Runtime with the model that bidiseg exports."""

import sys
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F

from segmentation_step import make_images, save_new

sys.path.append(str(Path(__file__).parents[2] / "test/parity"))
import networks
import training


def make_inputs(case, condition, random, prefix):
    return {
        "images": make_images(case["images"], random),
        "segmenter": save_new({"kind": "deeplab-v2", "options": case["segmenter"]}, f"{prefix}-segmenter.pth"),
    }


class Eager:
    dtype = torch.float32
    memory_format = torch.contiguous_format
    autocast = False

    def __init__(self, case):
        self.case = case
        self.device = case.get("device", "cpu")
        torch.set_grad_enabled(False)

    def load(self, inputs):
        self.images = torch.from_numpy(inputs["images"])
        network = {"kind": "deeplab-v2", "options": self.case["segmenter"]}
        self.segmenter = networks.load(network, torch.load(inputs["segmenter"])).eval()
        self.segmenter.to(self.device, self.dtype, memory_format=self.memory_format)

    def warm_up(self):
        """Does nothing, so that memory is measured at the first run."""

    def prepare(self):
        pass

    def logits(self, image):
        return training.upsample(self.segmenter(image.to(memory_format=self.memory_format)), self.images.shape[1:3])

    def run(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            logits = self.logits(training.segmenter_input(self.images.to(self.device), self.dtype))
        self.labels = logits.argmax(1).to(torch.uint8).cpu()

    def result(self):
        return {"labels": self.labels}


class ChannelsLast(Eager):
    memory_format = torch.channels_last


class Bf16AutocastChannelsLast(ChannelsLast):
    autocast = True


class Compiled(ChannelsLast):
    def load(self, inputs):
        super().load(inputs)
        self.segmenter = torch.compile(self.segmenter, dynamic=False)

    def warm_up(self):
        """Compiles, because the code is for one shape."""
        self.run()


class CompiledBf16(Compiled):
    autocast = True


class OnnxRuntime(Eager):
    def load(self, inputs):
        import onnxruntime

        self.images = torch.from_numpy(inputs["images"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(
            inputs["segmenter"] + ".onnx", options, providers=["CPUExecutionProvider"]
        )

    def logits(self, image):
        return torch.from_numpy(self.session.run(["logits"], {"image": image.numpy()})[0])


class OpenVino(Eager):
    def load(self, inputs):
        import openvino

        self.images = torch.from_numpy(inputs["images"])
        core = openvino.Core()
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"})
        self.model = core.compile_model(inputs["segmenter"] + ".onnx", "CPU")

    def logits(self, image):
        return torch.from_numpy(self.model(image.numpy())[0])


class Fp64(Eager):
    dtype = torch.float64


TWINS = {
    "eager": Eager,
    "eager, channels_last": ChannelsLast,
    "eager, bf16 autocast, channels_last": Bf16AutocastChannelsLast,
    "torch.compile": Compiled,
    "torch.compile, bf16 autocast": CompiledBf16,
    "ONNX Runtime": OnnxRuntime,
    "OpenVINO": OpenVino,
    "fp64": Fp64,
}
