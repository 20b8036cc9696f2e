import { InvalidArgumentError } from './errors.js';

/** How a value looks in an error message: short, and unmistakable about its type. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `${JSON.stringify(shortened(value))} of type string`;
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object') return `an instance of ${value.constructor?.name ?? 'Object'}`;
  return `${String(value)} of type ${typeof value}`;
}

/** Text from outside as it may stand in a message: one that is long without end helps nobody. */
export function shortened(text: string, maxLength = 256): string {
  return text.length > maxLength ? `${text.slice(0, maxLength)}…` : text;
}

/** The one message shape for a bad argument: "Expected WHAT for NAME but received VALUE of type TYPE". */
export function invalidArgument(name: string, expected: string, value: unknown): InvalidArgumentError {
  return new InvalidArgumentError(`Expected ${expected} for ${name} but received ${describe(value)}`);
}

/** Returns `value` if it is a finite number in [min, max]. */
export function checkNumber(name: string, value: unknown, min = -Infinity, max = Infinity): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < min || value > max) {
    throw invalidArgument(name, `a finite number${rangeText(min, max)}`, value);
  }
  return value;
}

/** Returns `value` if it is an integer in [min, max]. */
export function checkInteger(name: string, value: unknown, min = -Infinity, max = Infinity): number {
  if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
    throw invalidArgument(name, `an integer${rangeText(min, max)}`, value);
  }
  return value as number;
}

/** Returns `value` if it is an array of finite numbers in [min, max]. */
export function checkNumbers(name: string, value: unknown, min = -Infinity, max = Infinity): number[] {
  if (!Array.isArray(value)) throw invalidArgument(name, 'an array of numbers', value);
  return value.map((item, i) => checkNumber(`${name}[${i}]`, item, min, max));
}

/** Returns `value` if it is a boolean. */
export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw invalidArgument(name, 'a boolean', value);
  return value;
}

/** Returns `value` if it is one of `choices`. */
export function checkChoice<T extends string>(name: string, value: unknown, choices: readonly T[]): T {
  if (!choices.includes(value as T)) {
    throw invalidArgument(name, `one of ${choices.map((choice) => `'${choice}'`).join(', ')}`, value);
  }
  return value as T;
}

/** Returns `value` if it is a non-empty string. */
export function checkString(name: string, value: unknown): string {
  if (typeof value !== 'string' || value === '') throw invalidArgument(name, 'a non-empty string', value);
  return value;
}

function rangeText(min: number, max: number): string {
  if (min === -Infinity && max === Infinity) return '';
  if (max === Infinity) return ` ≥ ${min}`;
  if (min === -Infinity) return ` ≤ ${max}`;
  return ` from ${min} to ${max}`;
}
