import { z } from 'zod';
import { integer, number, range, section, text } from '../support/options.js';
import { sizeOption } from './image-size.js';

/** Random changes to the images of one domain while a segmenter trains on them, beside mirroring. Off by default. */
export const augmentationSchema = section({
  /** Images are resized to the training size times a factor drawn from [min, max]. null: to the training size. */
  scale: range(0.1, 10).nullable().default(null),
  /**
   * Then a random area of this size [width, height] is cut out. An image that was scaled to less lies at a random place on
   * the mean color, with labels to ignore around it. null: the training size.
   */
  crop: sizeOption().nullable().default(null),
  /** Random changes of colors. */
  colorJitter: section({
    /** Colors are multiplied by a factor from 1 − x to 1 + x. */
    brightness: number(0, 1).default(0),
    /** Distances from the mean color are multiplied by a factor from 1 − x to 1 + x. */
    contrast: number(0, 1).default(0),
    /** Distances from the gray of the same luma are multiplied by a factor from 1 − x to 1 + x. */
    saturation: number(0, 1).default(0),
    /** Colors turn about the gray axis by up to this share of a circle, either way. */
    hue: number(0, 0.5).default(0),
  }).prefault({}),
  /** Largest σ of a Gaussian blur, in pixels. σ is drawn from 0 to this. Below 0.3 nothing changes. */
  blur: number(0, 20).default(0),
});

const CLASS_NAMES = 'a list of class names';

/** Declares a list of one or more class names. */
export const classNamesOption = () => z.array(text('a class name'), CLASS_NAMES).min(1, CLASS_NAMES);

/**
 * Pastes objects of other source images at random places (Ghiasi et al., "Simple Copy-Paste", 2021), so that the network
 * cannot learn by heart what lies where. An object is a connected area of one of the classes.
 */
export const copyPasteSchema = section({
  /** Names of classes of things, such as cars, people or signs. */
  classes: classNamesOption(),
  /** Share of the images that get an object. */
  probability: number(0, 1).default(0.5),
  /**
   * Height of the object as a share of the training image's height, drawn from [min, max]. It grows to at most 3 times its
   * own size.
   */
  height: range(0.01, 2).default([0.15, 1]),
  /** Smallest share of its own image that an object covers. */
  minimumShare: number(0, 1).default(0.005),
});

/**
 * Draws source images by class, rare classes more often (DAFormer, Hoyer et al. 2022): P(c) ∝ exp((1 − f_c) / T) with the
 * share f_c of the labeled source pixels. The defaults are DAFormer's.
 */
export const rareClassSamplingSchema = section({
  /** Temperature T. A lower one draws the rarest class more often. */
  temperature: number(1e-4, 1e4).default(0.01),
  /** Smallest share of an image's pixels that a class must cover for the image to be drawn for it. */
  minimumShare: number(0, 1).default(0.0015),
});

/** Declares the option for the number of images in a batch, 1 to 1024. */
export const batchSizeOption = () => integer(1, 1024);
