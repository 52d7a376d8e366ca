"""What a process of its own needs at its peak."""

from __future__ import annotations

# In front of a program that a test runs. Not `ru_maxrss`: Linux begins it with the peak of the process that started
# this one, so that beside a large test run nothing a program needs would ever show.
PEAK_KIB = """
def peak_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
"""
