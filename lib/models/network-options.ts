import { z } from 'zod';
import { choice, integer } from '../support/options.js';

/** Declares the option for the device to compute on. Default `cpu`. */
export const deviceOption = () =>
  z
    .string('cpu, cuda or cuda:N')
    .regex(/^(cpu|cuda(:\d{1,3})?)$/, 'cpu, cuda or cuda:N')
    .default('cpu');

/** Declares the option for the type of the weights. Default `float32`. */
export const dtypeOption = () => choice('float32', 'float64').default('float32');

/** Options that every network has. */
export const networkFields = {
  /** Seed of the initial weights. */
  seed: integer(0).default(1),
  /** Device of the weights: `cpu`, `cuda` or `cuda:N`. */
  device: deviceOption(),
  /**
   * Type of the weights. Everything computes in it. `float64` is for checks to the last digit: it starts from the same
   * initial weights and takes twice as long or more.
   */
  dtype: dtypeOption(),
};
