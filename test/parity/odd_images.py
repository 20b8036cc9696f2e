"""Writes images of every kind that is read, and beside each, as FILE.rgb, what Pillow's convert('RGB') makes of it.

Reads the folder to write to from stdin as JSON; prints [[file, width, height], ...]. Grayscale of 16 bits is not among
them: Pillow clips it. Pillow turns a TIFF with an orientation tag; beside that file lies the image as it is stored.
"""

import json
import os
import sys

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 33, 22

folder = json.load(sys.stdin)
rng = np.random.default_rng(3)


def noise(*channels):
    return rng.integers(0, 256, (HEIGHT, WIDTH, *channels), dtype=np.uint8)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


rgb = Image.fromarray(noise(3))
other = Image.fromarray(noise(3))
gray = Image.fromarray(noise())
rgba = Image.fromarray(noise(4))
palette = rgb.quantize(16)
frames = {"save_all": True, "append_images": [other]}
images = {
    "rgb.png": (rgb, {}),
    "rgb.tif": (rgb, {}),
    "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
    "rgb.jpg": (rgb, {"quality": 90}),
    "rgb.webp": (rgb, {"lossless": True}),
    "lossy.webp": (rgb, {"quality": 80}),
    "turned.jpg": (rgb, {"exif": turned()}),
    "turned.png": (rgb, {"exif": turned()}),
    "turned.tif": (rgb, {"exif": turned()}),
    "gray.png": (gray, {}),
    "gray.jpg": (gray, {}),
    "gray.tif": (gray, {}),
    "bits.png": (gray.convert("1"), {}),
    "bits.tif": (gray.convert("1"), {}),
    "gray-alpha.png": (Image.merge("LA", (gray, Image.fromarray(noise()))), {}),
    "rgba.png": (rgba, {}),
    "rgba.tif": (rgba, {}),
    "rgba.webp": (rgba, {"lossless": True, "exact": True}),
    "palette.png": (palette, {}),
    "palette-transparent.png": (palette, {"transparency": 3}),
    "palette-alpha.png": (palette, {"transparency": bytes(range(0, 256, 16))}),
    "gray-transparent.png": (gray, {"transparency": 5}),
    "rgb-transparent.png": (rgb, {"transparency": (1, 2, 3)}),
    "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 90}),
    "cmyk.tif": (rgb.convert("CMYK"), {}),
    "animated.webp": (rgb, {**frames, "lossless": True}),
    "animated.png": (rgb, frames),
    "pages.tif": (rgb, frames),
    "wrong-name.jpg": (rgb, {"format": "PNG"}),
}
files = []
for name, (image, options) in images.items():
    file = os.path.join(folder, name)
    image.save(file, **options)
    with Image.open(file) as written, open(f"{file}.rgb", "wb") as out:
        pixels = written.convert("RGB")
        if name == "turned.tif":
            assert pixels.size == (HEIGHT, WIDTH), "Pillow no longer turns TIFF"
            pixels = pixels.transpose(Image.Transpose.ROTATE_90)
        out.write(pixels.tobytes())
    files.append([file, WIDTH, HEIGHT])
print(json.dumps(files))
