import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError, DataError } from '../support/errors.js';

interface Owner {
  pid: number;
  host: string;
  /**
   * Start time of the process if the system reports it. It distinguishes a process from a later one with the same pid.
   */
  started: string | null;
}

/**
 * Claim of a process to the lock, a file in the lock's folder. Its owner seems to be alive. Without `owner`, the file
 * is unreadable.
 */
interface Claim {
  name: string;
  owner: Owner | undefined;
}

/** Time to wait for other claimants to withdraw, in milliseconds. */
const PATIENCE_MS = 500;
const TEMPORARY = '.tmp';

/**
 * Right to write in a folder, held by one process at a time.
 *
 * A claimant creates a file with a unique name in the lock's folder, then looks for files of others. If two processes
 * do this at the same time, at least one sees the other. Names are never reused, so files of dead processes can be
 * removed safely. A single lock file would not allow that.
 */
export class Lock {
  /** File of the claim. It exists as long as the lock is held. */
  readonly file: string;

  private constructor(file: string) {
    this.file = file;
  }

  /**
   * Takes the lock. Claims of dead processes of this machine do not count.
   *
   * @param folder folder of the lock; it is created if it does not exist
   * @throws ConfigError when another process holds the lock; the message names its pid
   * @throws DataError when the folder cannot be written
   */
  static async take(folder: string): Promise<Lock> {
    const name = randomUUID();
    const file = path.join(folder, name);
    const owner: Owner = { pid: process.pid, host: hostname(), started: await startOf(process.pid) };
    try {
      await mkdir(folder, { recursive: true });
      // Renaming makes the claim and its content appear at once.
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

  /** Tells whether a living process holds the lock in `folder`. Changes nothing. */
  static async isHeld(folder: string): Promise<boolean> {
    try {
      return (await claimsIn(folder)).some(({ isDead }) => !isDead);
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
      throw new DataError(`${folder}: cannot be read: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Releases the lock. Calling it twice is harmless. */
  async release(): Promise<void> {
    // On a disk that became read-only the file stays. It becomes a claim of a dead process when this process ends.
    await rm(this.file, { force: true }).catch(() => {});
  }
}

/** Finds a living claim other than `name`, after waiting for other claimants to withdraw. */
async function othersClaim(folder: string, name: string): Promise<Claim | undefined> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    const claims = (await livingClaims(folder)).filter((claim) => claim.name !== name);
    // Several claimants may see each other. The first by name stays and the rest withdraw, so one gets the lock. But
    // one of the rest may already hold the lock. Then nobody withdraws, and the first gives up after its deadline.
    const [first] = claims.sort((a, b) => (a.name < b.name ? -1 : 1));
    if (!first || first.name < name || performance.now() > deadline) return first;
    await sleep(20);
  }
}

/** Lists the claims of living processes. Removes files of dead processes. */
async function livingClaims(folder: string): Promise<Claim[]> {
  const claims = await claimsIn(folder);
  for (const { name, isDead } of claims) if (isDead) await rm(path.join(folder, name), { force: true });
  return claims.filter(({ name, isDead }) => !isDead && !name.endsWith(TEMPORARY));
}

/** Lists all claims. `isDead`: the process ran on this machine and is gone. */
async function claimsIn(folder: string): Promise<(Claim & { isDead: boolean })[]> {
  const claims: (Claim & { isDead: boolean })[] = [];
  for (const name of await readdir(folder)) {
    const content = await readIfThere(path.join(folder, name));
    if (content === undefined) continue;
    const owner = parseOwner(content);
    const isDead = owner !== undefined && owner.host === hostname() && !(await isAlive(owner));
    claims.push({ name, owner, isDead });
  }
  return claims;
}

function inUse(folder: string, { name, owner }: Claim): ConfigError {
  const who = owner ? `process ${owner.pid} on ${owner.host}` : 'another process';
  return new ConfigError(
    `The run folder is in use by ${who}; wait for it or stop it ` +
      `(if that process no longer exists, delete ${path.join(folder, name)})`,
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
    // EPERM: the process is alive but belongs to another user.
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  return (await startOf(pid)) === started;
}

/** Returns the start time of a process, in Linux's ticks since boot. null: the system does not report it. */
async function startOf(pid: number): Promise<string | null> {
  const stat = await readIfThere(`/proc/${pid}/stat`);
  // The second field is the program's name in parentheses and may contain spaces. The start time is field 22.
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
