"""Decodes and resizes images with Pillow's bicubic. Reads [[file, width, height, output], ...] from stdin as JSON;
writes RGB bytes. A width of 0 leaves the size as it is."""

import json
import sys

from PIL import Image

for file, width, height, output in json.load(sys.stdin):
    image = Image.open(file).convert("RGB")
    if width:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    with open(output, "wb") as out:
        out.write(image.tobytes())
