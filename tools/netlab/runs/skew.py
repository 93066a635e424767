"""A wall clock that is off, for one process: a small library that is preloaded into it.

Linux has time namespaces, but not for the wall clock. The library adds an offset to what the C
library says of it; the offset lies in a file that the process maps, so that it can be changed
while the process runs. Monotonic clocks and relative waits are untouched, as on a real machine
whose clock is set wrongly. Unlike there, a wait until a moment of the wall clock (`sem_timedwait`,
say) is counted by the kernel, whose clock is right: it is too long or too short by the offset.
Programs that ask the kernel themselves (Go) are not deceived.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.netlab.errors import LabError, MissingToolError

VARIABLE = "NETLAB_CLOCK_FILE"

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t none;
static volatile int64_t *offset_ns = &none;

__attribute__((constructor)) static void map_offset(void) {
    const char *name = getenv("NETLAB_CLOCK_FILE");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) offset_ns = page;
}

int clock_gettime(clockid_t id, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, out);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t ns = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec + *offset_ns;
        out->tv_sec = ns / 1000000000;
        out->tv_nsec = ns % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *out, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, out) == 0 ? base : 0;
}
"""


def build(folder: Path) -> Path:
    """Compile the library into `folder`, if it is not there. Blocks for a tenth of a second.

    Raises :class:`MissingToolError` or :class:`LabError`.
    """
    library = folder / "libskew.so"
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise MissingToolError("clock-skew needs a C compiler; as root: apt-get install gcc")
    command = [compiler, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(library), "-ldl"]
    done = subprocess.run(command, input=SOURCE.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise LabError(f"the compiler failed: {done.stderr.decode(errors='replace').strip()}")
    return library


def environment(library: Path, clock_file: Path) -> dict[str, str]:
    """What a program's environment needs, so that its clock can be set."""
    if not clock_file.exists():
        set_offset(clock_file, 0.0)
    return {"LD_PRELOAD": str(library), VARIABLE: str(clock_file)}


def set_offset(clock_file: Path, offset_s: float) -> None:
    """Set the clocks of the programs that were started with this file."""
    # In place: a new file would not be the one that they have mapped.
    with clock_file.open("r+b" if clock_file.exists() else "wb", buffering=0) as file:
        file.write(round(offset_s * 1e9).to_bytes(8, "little", signed=True))
