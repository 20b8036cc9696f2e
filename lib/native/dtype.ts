import { checkChoice } from '../support/validate.js';
import type { NetworkDtype } from './binding-types.js';

/** @internal The option `dtype`, checked; default float32. */
export function checkDtype(dtype: NetworkDtype | undefined): NetworkDtype {
  return checkChoice('dtype', dtype ?? 'float32', ['float32', 'float64']);
}
