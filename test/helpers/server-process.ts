import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../lib/cli/main.js', import.meta.url));

/** A command that serves, as a process of its own. */
export class ServerProcess {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown[]>;
  stdout = '';
  stderr = '';
  /** Address with a slash at the end. */
  url = '';

  private constructor(args: string[], env: Record<string, string>) {
    this.#child = spawn(process.execPath, [MAIN, ...args, '--port', '0'], {
      env: { ...process.env, OMP_NUM_THREADS: '1', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#ended = once(this.#child, 'close');
    this.#child.stdout!.on('data', (text) => {
      this.stdout += text;
    });
    this.#child.stderr!.on('data', (text) => {
      this.stderr += text;
    });
  }

  /** Starts `bidiseg ARGS --port 0` and waits until it listens. */
  static async start(args: string[], env: Record<string, string> = {}): Promise<ServerProcess> {
    const server = new ServerProcess(args, env);
    const address = /http:\/\/[^\s"]+\//;
    try {
      await server.#waitFor(() => address.test(server.stdout), `${address}`, 180_000);
    } catch (error) {
      await server.end('SIGKILL');
      throw error;
    }
    server.url = address.exec(server.stdout)![0];
    return server;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  async #waitFor(isThere: () => boolean, what: string, ms: number): Promise<void> {
    const deadline = performance.now() + ms;
    while (!isThere()) {
      if (this.#child.exitCode !== null || performance.now() > deadline) {
        throw new Error(`Expected ${what} but received ${this.stdout}${this.stderr}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** Sends a signal and returns the exit code. null: the signal ended the process. */
  async end(name: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.#child.kill(name);
    const [code] = await this.#ended;
    return code as number | null;
  }
}
