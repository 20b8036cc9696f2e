// Peak memory of this process, as Linux counts it. bench/twins/memory.py is its mirror image.
import { readFileSync, writeFileSync } from 'node:fs';

/** Bytes by /proc/self/status; null where there is no such file. */
function status(field) {
  try {
    const text = readFileSync('/proc/self/status', 'utf8');
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(text)[1]) * 1024;
  } catch {
    return null;
  }
}

/** Forgets the peak so far, and returns the bytes above which to count. */
export function resetPeak() {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    // Not permitted: then only what goes beyond the peak so far can be seen.
    return status('VmHWM');
  }
  return status('VmRSS');
}

export function peakAbove(before) {
  return before === null ? null : status('VmHWM') - before;
}
