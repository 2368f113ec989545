import ctypes, errno, fcntl, os, signal, socket, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)
PLACES = ('/sandbox', '/tmp', '/dev/shm', '/dev/mqueue')


def print_if(found):
    if found: print(found)


def errno_of(outcome):
    return None if outcome >= 0 else errno.errorcode[ctypes.get_errno()]


def or_say(act, *arguments):
    """Does something; if it cannot be done, says why, and that is all of the program."""
    try:
        return act(*arguments)
    except OSError as error:
        print(errno.errorcode[error.errno])
        sys.exit()


def left():
    """Everything in the places a program may write to, but for its own text."""
    found = [place + '/' + name for place in PLACES if os.path.isdir(place) for name in os.listdir(place)]
    return sorted(set(found) - {'/sandbox/main.py'})


def soon(look):
    """What there is to be seen within a second and a half."""
    for _ in range(30):
        found = look()
        if found: return found
        time.sleep(0.05)


def others():
    """All other processes of this user."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            status = open('/proc/%s/status' % pid).read()
        except OSError:
            continue
        user = next(line for line in status.splitlines() if line.startswith('Uid:')).split()[1]
        if int(user) == os.getuid() and int(pid) != os.getpid(): found.append(status.split()[1])
    return found


def background(work):
    """Does something in a process that no longer belongs to this one, and keeps it alive."""
    ready, done = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(ready)
            for number in range(3): os.dup2(os.open('/dev/null', os.O_RDWR), number)
            kept = work()
            os.write(done, b'.')
            while True: time.sleep(60)
        os._exit(0)
    os.close(done)
    os.wait()
    assert os.read(ready, 1) == b'.', 'nothing runs in the background'


def used(place):
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize, status.f_files - status.f_ffree
