import type { z } from 'zod';
import { choice, integer, section } from '../support/options.js';

/** Response to a loss or gradient of a training step that is NaN or infinite. Such a step is never applied. */
export const nonFiniteSchema = section({
  /** `stop` ends the training with an error that names the images. `skip` warns and continues with the next step. */
  policy: choice('stop', 'skip').default('stop'),
  /** Largest number of consecutive steps that may be skipped. One more ends the training. */
  limit: integer(1).default(10),
});

/** Options for losses that are not finite, with defaults filled in. */
export interface NonFiniteOptions extends z.output<typeof nonFiniteSchema> {}
