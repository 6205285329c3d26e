"""What a child gives up before it looks at a document. Each step is taken as far as the system allows.

On Linux a seccomp filter takes away network, programs, new processes and other processes' memory, without any
privilege; as root the child also gets a network namespace with nothing in it. Elsewhere the resource limits remain.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys

from gristmill.documents.limits import Limits

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNET = 0x40000000
_CLONE_NEWIPC = 0x08000000
_CLONE_THREAD = 0x00010000
_EPERM, _ENOSYS = 1, 38
NICE = 10

# (AUDIT_ARCH, clone, clone3, and what is refused), from the kernel's syscall tables. socketpair stays: the runtime
# inside the PDF library wants one for itself.
_SYSTEMS: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    # socket connect accept sendto sendmsg bind listen fork vfork execve kill ptrace mount setns unshare
    # accept4 process_vm_readv process_vm_writev bpf execveat io_uring_setup pidfd_getfd
    "x86_64": (
        0xC000003E,
        56,
        435,
        (41, 42, 43, 44, 46, 49, 50, 57, 58, 59, 62, 101, 165, 308, 272, 288, 310, 311, 321, 322, 425, 438),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        435,
        (198, 203, 202, 206, 211, 200, 201, 221, 129, 117, 40, 268, 97, 242, 270, 271, 280, 281, 425, 438),
    ),
}


def die_with_parent(parent: int) -> None:
    """Even if the parent is killed: SIGKILL for this process. `parent`: its id, for the case that it has gone already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def enter(limits: Limits) -> None:
    """For the whole process, for good."""
    os.nice(NICE)
    _first_to_go()
    _limit(limits)
    if sys.platform == "linux":
        _leave_network()
        _prctl(_PR_SET_DUMPABLE, 0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _filter_calls()


def _prctl(option: int, *values: int) -> None:
    if sys.platform == "linux":
        given = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)][:4]
        ctypes.CDLL(None, use_errno=True).prctl(option, *given)


def _first_to_go() -> None:
    """When the machine runs out of memory, the kernel shall take this process and not the service."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


def _limit(limits: Limits) -> None:
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_AS, limits.address_bytes),
        (resource.RLIMIT_NPROC, limits.processes),
    ):
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        with contextlib.suppress(ValueError, OSError):  # macOS has no such limit on memory
            resource.setrlimit(kind, (value, value))


def _leave_network() -> None:
    ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET | _CLONE_NEWIPC)  # refused without privilege


def _filter_calls() -> None:
    system = _SYSTEMS.get(platform.machine())
    if system is None or sys.maxsize < 2**32:
        return
    code = ctypes.create_string_buffer(program(*system))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(code))
    ctypes.CDLL(None, use_errno=True).prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.c_char_p(header), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )


def program(architecture: int, clone: int, clone3: int, refused: tuple[int, ...]) -> bytes:
    """A filter in classic BPF over struct seccomp_data (number at 0, architecture at 4, first argument at 16)."""
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown = 0x7FFF0000, 0x00050000 | _EPERM, 0x00050000 | _ENOSYS
    steps = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, refuse),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),  # the x32 numbers of the same calls
        (answer, 0, 0, refuse),
        (equal, 0, 1, clone3),  # glibc then falls back on clone, whose flags can be seen
        (answer, 0, 0, unknown),
        (equal, 0, 4, clone),
        (load, 0, 0, 16),
        (any_bit, 0, 1, _CLONE_THREAD),
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    for number in refused:
        steps += [(equal, 0, 1, number), (answer, 0, 0, refuse)]
    steps.append((answer, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *step) for step in steps)
