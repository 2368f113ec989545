"""What the standard library of Python asks of the kernel. Prints each part that failed, then how many went well."""
import asyncio, ctypes, errno, fcntl, hashlib, mmap, multiprocessing, os, queue, resource, secrets, select, shutil
import signal, socket, sqlite3, ssl, subprocess, sys, tempfile, threading, time, zlib
from multiprocessing import shared_memory

parts = []
part = parts.append
def equal(got, expected): assert got == expected, f"{got!r} is not {expected!r}"

@part
def files():
    with tempfile.TemporaryDirectory(dir="/sandbox") as folder:
        a, b = os.path.join(folder, "a"), os.path.join(folder, "b")
        with open(a, "w") as file: file.write("hello"); file.flush(); os.fsync(file.fileno()); os.fdatasync(file.fileno())
        shutil.copy2(a, b); os.chmod(b, 0o600); os.utime(b, (1, 2)); os.rename(b, a); os.symlink("a", b); equal(os.readlink(b), "a")
        os.link(a, os.path.join(folder, "c")); os.truncate(a, 2); os.mkfifo(os.path.join(folder, "f")); os.statvfs(folder)
        os.makedirs(os.path.join(folder, "d/e")); equal(sorted(os.listdir(folder)), ["a", "b", "c", "d", "f"])
        descriptor = os.open(a, os.O_RDWR); fcntl.flock(descriptor, fcntl.LOCK_EX); fcntl.lockf(descriptor, fcntl.LOCK_UN)
        os.posix_fallocate(descriptor, 0, 10); os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED); os.lseek(descriptor, 0, os.SEEK_DATA)
        os.pwrite(descriptor, b"xy", 0); equal(os.pread(descriptor, 2, 0), b"xy"); os.close(descriptor)

@part
def vectors():
    with tempfile.TemporaryFile(dir="/sandbox") as file:
        equal(os.pwritev(file.fileno(), [b"ab", b"cd"], 0), 4); buffers = [bytearray(2), bytearray(2)]
        equal(os.preadv(file.fileno(), buffers, 0), 4); equal(buffers[1], b"cd")

@part
def vectors_with_flags():
    with tempfile.TemporaryFile(dir="/sandbox") as file:
        equal(os.pwritev(file.fileno(), [b"ab"], 0, os.RWF_DSYNC), 2)
        equal(os.preadv(file.fileno(), [bytearray(2)], 0, os.RWF_HIPRI), 2)

@part
def copies_in_the_kernel():
    with tempfile.TemporaryFile(dir="/sandbox") as source, tempfile.TemporaryFile(dir="/sandbox") as target:
        source.write(b"0123456789"); source.flush()
        equal(os.copy_file_range(source.fileno(), target.fileno(), 10, 0, 0), 10)
        equal(os.sendfile(target.fileno(), source.fileno(), 0, 5), 5)

@part
def splicing():
    with tempfile.TemporaryFile(dir="/sandbox") as source:
        source.write(b"0123456789"); source.flush(); reading, writing = os.pipe()
        equal(os.splice(source.fileno(), writing, 10, offset_src=0), 10); equal(os.read(reading, 10), b"0123456789")

@part
def memory_files():
    descriptor = os.memfd_create("x"); os.write(descriptor, b"x"); os.close(descriptor)

@part
def memory():
    area = mmap.mmap(-1, 1 << 16); area[:5] = b"hello"; area.flush(); area.madvise(mmap.MADV_DONTNEED); area.resize(1 << 17); area.close()
    shared = shared_memory.SharedMemory(create=True, size=100); shared.buf[0] = 1; shared.close(); shared.unlink()

@part
def extended_attributes():
    path = "/sandbox/with-attributes"; open(path, "w").close()
    try: os.setxattr(path, "user.a", b"1"); equal(os.getxattr(path, "user.a"), b"1"); os.listxattr(path); os.removexattr(path, "user.a")
    except OSError as error: equal(error.errno, errno.ENOTSUP)

@part
def threads():
    results = queue.Queue(); workers = [threading.Thread(target=results.put, args=(i,)) for i in range(8)]
    [worker.start() for worker in workers]; [worker.join() for worker in workers]; equal(sorted(results.get() for _ in workers), list(range(8)))

@part
def processes():
    equal(subprocess.run(["/bin/echo", "hi"], capture_output=True, text=True).stdout, "hi\n")
    equal(subprocess.run("exit 3", shell=True, start_new_session=True, process_group=None).returncode, 3)
    equal(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1]), 0)
    with multiprocessing.get_context("fork").Pool(2) as pool: equal(pool.map(abs, [-1, -2]), [1, 2])
    os.nice(1); os.getpriority(os.PRIO_PROCESS, 0); os.getpgid(0); os.getsid(0); os.times(); os.getloadavg()

