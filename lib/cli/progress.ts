import { SingleBar } from 'cli-progress';
import { duration } from '../support/format.js';

/** The state of one task that counts up to a known total. */
export interface Progress {
  /** `done` of the total are finished; `detail` is a short text such as the newest loss. */
  update(done: number, detail?: string): void;
  /** Ends the display; nothing more is drawn. Does no harm when called twice. */
  stop(): void;
}

/** Draws bars on a terminal, writes a plain line every few seconds anywhere else. */
export function createProgress(stream: NodeJS.WriteStream, label: string, total: number): Progress {
  return stream.isTTY && process.env.TERM !== 'dumb'
    ? new BarProgress(stream, label, total)
    : new LineProgress(stream, label, total);
}

class BarProgress implements Progress {
  readonly #bar: SingleBar;
  readonly #pace: Pace;

  constructor(stream: NodeJS.WriteStream, label: string, total: number) {
    this.#pace = new Pace(total);
    this.#bar = new SingleBar({
      stream,
      format: '{label} {bar} {percentage}%  {value}/{total}  {left}  {detail}',
      barsize: 24,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      hideCursor: true,
      // The bar is an intermediate state: what stays on the screen is the line that the command writes at the end.
      clearOnComplete: true,
      fps: 8,
    });
    this.#bar.start(total, 0, { label, detail: '', left: '' });
  }

  update(done: number, detail = ''): void {
    this.#bar.update(done, { detail, left: this.#pace.left(done) });
  }

  stop(): void {
    this.#bar.stop();
  }
}

/** How long a log that nobody watches may stay silent. */
const LINE_INTERVAL_MS = 5000;

class LineProgress implements Progress {
  readonly #stream: NodeJS.WriteStream;
  readonly #label: string;
  readonly #total: number;
  readonly #pace: Pace;
  #lastLine = performance.now();

  constructor(stream: NodeJS.WriteStream, label: string, total: number) {
    this.#stream = stream;
    this.#label = label;
    this.#total = total;
    this.#pace = new Pace(total);
  }

  update(done: number, detail = ''): void {
    const left = this.#pace.left(done);
    const now = performance.now();
    if (now - this.#lastLine < LINE_INTERVAL_MS) return;
    this.#lastLine = now;
    const parts = [this.#label, `${done}/${this.#total}`, left, detail];
    this.#stream.write(`${parts.filter((part) => part !== '').join('  ')}\n`);
  }

  stop(): void {}
}

/** Guesses the time left from the speed since the first update, so that a resumed task is not taken for a fast one. */
class Pace {
  readonly #total: number;
  #first: { done: number; time: number } | undefined;

  constructor(total: number) {
    this.#total = total;
  }

  left(done: number): string {
    const time = performance.now();
    this.#first ??= { done, time };
    const since = done - this.#first.done;
    if (since <= 0 || done >= this.#total) return '';
    const seconds = ((time - this.#first.time) / 1000 / since) * (this.#total - done);
    return `${duration(Math.ceil(seconds))} left`;
  }
}
