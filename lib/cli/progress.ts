import { SingleBar } from 'cli-progress';
import { duration } from '../support/format.js';

/** Progress of one task with a known total. */
export interface Progress {
  /** Shows that `done` of the total are finished. `detail` is a short text such as the newest loss. */
  update(done: number, detail?: string): void;
  /** Ends the display. Calling it twice is harmless. */
  stop(): void;
}

/** Creates a progress display: a bar on a terminal, otherwise a plain line every few seconds. */
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
      // Only the line that the command prints at the end stays on the screen.
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

/** Interval between plain lines, in milliseconds. */
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

/** Estimates the time left from the speed since the first update. So a resumed task does not look too fast. */
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
