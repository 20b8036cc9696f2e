/** What the sides of an image that a translator trains on have to be divisible by. */
export function sizeMultiple({ pairing, depth }: { pairing: 'unpaired' | 'paired'; depth: number }): number {
  return pairing === 'paired' ? 2 ** depth : 4;
}
