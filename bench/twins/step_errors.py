"""Losses and gradients of one step in PyTorch eager. `case["step"]` names the benchmark of the step."""

import importlib

import numpy

EAGER, CHANNELS_LAST, FP64 = "eager", "eager, channels_last", "fp64"


def benchmark(case):
    return importlib.import_module(case["step"].replace("-", "_"))


def make_inputs(case, condition, random, prefix):
    return benchmark(case).make_inputs(case, condition, random, prefix)


def first_moments(optimizer, parameters):
    """After one step from zero, these are the gradients, but for a factor that is the same on all sides."""
    states = [optimizer.state[parameters[name]] for name in sorted(parameters) if parameters[name].requires_grad]
    moments = [state["exp_avg"] if "exp_avg" in state else state["momentum_buffer"] for state in states]
    return numpy.concatenate([moment.double().numpy().ravel() for moment in moments])


def twin_named(name):
    class Twin:
        def __init__(self, case):
            self.step = benchmark(case).TWINS[name](case)

        def load(self, inputs):
            self.step.load(inputs)

        def prepare(self):
            pass

        def run(self):
            self.step.run()

        def result(self):
            return {**self.step.result(), "gradients": first_moments(*self.step.trained())}

    return Twin


TWINS = {name: twin_named(name) for name in (EAGER, CHANNELS_LAST, FP64)}
