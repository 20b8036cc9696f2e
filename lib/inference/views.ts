import type { ImageSize, RgbImage } from '../data/image-size.js';
import { checkNumber, invalidArgument } from '../support/validate.js';

/** Multiplies `size` by each of the scales, each ⅛–8. Default [1]. */
export function scaledSizes({ width, height }: ImageSize, scales: readonly number[] = [1]): ImageSize[] {
  if (scales.length === 0) throw invalidArgument('scales', 'at least one number', scales);
  return scales.map((scale, i) => {
    checkNumber(`scales[${i}]`, scale, 1 / 8, 8);
    return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  });
}

/** Makes the options of `Segmenter.predict` that average over the mirrored image and over other sizes. */
export function averagedOver({ flip = false, others }: { flip?: boolean | undefined; others: RgbImage[] }) {
  return {
    ...(flip && { flip }),
    ...(others.length > 0 && {
      otherSizes: others.map(({ data, width, height }) => ({ images: data, width, height })),
    }),
  };
}