@part
def descriptors_of_processes():
    child = subprocess.Popen(["sleep", "60"]); descriptor = os.pidfd_open(child.pid)
    signal.pidfd_send_signal(descriptor, signal.SIGTERM); select.poll().register(descriptor)
    equal(os.waitid(os.P_PIDFD, descriptor, os.WEXITED).si_status, signal.SIGTERM)

@part
def scheduling():
    os.sched_setaffinity(0, os.sched_getaffinity(0)); os.sched_getscheduler(0); os.sched_yield(); os.sched_get_priority_max(os.SCHED_FIFO)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); os.sched_rr_get_interval(0); os.sched_getparam(0); os.sched_setparam(0, os.sched_param(0))

@part
def signals_and_timers():
    seen = []; signal.signal(signal.SIGALRM, lambda *_: seen.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not seen: time.sleep(0.01)
    signal.getitimer(signal.ITIMER_REAL); signal.alarm(0); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1); equal(signal.sigpending(), {signal.SIGUSR1}); equal(signal.sigwaitinfo([signal.SIGUSR1]).si_signo, signal.SIGUSR1)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1); signal.sigtimedwait([signal.SIGUSR1], 5)
    time.clock_gettime(time.CLOCK_MONOTONIC); time.clock_getres(time.CLOCK_REALTIME); time.thread_time()

@part
def waiting():
    reading, writing = os.pipe2(os.O_NONBLOCK); os.write(writing, b"x")
    equal(select.select([reading], [], [], 5)[0], [reading]); waiter = select.poll(); waiter.register(reading); equal(len(waiter.poll(5000)), 1)
    with select.epoll() as waiter: waiter.register(reading); equal(len(waiter.poll(5)), 1)
    os.eventfd_write(event := os.eventfd(0), 2); equal(os.eventfd_read(event), 2)

@part
def sockets():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer = server.accept()[0]; client.sendall(b"hi"); equal(peer.recv(2), b"hi"); client.shutdown(socket.SHUT_WR); peer.close()
    # No address of that kind is there, but the socket is.
    socket.socket(socket.AF_INET6).close()
    a, b = socket.socketpair(); socket.send_fds(a, [b"x"], [0]); socket.recv_fds(b, 1, 1); a.close(); b.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one: one.bind(("127.0.0.1", 0)); one.sendto(b"x", one.getsockname()); equal(one.recvfrom(1)[0], b"x")
    assert ("lo" in [name for _, name in socket.if_nameindex()])

@part
def names_that_do_not_resolve():
    try: socket.getaddrinfo("example.com", 80); raise AssertionError("it resolved")
    except socket.gaierror: pass

@part
def databases():
    with sqlite3.connect("/sandbox/data.db") as database:
        database.execute("pragma journal_mode=wal"); database.execute("create table t (x)"); database.execute("insert into t values (1)")
        equal(database.execute("select x from t").fetchall(), [(1,)])

@part
def compression_and_hashes():
    equal(zlib.decompress(zlib.compress(b"x" * 1000)), b"x" * 1000); hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10); hashlib.scrypt(b"a", salt=b"b", n=2, r=1, p=1)
    secrets.token_bytes(8); os.getrandom(8); ssl.create_default_context()

@part
def event_loops():
    async def talk():
        async def answer(reader, writer): writer.write(await reader.read(2)); await writer.drain(); writer.close()
        server = await asyncio.start_server(answer, "127.0.0.1", 0); reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hi"); equal(await reader.read(2), b"hi"); writer.close(); server.close()
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1); equal((await child.communicate(b"x"))[0], b"x")
        equal(await asyncio.to_thread(abs, -1), 1); await asyncio.sleep(0.001)
    asyncio.run(talk())

@part
def limits_and_identity():
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)); resource.prlimit(0, resource.RLIMIT_CORE); resource.getrusage(resource.RUSAGE_SELF)
    equal((os.getuid(), os.getgid()), (100, 101)); os.getgroups(); os.getresuid(); os.uname(); os.umask(0o22); os.getcwd(); os.cpu_count(); os.sysconf("SC_NPROCESSORS_ONLN")
    ctypes.CDLL(None).prctl(15, b"name", 0, 0, 0); os.ttyname if not os.isatty(0) else None; os.openpty()

failed = 0
for work in parts:
    try: work()
    except BaseException as error: failed += 1; print(f"{work.__name__}: {type(error).__name__}: {error}")
print(f"{len(parts) - failed} of {len(parts)} parts went well")
sys.exit(failed > 0)
