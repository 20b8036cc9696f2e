import { InvalidArgumentError } from '../support/errors.js';

/** Place of this process among those that a launcher started. */
export interface LaunchedProcess {
  launcher: 'torchrun' | 'slurm';
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
  /** Whether the launcher serves the store. Otherwise rank 0 does. */
  launcherHostsStore: boolean;
  /** Name that differs from one start to the next, so that a restarted group does not meet the old one. */
  name: string;
}

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
    return {
      launcher: 'torchrun',
      ...numbers(env, {
        rank: 'RANK',
        size: 'WORLD_SIZE',
        localRank: 'LOCAL_RANK',
        localSize: 'LOCAL_WORLD_SIZE',
      }),
      ...address(env),
      launcherHostsStore: env.TORCHELASTIC_USE_AGENT_STORE === 'True',
      name: `${env.TORCHELASTIC_RUN_ID ?? 'run'}/${env.TORCHELASTIC_RESTART_COUNT ?? '0'}`,
    };
  }
  const size = Number(env.SLURM_NTASKS ?? '1');
  if (env.SLURM_PROCID === undefined || size <= 1) return null;
  const places = numbers(env, { rank: 'SLURM_PROCID', size: 'SLURM_NTASKS', localRank: 'SLURM_LOCALID' });
  // Such as 4, or 4(x2) for two machines with four each.
  const perNode = Number.parseInt(env.SLURM_NTASKS_PER_NODE ?? env.SLURM_TASKS_PER_NODE ?? '1', 10);
  return {
    launcher: 'slurm',
    ...places,
    localSize: Number.isNaN(perNode) ? 1 : perNode,
    ...address(env),
    launcherHostsStore: false,
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
