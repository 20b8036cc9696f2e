import { randomUUID } from 'node:crypto';
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { ConfigError, DataError } from '../errors.js';

interface Owner {
  pid: number;
  host: string;
  /** When the process began, where the system tells: another process may get the pid of a dead one. */
  started: string | null;
}

/** The right to write in a folder, held by one process at a time through a lock file. */
export class Lock {
  readonly #file: string;
  readonly #content: string;

  private constructor(file: string, content: string) {
    this.#file = file;
    this.#content = content;
  }

  /**
   * Takes the lock, also from a process of this machine that is dead.
   *
   * @throws ConfigError when another process holds it; the message names its pid and the file
   * @throws DataError when the lock file cannot be written
   */
  static async take(file: string): Promise<Lock> {
    const owner: Owner = { pid: process.pid, host: hostname(), started: await startOf(process.pid) };
    const content = `${JSON.stringify(owner)}\n`;
    // Linking a whole file makes the lock and its content appear at once, where creating it would leave it empty at first.
    const own = `${file}.${randomUUID()}`;
    try {
      await writeFile(own, content);
      while (!(await tryLink(own, file))) await removeIfDead(file);
    } catch (error) {
      if (error instanceof ConfigError) throw error;
      throw new DataError(`${file}: cannot be written: ${(error as Error).message}`, { cause: error });
    } finally {
      await rm(own, { force: true });
    }
    return new Lock(file, content);
  }

  /** Gives the lock back. Does no harm when called twice, or when the lock is no longer this one. */
  async release(): Promise<void> {
    if ((await readIfThere(this.#file)) === this.#content) await rm(this.#file, { force: true });
  }
}

async function tryLink(existing: string, file: string): Promise<boolean> {
  try {
    await link(existing, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function removeIfDead(file: string): Promise<void> {
  const content = await readIfThere(file);
  if (content === undefined) return;
  const owner = parseOwner(content);
  if (!owner || owner.host !== hostname() || (await isAlive(owner))) {
    const who = owner ? `process ${owner.pid} on ${owner.host}` : 'another process';
    throw new ConfigError(
      `The run folder is in use by ${who}; wait for it or stop it (if it is certain that it is gone, delete ${file})`,
    );
  }
  // Two processes may find the same dead owner. Moving the lock away first shows which lock one has really removed: if
  // the other was quicker, it was the other's new lock, and it goes back.
  const moved = `${file}.${randomUUID()}`;
  try {
    await rename(file, moved);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  if ((await readIfThere(moved)) !== content) await tryLink(moved, file);
  await rm(moved, { force: true });
}

function parseOwner(content: string): Owner | undefined {
  try {
    const owner = JSON.parse(content) as Partial<Owner>;
    const { pid, host, started = null } = owner;
    return Number.isInteger(pid) && typeof host === 'string' ? { pid: pid!, host, started } : undefined;
  } catch {
    return undefined;
  }
}

async function isAlive({ pid, started }: Owner): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it lives, as another user's.
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  return (await startOf(pid)) === started;
}

/** When a process began, in Linux's ticks since boot; null on systems that do not tell. */
async function startOf(pid: number): Promise<string | null> {
  const stat = await readIfThere(`/proc/${pid}/stat`);
  // The second field is the program's name in parentheses and may hold spaces; the start is field 22.
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
}
