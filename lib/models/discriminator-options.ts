import type { z } from 'zod';
import { integer, section } from '../support/options.js';
import { networkFields } from './network-options.js';

/** Options of a domain discriminator's architecture that configs have too. */
export const discriminatorFields = {
  /** Channels after the first convolution. */
  baseWidth: integer(1, 1024).default(64),
};

export const outputDiscriminatorSchema = section({
  /** Number of the segmenter's classes. */
  classCount: integer(2, 256),
  ...discriminatorFields,
  ...networkFields,
});

/** Options of {@link OutputDiscriminator.create}. Omitted ones get their defaults. */
export interface OutputDiscriminatorOptions extends z.input<typeof outputDiscriminatorSchema> {}
/** Options of an output-space discriminator, with defaults filled in. */
export interface CompleteOutputDiscriminatorOptions
  extends Readonly<z.output<typeof outputDiscriminatorSchema>> {}

export const featureDiscriminatorSchema = section({
  /** Channels of the segmenter's features: its `featureCount`. */
  featureCount: integer(1, 2 ** 16),
  ...discriminatorFields,
  ...networkFields,
});

/** Options of {@link FeatureDiscriminator.create}. Omitted ones get their defaults. */
export interface FeatureDiscriminatorOptions extends z.input<typeof featureDiscriminatorSchema> {}
/** Options of a feature discriminator, with defaults filled in. */
export interface CompleteFeatureDiscriminatorOptions
  extends Readonly<z.output<typeof featureDiscriminatorSchema>> {}
