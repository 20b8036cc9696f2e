import type { ImageSize, RgbImage } from '../data/image-size.js';
import { checkNumber, invalidArgument } from '../support/validate.js';

/** `size` times each of the scales, each ⅛–8. */
export function scaledSizes({ width, height }: ImageSize, scales: readonly number[] = [1]): ImageSize[] {
  if (scales.length === 0) throw invalidArgument('scales', 'at least one number', scales);
  return scales.map((scale, i) => {
    checkNumber(`scales[${i}]`, scale, 1 / 8, 8);
    return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  });
}

/** What `Segmenter.predict` takes to average over views: the mirrored image, and the same image at other sizes. */
export function averagedOver({ flip = false, others }: { flip?: boolean | undefined; others: RgbImage[] }) {
  return {
    ...(flip && { flip }),
    ...(others.length > 0 && {
      otherSizes: others.map(({ data, width, height }) => ({ images: data, width, height })),
    }),
  };
}
