"""Measures the peak memory of this process, as Linux counts it. bench/harness/memory.mjs does the same in Node.js."""


def status(field):
    """Reads bytes from /proc/self/status. Returns None if the file does not exist."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))
    except (OSError, StopIteration):
        return None


def reset_peak():
    """Resets the peak and returns the bytes from which to count."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        # Resetting is not permitted. Then only memory beyond the peak so far is visible.
        return status("VmHWM")
    return status("VmRSS")


def peak_above(before):
    return None if before is None else status("VmHWM") - before
