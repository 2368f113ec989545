import ctypes, errno, fcntl, mmap, os, signal, socket, struct, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(number, *arguments):
    """A system call, made directly: the name of its error, or ALLOWED."""
    outcome = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if type(a) is int else a for a in arguments))
    return 'ALLOWED' if outcome >= 0 else errno.errorcode[ctypes.get_errno()]


def tried(act, *arguments):
    """The name of the error of anything else, or ALLOWED."""
    try:
        act(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'ALLOWED'


def say(*outcomes):
    """All different outcomes, in one line."""
    print(*sorted(set(outcomes)))


def read(path): open(path, 'rb').read(64)
def write(path): os.write(os.open(path, os.O_WRONLY), b'1')


def machine_code(text):
    """What becomes of a child that runs what no function of a library offers."""
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(bytes.fromhex(text))
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ended_by(lambda: errno.errorcode.get(-ctypes.CFUNCTYPE(ctypes.c_int)(at)(), 'ALLOWED'))


def ended_by(act):
    """The signal that ends a child that does something, or else the name of the error it got, or ALLOWED."""
    pid = os.fork()
    if pid == 0:
        os._exit(getattr(errno, act(), 0))
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status): return signal.Signals(os.WTERMSIG(status)).name
    return errno.errorcode.get(os.WEXITSTATUS(status), 'ALLOWED')
