import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError, DataError } from '../support/errors.js';

interface Owner {
  pid: number;
  host: string;
  /** When the process began, where the system tells: another process may get the pid of a dead one. */
  started: string | null;
}

/** A file of the lock's folder whose owner is alive, as far as can be known; without `owner` it cannot be understood. */
interface Claim {
  name: string;
  owner: Owner | undefined;
}

/** How long one of several that want the lock at the same moment waits for the others to stand back. */
const PATIENCE_MS = 500;
const TEMPORARY = '.tmp';

/**
 * The right to write in a folder, held by one process at a time.
 *
 * Whoever wants it puts a file of a name of its own into the lock's folder, then looks whether another's is there: of two,
 * at least one sees the other. As no name is ever used twice, files of dead processes can be removed without taking away
 * a living one's by mistake, which a single lock file would not allow.
 */
export class Lock {
  readonly #file: string;

  private constructor(file: string) {
    this.#file = file;
  }

  /**
   * Takes the lock; a process of this machine that is dead does not count.
   *
   * @param folder made if it does not exist
   * @throws ConfigError when another process holds the lock; the message names its pid
   * @throws DataError when the folder cannot be written
   */
  static async take(folder: string): Promise<Lock> {
    const name = randomUUID();
    const file = path.join(folder, name);
    const owner: Owner = { pid: process.pid, host: hostname(), started: await startOf(process.pid) };
    try {
      await mkdir(folder, { recursive: true });
      // Renaming a whole file makes the claim and its content appear at once.
      await writeFile(file + TEMPORARY, JSON.stringify(owner));
      await rename(file + TEMPORARY, file);
      const other = await othersClaim(folder, name);
      if (!other) return new Lock(file);
      await rm(file);
      throw inUse(folder, other);
    } catch (error) {
      if (error instanceof ConfigError) throw error;
      for (const left of [file, file + TEMPORARY]) await rm(left, { force: true }).catch(() => {});
      throw new DataError(`${folder}: cannot be locked: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Gives the lock back. Does no harm when called twice. */
  async release(): Promise<void> {
    // On a disk that became read-only it stays, and is that of a dead process when this one has ended.
    await rm(this.#file, { force: true }).catch(() => {});
  }
}

/** A living claim beside the one of that name, after those that will stand back have done so. */
async function othersClaim(folder: string, name: string): Promise<Claim | undefined> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const claims = (await livingClaims(folder)).filter((claim) => claim.name !== name);
    // Of several that see each other, the first by name stays and the rest stand back, so that one gets the lock. It does
    // not know whether one of the rest has held the lock for long: then nobody stands back, and its patience ends.
    const [first] = claims.sort((a, b) => (a.name < b.name ? -1 : 1));
    if (!first || first.name < name || performance.now() > deadline) return first;
    await sleep(20);
  }
}

async function livingClaims(folder: string): Promise<Claim[]> {
  const claims: Claim[] = [];
  for (const name of await readdir(folder)) {
    const file = path.join(folder, name);
    const content = await readIfThere(file);
    if (content === undefined) continue;
    const owner = parseOwner(content);
    if (owner && owner.host === hostname() && !(await isAlive(owner))) await rm(file, { force: true });
    else if (!name.endsWith(TEMPORARY)) claims.push({ name, owner });
  }
  return claims;
}

function inUse(folder: string, { name, owner }: Claim): ConfigError {
  const who = owner ? `process ${owner.pid} on ${owner.host}` : 'another process';
  return new ConfigError(
    `The run folder is in use by ${who}; wait for it or stop it ` +
      `(if it is certain that it is gone, delete ${path.join(folder, name)})`,
  );
}

function parseOwner(content: string): Owner | undefined {
  try {
    const { pid, host, started = null } = JSON.parse(content) as Partial<Owner>;
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
