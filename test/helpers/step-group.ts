import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './folder.js';

const FIXTURE = join(ROOT, 'test/boundary/fixtures/step-group.mjs');

/** States of steps by kind: tensors by name, as base64 of float64. */
export type States = Record<string, Record<string, string>>;

/** Runs all processes of a group to their end. Returns what each printed, by rank. */
export function runGroup(what: string, size: number, file: string, ...more: string[]): Promise<unknown[]> {
  const start = (rank: number) =>
    new Promise<unknown>((resolve, reject) => {
      const args = [FIXTURE, what, file, String(rank), String(size), ...more];
      const child = spawn(process.execPath, args, {
        cwd: ROOT,
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { ...process.env, TEST_DEVICE: process.env.DEVICE ?? 'cpu' },
      });
      let output = '';
      child.stdout.on('data', (text: Buffer) => {
        output += String(text);
      });
      child.on('close', (code) =>
        code === 0
          ? resolve(JSON.parse(output))
          : reject(new Error(`rank ${rank} of ${size} ended with ${code}`)),
      );
    });
  return Promise.all(Array.from({ length: size }, (_, rank) => start(rank)));
}

/** Also of more values than a call can have arguments. */
const norm = (values: Float64Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

/** Largest relative difference of the tensors of two states. */
export function worstDifference(one: Record<string, string>, other: Record<string, string>): number {
  assert.deepEqual(Object.keys(other), Object.keys(one));
  const idle = new Set(Object.keys(one).filter((name) => isIdle(name, one) && isIdle(name, other)));
  const differences = Object.keys(one).map((name) => {
    const [a, b] = [numbers(one[name]!), numbers(other[name]!)];
    const isOfIdle = [...idle].some((bias) => name.endsWith(bias.replace(/^[^.]+/, '')));
    return isOfIdle ? 0 : norm(a.map((value, i) => value - b[i]!)) / (norm(a) || 1);
  });
  return Math.max(...differences);
}

/**
 * Tests for the bias of a convolution before an InstanceNorm, which removes it. Its gradient is rounding alone, which Adam
 * scales up, so that such a bias drifts by less than 1e-6 in ten steps. It starts at 0.
 */
function isIdle(name: string, state: Record<string, string>): boolean {
  if (!/^(to_target|to_source|target_discriminator|source_discriminator)\..*bias$/.test(name)) return false;
  return norm(numbers(state[name]!)) < 1e-6;
}

function numbers(text: string): Float64Array {
  const bytes = Buffer.from(text, 'base64');
  return new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}
