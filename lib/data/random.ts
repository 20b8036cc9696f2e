/**
 * A reproducible stream of random numbers, selected by its keys.
 *
 * Equal keys give equal numbers on every machine. Other keys give an independent stream. There is no global state, so
 * the draws of one part of the program never shift those of another. A resumed run asks for the stream of any step
 * directly. The generator is sfc32, seeded by a hash of the keys. It is not for cryptography.
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** @param keys any mix of numbers and strings. `1` and `'1'` differ, and so do two orders of the same keys */
  constructor(...keys: (number | string)[]) {
    [this.#a, this.#b, this.#c] = hashKeys(keys);
    for (let round = 0; round < 12; round++) this.#word();
  }

  /** Draws a number in [0, 1) with 53 random bits. */
  next(): number {
    const high = this.#word() >>> 5;
    const low = this.#word() >>> 6;
    return (high * 0x4000000 + low) / 0x20000000000000;
  }

  /** Draws an integer in 0 … n − 1, each equally likely. */
  integer(n: number): number {
    return Math.floor(this.next() * n);
  }

  /** Draws a number in [low, high). */
  range(low: number, high: number): number {
    return low + (high - low) * this.next();
  }

  /** Draws a standard normal number (mean 0, variance 1). */
  normal(): number {
    // Marsaglia's polar form. Its only transcendental function is `log`. V8 computes it in software, so the result does
    // not depend on the machine's libm.
    for (;;) {
      const x = this.range(-1, 1);
      const y = this.range(-1, 1);
      const square = x * x + y * y;
      if (square > 0 && square < 1) return x * Math.sqrt((-2 * Math.log(square)) / square);
    }
  }

  /** Draws a permutation of 0 … n − 1 (Fisher–Yates). */
  permutation(n: number): Uint32Array {
    const order = Uint32Array.from({ length: n }, (_, index) => index);
    for (let last = n - 1; last > 0; last--) {
      const other = this.integer(last + 1);
      const value = order[last]!;
      order[last] = order[other]!;
      order[other] = value;
    }
    return order;
  }

  #word(): number {
    const word = (this.#a + this.#b + this.#counter++) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + word) | 0;
    return word >>> 0;
  }
}

/** Hashes the keys to three well-mixed 32-bit words: FNV-like multiply-and-xor, then murmur3's finalizer. */
function hashKeys(keys: readonly (number | string)[]): [number, number, number] {
  const text = JSON.stringify(keys);
  let a = 0x9e3779b9;
  let b = 0x243f6a88;
  let c = 0xb7e15162;
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    a = Math.imul(a ^ unit, 0x01000193);
    b = Math.imul(b ^ unit, 0x85ebca6b) ^ (a >>> 15);
    c = Math.imul(c ^ unit, 0xc2b2ae35) ^ (b >>> 13);
  }
  return [finalize(a), finalize(b), finalize(c)];
}

function finalize(value: number): number {
  let hash = value ^ (value >>> 16);
  hash = Math.imul(hash, 0x85ebca6b);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}
