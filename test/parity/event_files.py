"""Reads the event files of a run's folder `tensorboard` with TensorBoard's own reader and prints them as JSON, by stage."""

import json
import os
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

result = {}
for stage in sorted(os.listdir(sys.argv[1])):
    # All images and scalars are kept, none sampled away.
    events = EventAccumulator(os.path.join(sys.argv[1], stage), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    result[stage] = {
        "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
        "images": {
            tag: [[e.step, e.width, e.height, e.encoded_image_string.hex()] for e in events.Images(tag)]
            for tag in tags["images"]
        },
    }
json.dump(result, sys.stdout)
