import { createProgress, type Progress } from './progress.js';

/**
 * Output of a command. For people, everything except errors goes to stdout. With `--json`, stdout carries only JSON
 * objects, one per line. The last one has `event: 'result'` or `event: 'error'`. Text for people then goes to stderr.
 */
export class Console {
  readonly #chatter: NodeJS.WriteStream;
  #progress: Progress | undefined;
  #isSilent = false;

  constructor(readonly json: boolean) {
    this.#chatter = json ? process.stderr : process.stdout;
  }

  /** Prints nothing from now on except errors, as a process whose work another one shows. */
  silence(): void {
    this.#isSilent = true;
  }

  /** Prints a line for people. */
  note(line: string): void {
    if (this.#isSilent) return;
    this.#progress?.stop();
    this.#chatter.write(`${line}\n`);
  }

  /** Prints an event with `--json`. Otherwise prints nothing. */
  event(event: string, data: object = {}): void {
    if (this.json && !this.#isSilent) process.stdout.write(`${JSON.stringify({ event, ...data })}\n`);
  }

  /** Prints the result: the object with `--json`, otherwise the text. */
  result(data: object, text: string): void {
    this.#progress?.stop();
    if (this.json) this.event('result', data);
    else process.stdout.write(`${text}\n`);
  }

  /** Prints an error as one line on stderr, and as an event with `--json`. */
  error(code: string, message: string): void {
    this.#progress?.stop();
    this.event('error', { code, message });
    process.stderr.write(`bidiseg: ${message}\n`);
  }

  /** Shows the progress of a task of `total` parts. Replaces the task shown before. */
  progress(label: string, total: number): Progress {
    this.#progress?.stop();
    this.#progress = createProgress(this.#chatter, label, total);
    return this.#progress;
  }

  /** Removes the progress display and restores the terminal. */
  endProgress(): void {
    this.#progress?.stop();
    this.#progress = undefined;
  }
}
