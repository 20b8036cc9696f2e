// Measures the peak memory of this process, as Linux counts it. bench/twins/memory.py does the same in Python.
import { readFileSync, writeFileSync } from 'node:fs';

/** Reads bytes from /proc/self/status. Returns null if the file does not exist. */
function status(field) {
  try {
    const text = readFileSync('/proc/self/status', 'utf8');
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(text)[1]) * 1024;
  } catch {
    return null;
  }
}

/** Resets the peak and returns the bytes from which to count. */
export function resetPeak() {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    // Resetting is not permitted. Then only memory beyond the peak so far is visible.
    return status('VmHWM');
  }
  return status('VmRSS');
}

export function peakAbove(before) {
  return before === null ? null : status('VmHWM') - before;
}
