import { isTypedArray } from 'node:util/types';
import { InvalidArgumentError } from './errors.js';
import { counted } from './format.js';

/** Describes a value for an error message: briefly, and with its type. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `${JSON.stringify(shortened(value))} of type string`;
  if (typeof value === 'function') return 'a function';
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (isTypedArray(value))
    return `a ${value.constructor?.name ?? 'typed array'} of ${counted(value.length, 'element')}`;
  if (typeof value === 'object') return `an instance of ${value.constructor?.name ?? 'Object'}`;
  return `${String(value)} of type ${typeof value}`;
}

/** Cuts text from outside to a length that fits into a message. */
export function shortened(text: string, maxLength = 256): string {
  return text.length > maxLength ? `${text.slice(0, maxLength)}…` : text;
}

/** Makes the error for a bad argument. All have one shape: "Expected WHAT for NAME but received VALUE of type TYPE". */
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

/** Returns a copy of `value` if it is an array of integers in [min, max]. */
export function checkIntegers(name: string, value: unknown, min = -Infinity, max = Infinity): number[] {
  if (!Array.isArray(value)) throw invalidArgument(name, 'an array of integers', value);
  return Array.from(value, (item, i) => checkInteger(`${name}[${i}]`, item, min, max));
}

/** Returns a copy of `value` if it is an array of finite numbers in [min, max]. */
export function checkNumbers(name: string, value: unknown, min = -Infinity, max = Infinity): number[] {
  if (!Array.isArray(value)) throw invalidArgument(name, 'an array of numbers', value);
  return Array.from(value, (item, i) => checkNumber(`${name}[${i}]`, item, min, max));
}

/** Returns `value` if it is an object that can hold options. */
export function checkObject<T extends object>(name: string, value: T): T {
  if (typeof value !== 'object' || value === null) throw invalidArgument(name, 'an object', value);
  return value;
}

/** Returns `value` if it is a boolean. */
export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') throw invalidArgument(name, 'a boolean', value);
  return value;
}

/** Returns `value` if it is one of `choices`. */
export function checkChoice<T extends string>(name: string, value: unknown, choices: readonly T[]): T {
  if (!choices.includes(value as T)) {
    throw invalidArgument(name, `one of ${choices.join(', ')}`, value);
  }
  return value as T;
}

/** Returns `value` if it is a non-empty string. */
export function checkString(name: string, value: unknown): string {
  if (typeof value !== 'string' || value === '') throw invalidArgument(name, 'a non-empty string', value);
  return value;
}

/** Returns `value` if it can be the name of a file. */
export function checkPath(name: string, value: unknown): string {
  // The operating system would ignore everything after a null byte.
  if (checkString(name, value).includes('\0'))
    throw invalidArgument(name, 'a path without null bytes', value);
  return value as string;
}

/** Returns `value` if it is an AbortSignal or undefined. */
export function checkSignal(value: unknown): AbortSignal | undefined {
  const isSignal = typeof (value as AbortSignal | null)?.throwIfAborted === 'function';
  if (value !== undefined && !isSignal) throw invalidArgument('signal', 'an AbortSignal', value);
  return value as AbortSignal | undefined;
}

function rangeText(min: number, max: number): string {
  if (min === -Infinity && max === Infinity) return '';
  if (max === Infinity) return ` ≥ ${min}`;
  if (min === -Infinity) return ` ≤ ${max}`;
  return ` from ${min} to ${max}`;
}
