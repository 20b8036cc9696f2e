import type { z } from 'zod';
import { boolean, choice, integer, numberChoice, section } from '../support/options.js';
import { networkFields } from './network-options.js';

/** Options of a translator's architecture that configs have too. */
export const translatorFields = {
  /** Unpaired: number of residual blocks of each generator. */
  blocks: numberChoice(6, 9).default(9),
  /** Paired: how often the U-Net halves the image. The sides of an image must be divisible by 2 to this power. */
  depth: integer(2, 10).default(8),
  /** Channels after the first convolution of each generator. */
  baseWidth: integer(1, 512).default(64),
  /**
   * Unpaired: generators that learn what to change, y = tanh(f(x) + w·IN(x) + b) instead of y = tanh(f(x)). IN(x) is the
   * image with zero mean and unit deviation in each channel. Details pass through from the first step on, as gray images.
   * The colors of the other domain are learned. For short trainings. Not in the paper.
   */
  residual: boolean().default(false),
  /**
   * Unpaired: how generators double the size of their features, twice each. `transposed`: by a transposed convolution, as
   * in the paper. `resize`: by nearest neighbors and a convolution, which leaves no checkerboard (Odena et al. 2016). It
   * takes four times the arithmetic of a transposed convolution. Not in the paper.
   */
  upsampling: choice('transposed', 'resize').default('transposed'),
  /** Channels after the first convolution of each image discriminator. */
  discriminatorWidth: integer(1, 512).default(64),
};

/**
 * Declares the option for the kind of translator. `unpaired` has F and F⁻¹, ResNet generators as in CycleGAN. `paired`
 * has only F, the U-Net generator of pix2pix, for training on pairs of images.
 */
export const pairingOption = () => choice('unpaired', 'paired').default('unpaired');

export const translatorSchema = section({
  /** Kind of translator: `unpaired` (F and F⁻¹ as in CycleGAN) or `paired` (F alone, as in pix2pix). */
  pairing: pairingOption(),
  ...translatorFields,
  ...networkFields,
});

/** Options of {@link Translator.create}. Omitted ones get their defaults. */
export interface TranslatorOptions extends z.input<typeof translatorSchema> {}
/** Options of a translator, with defaults filled in. */
export interface CompleteTranslatorOptions extends Readonly<z.output<typeof translatorSchema>> {}

/** Returns the number that must divide the sides of an image that a translator trains on. */
export function sizeMultiple({ pairing, depth }: { pairing: 'unpaired' | 'paired'; depth: number }): number {
  return pairing === 'paired' ? 2 ** depth : 4;
}
