import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { availableParallelism, hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/schema.js';
import type { ImageDataset } from '../data/dataset.js';
import { buildInfo, setThreadCount } from '../native/device.js';
import { gatherJson, ToldError } from '../native/group-values.js';
import { type LaunchedProcess, launchedProcess } from '../native/launcher.js';
import { ProcessGroup } from '../native/process-group.js';
import { givenThreads } from '../support/threads.js';
import type { Datasets } from './datasets.js';
import { requireDividedSteps } from './divided-steps.js';

/** Processes of a run, seen from one of them. */
export interface Processes extends Disposable {
  group: ProcessGroup;
  /** The config, with the device of this process. */
  config: Config;
  /** What computes where, in words. */
  description: string;
}

/** What a process computes with. */
interface Place {
  host: string;
  device: string;
  threads: number;
  /** Whether no other process of its machine has its GPU. */
  hasOwnGpu: boolean;
}

/**
 * Joins the other processes of a run, if a launcher started any: torchrun, srun or `bidiseg train --processes`. Decides the
 * device, the number of threads and the backend of each process. See
 * docs/design/distribution.md#who-decides-devices-threads-and-backends.
 *
 * @param options.timeoutSeconds time that each operation may take. Default 600
 * @returns null for a process on its own
 * @throws InvalidArgumentError when the number of processes does not divide the steps of the config
 * @throws ProcessGroupError when not all processes come within the timeout
 */
export async function joinProcesses(
  config: Config,
  options: { timeoutSeconds?: number | undefined; signal?: AbortSignal | undefined } = {},
): Promise<Processes | null> {
  const launched = launchedProcess();
  if (!launched) return null;
  requireDividedSteps(config, launched.size);
  const { timeoutSeconds = 600, signal } = options;
  const join = (name: string, backend: 'gloo' | 'nccl') =>
    ProcessGroup.join({ name, backend, timeoutSeconds, ...(signal && { signal }) });
  const place = await choosePlace(config.device, launched);
  await setThreadCount(place.threads);
  const first = await join('processes', 'gloo');
  try {
    const places = await gatherJson(first, place, signal);
    const usesNccl = ProcessGroup.backends().includes('nccl') && places.every(({ hasOwnGpu }) => hasOwnGpu);
    const group = usesNccl ? await join('gpus', 'nccl') : first;
    return {
      group,
      config: { ...config, device: place.device },
      description: describePlaces(places, group.backend),
      [Symbol.dispose]() {
        group.dispose();
        first.dispose();
      },
    };
  } catch (error) {
    first.dispose();
    throw error;
  }
}

async function choosePlace(device: string, launched: LaunchedProcess): Promise<Place> {
  const { localRank, localSize } = launched;
  const { cudaDevices } = await buildInfo();
  const gpus = cudaDevices.length;
  const own = device === 'cuda' && gpus > 0 ? `cuda:${localRank % gpus}` : device;
  return {
    host: hostname(),
    // The config of rank 0 goes into the run folder, which another machine may resume.
    device: own === 'cuda:0' ? device : own,
    threads: threadsOf(launched),
    hasOwnGpu: device === 'cuda' && localSize <= gpus,
  };
}

/**
 * An equal share of the machine's cores, unless OMP_NUM_THREADS says otherwise. torchrun sets it to 1 for several
 * processes, whatever the machine has, so that its 1 counts as unset.
 */
function threadsOf({ launcher, localSize }: LaunchedProcess): number {
  const given = Number.parseInt(givenThreads ?? '', 10);
  const isGiven = given > 1 || (given === 1 && (launcher !== 'torchrun' || localSize === 1));
  return isGiven ? Math.min(given, 1024) : Math.max(1, Math.floor(availableParallelism() / localSize));
}

function describePlaces(places: readonly Place[], backend: string): string {
  const groups = new Map<string, number[]>();
  for (const [rank, { host, device, threads }] of places.entries()) {
    const what = `${device} of ${host} with ${threads} thread${threads === 1 ? '' : 's'}`;
    groups.set(what, [...(groups.get(what) ?? []), rank]);
  }
  const lines = [...groups].map(
    ([what, ranks]) => `${rangeOf(ranks)} on ${what}${ranks.length > 1 ? ' each' : ''}`,
  );
  return `${places.length} processes over ${backend}: ${lines.join('; ')}`;
}

function rangeOf(ranks: readonly number[]): string {
  const isRange = ranks.length > 2 && ranks.every((rank, i) => rank === ranks[0]! + i);
  if (isRange) return `ranks ${ranks[0]} to ${ranks.at(-1)}`;
  return ranks.length === 1 ? `rank ${ranks[0]}` : `ranks ${ranks.join(', ')}`;
}

/** Time for a file of rank 0 to appear on another machine, in milliseconds. */
const PATIENCE_MS = 5000;

/**
 * Checks that all processes have the config and the options of rank 0.
 *
 * @throws ToldError with the code ERR_CONFIG that names the first process that differs
 */
export async function requireSameConfig(group: ProcessGroup, config: Config, options: object): Promise<void> {
  const hashes = await gatherJson(group, hashOf([withoutPlaces(config), options]));
  const rank = hashes.findIndex((hash) => hash !== hashes[0]);
  if (rank < 0) return;
  throw new ToldError(
    'ERR_CONFIG',
    `Rank ${rank} has another config than rank 0, or other options; start all with the same file and options`,
  );
}

/**
 * Checks that all processes see the data and the run folder of rank 0.
 *
 * @param mark file in the run folder that rank 0 has just written; null in the other processes
 * @throws ToldError with the code ERR_CONFIG that names the first process that differs, and what it sees
 */
export async function requireSameData(
  group: ProcessGroup,
  { output }: Config,
  { source, target, validation, labeled }: Datasets,
  mark: string | null,
): Promise<void> {
  const [file] = await gatherJson(group, mark === null ? null : path.relative(output, mark));
  const sets = [source, target, validation, ...(labeled ? [labeled] : [])];
  const counts = [
    `${source.length} source`,
    `${target.length} target`,
    `${validation?.length ?? 0} validation`,
    ...(labeled ? [`${labeled.length} labeled target`] : []),
  ];
  const own = {
    images: `${counts.slice(0, -1).join(', ')} and ${counts.at(-1)} images`,
    names: hashOf(sets.map((set) => set && namesOf(set))),
    folder: output,
    seesFolder: await appears(path.join(output, file!)),
  };
  const all = await gatherJson(group, own);
  for (const [rank, other] of all.entries()) {
    const difference = differenceOf(all[0]!, other);
    if (difference) throw new ToldError('ERR_CONFIG', `Rank ${rank} ${difference}`);
  }
}

type Inputs = Record<'images' | 'names' | 'folder', string> & { seesFolder: boolean };

function differenceOf(first: Inputs, other: Inputs): string | undefined {
  if (other.images !== first.images) return `sees ${other.images}, expected ${first.images} as in rank 0`;
  if (other.names !== first.names) {
    return 'sees images of other names than rank 0, expected the same data';
  }
  if (!other.seesFolder) {
    return `does not see the run folder of rank 0 in ${other.folder}, expected storage that all machines share`;
  }
  return undefined;
}

/** What must be the same everywhere. Paths may differ between machines, and devices between processes. */
function withoutPlaces({ data: { root: _, ...data }, output: _output, device: _device, ...config }: Config) {
  return { ...config, data };
}

function namesOf(dataset: ImageDataset): string[] {
  return Array.from({ length: dataset.length }, (_, index) => dataset.entry(index).name);
}

function hashOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex');
}

async function appears(file: string): Promise<boolean> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!existsSync(file)) {
    if (performance.now() > deadline) return false;
    await sleep(250);
  }
  return true;
}
