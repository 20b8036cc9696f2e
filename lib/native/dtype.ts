import { checkChoice } from '../support/validate.js';
import type { NetworkDtype } from './binding-types.js';

/** @internal Checks the option `dtype`. Default float32. */
export function checkDtype(dtype: NetworkDtype | undefined): NetworkDtype {
  return checkChoice('dtype', dtype ?? 'float32', ['float32', 'float64']);
}
