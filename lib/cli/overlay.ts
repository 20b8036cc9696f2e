import type { LabelImage, RgbImage } from '../data/image-files.js';

/**
 * The image with each pixel mixed half and half with the color of its class.
 *
 * @param palette 3 bytes (R, G, B) a class; pixels of classes beyond it, such as 255, keep the image's color
 */
export function overlay(image: RgbImage, labels: LabelImage, palette: Uint8Array): RgbImage {
  const data = Uint8Array.from(image.data);
  const classCount = palette.length / 3;
  for (let i = 0; i < labels.data.length; i++) {
    const label = labels.data[i]!;
    if (label >= classCount) continue;
    for (let channel = 0; channel < 3; channel++) {
      data[3 * i + channel] = (data[3 * i + channel]! + palette[3 * label + channel]!) >> 1;
    }
  }
  return { ...image, data };
}
