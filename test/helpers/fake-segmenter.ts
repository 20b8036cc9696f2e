import { setImmediate } from 'node:timers/promises';
import type { PredictOptions, SegmenterPrediction } from 'bidiseg';

/** Predicts the first byte of each image at every pixel, when the test asks for it. */
export class FakeSegmenter {
  readonly calls: {
    count: number;
    width: number;
    signal: AbortSignal | undefined;
    finish: (error?: Error) => void;
  }[] = [];
  running = 0;
  most = 0;

  async predict(images: Uint8Array, options: PredictOptions): Promise<SegmenterPrediction> {
    const { count, width, height, signal } = options;
    this.most = Math.max(this.most, ++this.running);
    await new Promise<void>((resolve, reject) => {
      this.calls.push({ count, width, signal, finish: (error) => (error ? reject(error) : resolve()) });
      signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
    }).finally(() => this.running--);
    const pixels = width * height;
    return {
      labels: Uint8Array.from(
        { length: count * pixels },
        (_, i) => images[Math.floor(i / pixels) * pixels * 3]!,
      ),
    };
  }
}

/** Waits until everything has happened that needs no further event. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 5; i++) await setImmediate();
}
