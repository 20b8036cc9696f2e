"""Runs an exported ONNX model in one engine, for scripts/check-exports.mjs.

python run-exported.py ENGINE MODEL N H W IMAGE LOGITS

IMAGE holds an image [N, 3, H, W] as raw float32. The logits are written to LOGITS in the same way.
"""

import sys

import numpy as np


def checker(file, _image):
    import onnx

    onnx.checker.check_model(file, full_check=True)
    onnx.shape_inference.infer_shapes(onnx.load(file), check_type=True, strict_mode=True, data_prop=True)


def onnxruntime(model, image):
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def onnxsim(file, image):
    import onnx
    import onnxsim

    simplified, same = onnxsim.simplify(onnx.load(file))
    assert same, "onnxsim finds that the simplified model computes something else"
    return onnxruntime(simplified.SerializeToString(), image)


def openvino(file, image):
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(file, "CPU", exact)({"image": image})[0]


def opencv(file, image):
    import cv2

    net = cv2.dnn.readNetFromONNX(file)
    net.setInput(image, "image")
    return net.forward()


engine, file, count, height, width, source, target = sys.argv[1:]
image = np.fromfile(source, np.float32).reshape(int(count), 3, int(height), int(width))
logits = globals()[engine](file, image)
if logits is not None:
    np.ascontiguousarray(logits, np.float32).tofile(target)
