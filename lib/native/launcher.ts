import { InvalidArgumentError } from '../support/errors.js';

/** Place of this process among those that a launcher started. */
export interface LaunchedProcess {
  launcher: 'torchrun' | 'slurm' | 'bidiseg';
  /** 0 to `size` − 1. */
  rank: number;
  /** Number of processes. */
  size: number;
  /** Place among the processes of this machine. */
  localRank: number;
  /** Number of processes on this machine. */
  localSize: number;
  /** Address of the store that the processes meet at. */
  host: string;
  port: number;
  /** File that the processes of one machine meet at instead, started by `bidiseg train --processes`. null: the address. */
  file: string | null;
  /** Whether the launcher serves the store. Otherwise rank 0 does. */
  launcherHostsStore: boolean;
  /** Name that differs from one start to the next, so that a restarted group does not meet the old one. */
  name: string;
  /** How often this group was started again after a failure. */
  restarts: number;
}

/** Environment variable with the file that processes of `bidiseg train --processes` meet at. */
export const MEETING_FILE = 'BIDISEG_MEETING_FILE';

/**
 * Place of this process as torchrun or Slurm (`srun`) put it into the environment, or null for a process on its own.
 *
 * torchrun sets all it takes. Slurm sets ranks and sizes. MASTER_ADDR (the first machine) and MASTER_PORT come from the
 * user there. A process that stands alone in its Slurm job needs neither.
 *
 * @throws InvalidArgumentError when a variable is missing or is not a number
 */
export function launchedProcess(env: NodeJS.ProcessEnv = process.env): LaunchedProcess | null {
  if (env.RANK !== undefined && env.WORLD_SIZE !== undefined) {
    const places = numbers(env, {
      rank: 'RANK',
      size: 'WORLD_SIZE',
      localRank: 'LOCAL_RANK',
      localSize: 'LOCAL_WORLD_SIZE',
    });
    const file = env[MEETING_FILE] ?? null;
    if (file !== null) {
      const store = { host: '', port: 0, file, launcherHostsStore: false };
      return { launcher: 'bidiseg', ...places, ...store, name: 'run', restarts: 0 };
    }
    return {
      launcher: 'torchrun',
      ...places,
      ...address(env),
      file: null,
      restarts: Number(env.TORCHELASTIC_RESTART_COUNT ?? '0') || 0,
      launcherHostsStore: env.TORCHELASTIC_USE_AGENT_STORE === 'True',
      name: `${env.TORCHELASTIC_RUN_ID ?? 'run'}/${env.TORCHELASTIC_RESTART_COUNT ?? '0'}`,
    };
  }
  const size = Number(env.SLURM_NTASKS ?? '1');
  // A batch script has a place too, but only the processes of srun have a step.
  if (env.SLURM_PROCID === undefined || env.SLURM_STEP_ID === undefined || size <= 1) return null;
  const places = numbers(env, { rank: 'SLURM_PROCID', size: 'SLURM_NTASKS', localRank: 'SLURM_LOCALID' });
  // Such as 4, or 4(x2) for two machines with four each.
  const perNode = Number.parseInt(env.SLURM_NTASKS_PER_NODE ?? env.SLURM_TASKS_PER_NODE ?? '1', 10);
  return {
    launcher: 'slurm',
    ...places,
    localSize: Number.isNaN(perNode) ? 1 : perNode,
    ...address(env),
    file: null,
    launcherHostsStore: false,
    restarts: Number(env.SLURM_RESTART_COUNT ?? '0') || 0,
    name: `${env.SLURM_JOB_ID ?? 'job'}/${env.SLURM_STEP_ID ?? '0'}/${env.SLURM_RESTART_COUNT ?? '0'}`,
  };
}

function address(env: NodeJS.ProcessEnv) {
  const { MASTER_ADDR: host } = env;
  if (host === undefined || host === '') {
    throw new InvalidArgumentError(
      'Expected the address of the first machine in MASTER_ADDR but it is not set',
    );
  }
  return { host, ...numbers(env, { port: 'MASTER_PORT' }) };
}

function numbers<Key extends string>(
  env: NodeJS.ProcessEnv,
  names: Record<Key, string>,
): Record<Key, number> {
  const found = Object.entries<string>(names).map(([key, name]) => {
    const value = env[name];
    if (value === undefined || !/^\d+$/.test(value)) {
      throw new InvalidArgumentError(
        `Expected a whole number in the environment variable ${name} but found ${JSON.stringify(value ?? null)}`,
      );
    }
    return [key, Number(value)];
  });
  return Object.fromEntries(found) as Record<Key, number>;
}
