/** Creates a small seeded generator (mulberry32), so that every run of a test sees the same numbers. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Draws standard normal numbers times `scale`. */
export function randomNormal(length: number, seed: number, scale = 1): Float32Array {
  const next = randomSource(seed);
  return Float32Array.from(
    { length },
    () => scale * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  );
}

/** Draws bytes from 0 to `limit` - 1. Each is `ignore` with probability `ignoredShare`. */
export function randomBytes(
  length: number,
  seed: number,
  limit = 256,
  ignoredShare = 0,
  ignore = 255,
): Uint8Array {
  const next = randomSource(seed);
  return Uint8Array.from({ length }, () => {
    const value = Math.floor(next() * limit);
    return next() < ignoredShare ? ignore : value;
  });
}
