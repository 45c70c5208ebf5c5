"""Launcher of the sandbox, run by `sandbox.py` as a script: isolates its own process, then executes a command in it.

    python -I -S _sandbox_launch.py MEMORY_BYTES CPU_SECONDS COMMAND…

The exit code is 0 once the command has ended, whatever its own exit code. Another exit code, with a reason on stderr,
means that an isolation was refused and the command not started. Only the standard library is imported: modules of the
package are out of reach.
"""

import ctypes
import os
import platform
import resource
import struct
import sys


FAILED = 97
SCRATCH_MIB = 16
FILE_BYTES = 8 * 2**20
OPEN_FILES = 64

NEW_NAMESPACES = 0x00020000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000  # mount, IPC, user, PID, network
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
READ_ONLY = 1 | 2 | 4  # and no set-uid programs, no devices
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
# By machine: the audit architecture, the number of pivot_root, and the numbers of refused system calls: those that
# - make processes, threads and namespaces, or look into other processes (fork, vfork, clone, clone3, unshare, setns,
#   mount, ptrace, process_vm_readv, process_vm_writev),
# - leave the process group that is ended from outside, or send signals: to its group would be to its launcher (setsid,
#   setpgid, kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal),
# - have been doors into the kernel (bpf, perf_event_open, userfaultfd, io_uring_setup, add_key, request_key, keyctl).
CALLS = {
    "x86_64": (
        0xC000003E,
        155,
        (57, 58, 56, 435, 272, 308, 165, 101, 310, 311)
        + (112, 109, 62, 200, 234, 129, 297, 424)
        + (321, 298, 323, 425, 248, 249, 250),
    ),
    "aarch64": (
        0xC00000B7,
        41,
        (220, 435, 97, 268, 40, 117, 270, 271)
        + (157, 154, 129, 130, 131, 138, 240, 424)
        + (280, 241, 282, 425, 217, 218, 219),
    ),
}
X32_CALLS = 0x40000000  # the second table of x86_64, with the same calls under other numbers

libc = ctypes.CDLL(None, use_errno=True)


def must(what: str, result: int) -> None:
    """Raise an `OSError` that names the step, where a system call has failed (a negative result)."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def end_with_parent() -> None:
    must("ending with its parent", libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0))


def enter_namespaces() -> None:
    """Enter new namespaces: no network (the loopback is down), no other processes, a user without rights."""
    user, group = os.geteuid(), os.getegid()
    must("new namespaces for user, network, processes and mounts", libc.unshare(NEW_NAMESPACES))
    for name, content in (("setgroups", "deny"), ("uid_map", f"65534 {user} 1"), ("gid_map", f"65534 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


def enter_scratch(paths: list[str], pivot_root: int) -> None:
    """Change to a root folder in memory that holds nothing but these paths, read-only."""
    must("private mounts", libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    size = f"size={SCRATCH_MIB}m,nr_inodes=4096,mode=0755".encode()
    must("a root in memory", libc.mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, size))
    os.mkdir("/tmp/old")
    must("a change of root", libc.syscall(pivot_root, b"/tmp", b"/tmp/old"))
    os.chdir("/")
    for path in paths:
        show(path)
    must("leaving the old root", libc.umount2(b"/old", MNT_DETACH))
    os.rmdir("/old")
    os.makedirs("/tmp", exist_ok=True)
    os.chdir("/tmp")


def show(path: str) -> None:
    """Make a path of the old root visible at the same place in the new one, read-only."""
    source = "/old" + path
    if os.path.lexists(path) or not os.path.lexists(source):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), path)
        return
    if os.path.isdir(source):
        os.mkdir(path)
    else:
        open(path, "x").close()
    must(f"showing {path}", libc.mount(source.encode(), path.encode(), None, MS_BIND | MS_REC, None))
    attributes = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)
    done = libc.syscall(MOUNT_SETATTR, AT_FDCWD, path.encode(), AT_RECURSIVE, attributes, len(attributes))
    must(f"{path} read-only", done)


def what_python_needs(python: str) -> list[str]:
    """Folders of the interpreter and of all libraries; shorter paths first, as they may contain the others."""
    own = {os.path.dirname(python), sys.base_prefix, sys.base_exec_prefix}
    system = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"}
    return sorted(own | system, key=len)


def limit_resources(memory_bytes: int, cpu_seconds: int) -> None:
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))


def refuse_calls(table: int, calls: tuple[int, ...]) -> None:
    """Install a seccomp filter, by which these system calls fail with EPERM in this process and what it executes."""

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refuse, allow, kill = 0x00050000 | 1, 0x7FFF0000, 0x80000000
    program = [instruction(load, 4), instruction(equal, table, 1, 0), instruction(give, kill), instruction(load, 0)]
    program.append(instruction(at_least, X32_CALLS, len(calls) + 1, 0))
    program += [instruction(equal, call, len(calls) - i, 0) for i, call in enumerate(calls)]
    program += [instruction(give, allow), instruction(give, refuse)]
    code = ctypes.create_string_buffer(b"".join(program))
    must("no new privileges", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    must("a filter of system calls", libc.prctl(PR_SET_SECCOMP, 2, filter_, 0, 0))


def main() -> None:
    memory_bytes, cpu_seconds, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    machine = platform.machine()
    if sys.platform != "linux" or machine not in CALLS:
        raise OSError(f"this is {sys.platform} on {machine}; walls are known for Linux on {' and '.join(CALLS)}")
    table, pivot_root, calls = CALLS[machine]
    end_with_parent()
    nothing = os.open("/dev/null", os.O_WRONLY)
    enter_namespaces()
    enter_scratch(what_python_needs(command[0]), pivot_root)
    told, tell = os.pipe()
    # The first child after `unshare` is process 1 of the new namespace: when it ends, all processes in there end
    if child := os.fork():
        os.close(tell)
        failure = os.read(told, 4096).decode()
        os.waitpid(child, 0)
        if failure:
            raise OSError(failure)
        return
    try:
        end_with_parent()
        limit_resources(memory_bytes, cpu_seconds)
        os.dup2(nothing, 2)
        refuse_calls(table, calls)
        # Executing a program as a user who is not root drops the capabilities in the new namespaces
        os.execve(command[0], command, {})
    except BaseException as error:
        os.write(tell, str(error).encode()[:4096])
    os._exit(FAILED)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
