import { createProgress, type Progress } from './progress.js';

/**
 * Where a command's words go. For people, everything but errors goes to stdout. With `--json`, stdout carries one JSON
 * object a line and nothing else (the last one has `event: 'result'` or `event: 'error'`), and people's words go to stderr.
 */
export class Console {
  readonly #chatter: NodeJS.WriteStream;
  #progress: Progress | undefined;

  constructor(readonly json: boolean) {
    this.#chatter = json ? process.stderr : process.stdout;
  }

  /** A line for people. */
  note(line: string): void {
    this.#progress?.stop();
    this.#chatter.write(`${line}\n`);
  }

  /** A line for machines; silent without `--json`. */
  event(event: string, data: object = {}): void {
    if (this.json) process.stdout.write(`${JSON.stringify({ event, ...data })}\n`);
  }

  /** What the command was run for: an object for machines, a text for people. */
  result(data: object, text: string): void {
    this.#progress?.stop();
    if (this.json) this.event('result', data);
    else process.stdout.write(`${text}\n`);
  }

  /** One line on stderr, and the same as an event for machines. */
  error(code: string, message: string): void {
    this.#progress?.stop();
    this.event('error', { code, message });
    process.stderr.write(`bidiseg: ${message}\n`);
  }

  /** Shows a task of `total` parts, in place of the one shown so far. */
  progress(label: string, total: number): Progress {
    this.#progress?.stop();
    this.#progress = createProgress(this.#chatter, label, total);
    return this.#progress;
  }

  /** Takes the progress display away, so that the terminal is as it was. */
  endProgress(): void {
    this.#progress?.stop();
    this.#progress = undefined;
  }
}
