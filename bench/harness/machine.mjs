import { readFileSync } from 'node:fs';
import os from 'node:os';
import { findPython, startOurs, startTwin } from './process.mjs';

/**
 * Describes the machine for the results: processor and versions, but nothing that identifies it. Also finds the twins'
 * Python.
 */
export async function lookAround(benchmark, folder) {
  const load = os.loadavg()[0];
  const ours = startOurs(benchmark, 1);
  const own = await ours.ask('versions').finally(() => ours.close());
  const python = findPython(own.libtorch);
  const twin = startTwin(python, benchmark, 1, folder);
  const its = await twin.ask('versions').finally(() => twin.close());
  const machine = {
    CPU: os.cpus()[0].model.trim(),
    cores: os.availableParallelism(),
    memory: `${Math.round(os.totalmem() / 2 ** 30)} GiB`,
    'vector instructions': own.cpuCapability,
    'transparent huge pages': hugePages(),
    bidiseg: own.bidiseg,
    LibTorch: own.libtorch,
    'Node.js': own.node,
    'torch of the twins': `${its.torch}, Python ${its.python}, numpy ${its.numpy}`,
    'load before': load.toFixed(2),
  };
  return { python, machine };
}

/** Reads the setting of huge pages, which decides what fresh memory costs. */
function hugePages() {
  try {
    return /\[(\w+)\]/.exec(readFileSync('/sys/kernel/mm/transparent_hugepage/enabled', 'utf8'))[1];
  } catch {
    return 'unknown';
  }
}
