"""Peak memory of this process, as Linux counts it. bench/harness/memory.mjs is its mirror image."""


def status(field):
    """Bytes by /proc/self/status; None where there is no such file."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))
    except (OSError, StopIteration):
        return None


def reset_peak():
    """Forgets the peak so far, and returns the bytes above which to count."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        # Not permitted: then only what goes beyond the peak so far can be seen.
        return status("VmHWM")
    return status("VmRSS")


def peak_above(before):
    return None if before is None else status("VmHWM") - before
