"""Fork server for prepared Python programs.

The runner starts `python3 MAIN` with this directory on PYTHONPATH, as root with nothing but the
capabilities to change user. `site` imports this file before the main file is read, and the import
does not return: it forks one child for each job. A child drops to the sandbox user, waits for its
job, and only then returns, so that the interpreter goes on natively with the job's own main file.

Known differences to a fresh interpreter, all harmless: children of one server share its hash seed
(`random` is reseeded), `os.getppid()` is the server, `/proc/self/environ` is the server's. An image may
name modules in ISOL8_PRELOAD: those are imported once, here, and are in `sys.modules` from the start.
"""


def _serve():
    import posix
    import sys

    control = 3
    here = "/isol8/prepared/python"
    path_finder = sys.modules["_frozen_importlib_external"].PathFinder

    # --- what the image itself would have run at this point ------------------------------------
    sys.path[:] = [entry for entry in sys.path if entry != here]
    sys.path_importer_cache.pop(here, None)
    own_spec = path_finder.find_spec("sitecustomize", sys.path)
    own_code = None
    if own_spec is not None:
        own_code = own_spec.loader.get_code("sitecustomize")
        if set(own_code.co_names) <= {"apport_python_hook", "install", "ImportError"}:
            # Debian's, which does nothing but look for a module that sandboxes do not have.
            if path_finder.find_spec("apport_python_hook", sys.path) is None:
                own_code = None
    # --- what the image wants imported ahead of its jobs ----------------------------------------
    not_imported = []
    for name in posix.environ.get(b"ISOL8_PRELOAD", b"").decode("ascii", "replace").split(","):
        try:
            if name:
                __import__(name)
        except BaseException as error:
            not_imported.append("%s: %r" % (name, error))
    # Its generator was seeded by the import; each job needs a seed of its own.
    reseed = getattr(sys.modules.get("numpy.random"), "seed", None)

    plain_modules, plain_finders = set(sys.modules), set(sys.path_importer_cache)

    import _socket
    import array
    import atexit
    import ctypes
    import gc
    import io
    import os
    import resource  # noqa: F401 - what `wait4` would import behind our back
    import site
    import types

    def last_words(reason):
        posix.write(control, ("E" + reason)[:900].encode("utf-8", "replace"))
        posix._exit(1)

    # Set by the interpreter itself when the locale is "C" (PEP 538); a job must see it too.
    with open("/proc/self/environ", "rb") as file:
        given = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0") if entry)
    added = [(key, value) for key, value in posix.environ.items() if key not in given]

    # --- leaving without the interpreter's full finalisation -----------------------------------
    native = ctypes.PyDLL(None)
    prctl = native.prctl
    frames = (ctypes.c_void_p * 64)()

    def code_range(name):
        """Where a function of the interpreter lies in memory."""
        entry = ctypes.cast(getattr(native, name), ctypes.c_void_p).value
        information, symbol = (ctypes.c_void_p * 4)(), ctypes.c_void_p()
        locate = native.dladdr1
        locate.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int]
        if not locate(entry, information, ctypes.byref(symbol), 1) or not symbol.value:
            raise AttributeError(name)
        size = ctypes.c_uint64.from_address(symbol.value + 16).value
        return range(entry, entry + size)

    try:
        backtrace, leave = native.backtrace, native.exit
        backtrace.argtypes = [ctypes.c_void_p, ctypes.c_int]
        leave.argtypes = [ctypes.c_int]
        # Compilers move parts of functions elsewhere, hence three, and the trial below.
        outermost = [code_range(name) for name in ("Py_RunMain", "Py_BytesMain", "Py_Main")]
        early_exit = [code_range("Py_Exit")]
    except AttributeError:
        backtrace = None  # another C library: exits cannot be told apart

    def is_called_from(functions):
        for address in frames[: backtrace(frames, 64)]:
            for function in functions:
                if address is not None and address in function:
                    return True
        return False

    def early_exit_is_recognised():
        """Tries it, in a child of its own."""
        read_end, write_end = posix.pipe()
        pid = posix.fork()
        if pid == 0:
            atexit.register(lambda: posix.write(write_end, b"%d" % is_called_from(early_exit)))
            native.Py_Exit(0)
        posix.close(write_end)
        answer = posix.read(read_end, 1)
        posix.close(read_end)
        posix.waitpid(pid, 0)
        return answer == b"1"

    if backtrace is not None:
        if not is_called_from(outermost) or not early_exit_is_recognised():
            backtrace = None

    library = os.path.dirname(os.__file__) + "/"
    dynload = library + "lib-dynload/"
    quiet_extensions = frozenset(
        "_asyncio _bisect _blake2 _bz2 _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr"
        " _codecs_tw _contextvars _csv _datetime _decimal _elementtree _hashlib _heapq _json _lsprof"
        " _lzma _md5 _multibytecodec _opcode _pickle _posixsubprocess _queue _random _sha1 _sha2"
        " _sha256 _sha3 _sha512 _socket _ssl _statistics _struct _typing _uuid _zoneinfo array"
        " binascii cmath fcntl grp math pyexpat resource select termios unicodedata zlib".split()
    )
    loud_modules = frozenset(
        "ctypes multiprocessing concurrent.futures sqlite3 dbm shelve curses readline tkinter"
        " faulthandler tracemalloc cProfile trace code pdb".split()
    )
    get_mro = type.__dict__["__mro__"].__get__
    get_names = type.__dict__["__dict__"].__get__
    get_flags = type.__dict__["__flags__"].__get__
    file_base = io.IOBase.__mro__[1] if len(io.IOBase.__mro__) > 2 else io.IOBase
    suspendable = {
        types.GeneratorType: "gi_frame",
        types.CoroutineType: "cr_frame",
        types.AsyncGeneratorType: "ag_frame",
    }
    weakref_type = __import__("_weakref").ref
    function_type = types.FunctionType
    builtin_type = types.BuiltinFunctionType
    getpid, unfreeze = posix.getpid, gc.unfreeze
    standard = (sys.stdin, sys.stdout, sys.stderr)
    excepthook, unraisablehook = sys.excepthook, sys.unraisablehook

    def module_is_quiet(name, module):
        if name in loud_modules or type(module) is not module_type:
            return False
        spec = module.__dict__.get("__spec__")
        origin = getattr(spec, "origin", None)
        if origin in ("built-in", "frozen"):
            return True
        if type(origin) is not str or not origin.startswith(library):
            return False
        if origin.startswith(dynload):
            return name.rpartition(".")[2] in quiet_extensions
        return "-packages/" not in origin

    module_type = type(sys)

    def type_is_quiet(kind):
        for base in get_mro(kind):
            if "__del__" in get_names(base):
                return False
        return True

    def object_is_quiet(item, kind):
        if kind in suspendable:
            return getattr(item, suspendable[kind]) is None
        bases = get_mro(kind)
        if file_base in bases:
            return False
        if weakref_type in bases:
            callback = weakref_type.__callback__.__get__(item)
            if callback is None or type(callback) is builtin_type:
                return True
            return type(callback) is function_type and callback.__code__.co_filename.startswith(
                ("<frozen", library)
            )
        if type in bases:
            # A class of instances the collector does not track must not have a destructor.
            return bool(get_flags(item) & (1 << 14)) or type_is_quiet(item)
        return True

    def nothing_would_notice(known_modules):
        """Whether full finalisation could do nothing that anyone would see."""
        for name, module in list(sys.modules.items()):
            if name not in known_modules and not module_is_quiet(name, module):
                return False
        objects = gc.get_objects()
        if len(objects) > 20000 or gc.garbage:
            return False
        quiet_types = {}
        special = set(suspendable)
        for item in objects:
            kind = type(item)
            plain = quiet_types.get(kind)
            if plain is None:
                bases = get_mro(kind)
                if not type_is_quiet(kind):
                    return False
                plain = not (
                    kind in special or file_base in bases or weakref_type in bases or type in bases
                )
                quiet_types[kind] = plain
            if not plain and not object_is_quiet(item, kind):
                return False
        return True

    def may_leave(pid, known_modules):
        if (
            backtrace is None
            or getpid() != pid
            or hasattr(sys, "last_type")
            or hasattr(sys, "last_exc")
            or sys.excepthook is not excepthook
            or sys.unraisablehook is not unraisablehook
            or (sys.stdin, sys.stdout, sys.stderr) != standard
            or sys.gettrace() is not None
            or sys.getprofile() is not None
            or len(sys._current_frames()) != 1
        ):
            return False
        if not is_called_from(outermost) or is_called_from(early_exit):
            return False
        return nothing_would_notice(known_modules)

    def at_exit(pid, known_modules):
        # The last of the exit handlers: threads are joined and the program's own handlers have run.
        # Returning is always right; leaving is only done where nobody could tell.
        try:
            if may_leave(pid, known_modules):
                standard[1].flush()
                standard[2].flush()
                leave(0)
        except BaseException:
            pass
        # Without this the collector would not break the cycles through `__main__`.
        unfreeze()

    # --- pages that a program is bound to write to ------------------------------------------------
    # A child shares its pages with the server until it writes to them, and each first write costs a
    # fault: about 450 in the shortest of programs. A trial finds these pages once; each child takes
    # its copies while it waits for its job.
    def written_pages():
        """First and last address of the pages that this child has copies of."""
        pages = []
        with open("/proc/self/maps") as maps, open("/proc/self/pagemap", "rb", 0) as pagemap:
            for line in maps:
                area, access = line.split(None, 2)[:2]
                if access[:2] != "rw" or access[3] != "p" or line.endswith("[stack]\n"):
                    continue
                start, end = (int(address, 16) for address in area.split("-"))
                pagemap.seek(start // page_bytes * 8)
                for page in array.array("Q", pagemap.read((end - start) // page_bytes * 8)):
                    # Present, and mapped by nobody else: what is still shared with the server is.
                    if page >> 63 & page >> 56 & 1:
                        if pages and start - pages[-1] <= LARGEST_GAP:
                            pages[-1] = start + page_bytes
                        else:
                            pages += start, start + page_bytes
                    start += page_bytes
        return array.array("Q", pages)

    def try_a_program():
        """Runs a short program in a child of its own; returns what it wrote to."""
        read_end, write_end = posix.pipe()
        pid = posix.fork()
        if pid == 0:
            try:
                posix.dup2(posix.open("/dev/null", posix.O_RDWR), 1)
                set_environment([b"HOME", b"/sandbox", b"PATH", b"/usr/bin"])
                exec(compile(TRIAL, "/sandbox/main.py", "exec"), {"__name__": "__main__"})
                sys.stdout.flush()
                nothing_would_notice(frozenset(sys.modules))
                posix.write(write_end, written_pages().tobytes()[:65536])
            finally:
                # Also where the kernel does not tell: nothing is copied ahead then.
                posix._exit(0)
        posix.close(write_end)
        found = array.array("Q")
        found.frombytes(posix.read(read_end, 65536))
        posix.close(read_end)
        posix.waitpid(pid, 0)
        return found

    def take_copies(channel, pages):
        """Copies pages ahead of the job, unless that is there already."""
        try:
            channel.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
            return
        except BlockingIOError:
            pass
        for index in range(0, len(pages), 2):
            # Kernels without it say so, and the pages are copied when they are written to.
            if madvise(pages[index], pages[index + 1] - pages[index], MADV_POPULATE_WRITE):
                return

    page_bytes = posix.sysconf("SC_PAGESIZE")
    # A page more costs less than a call more.
    LARGEST_GAP = 2 * page_bytes
    MADV_POPULATE_WRITE = 23
    madvise = native.madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    TRIAL = (
        "import sys, os\n"
        "class Shape:\n    def __init__(self, size):\n        self.size = size\n"
        "def area(shape):\n    return shape.size ** 2\n"
        "try:\n    print(sorted({f'{area(Shape(n)):.2f}': [n] for n in range(100)}.items()))\n"
        "except Exception as error:\n    print(error, file=sys.stderr)\n"
    )

    # --- one child -----------------------------------------------------------------------------
    def fail(channel, stage, error, path):
        number = error.errno or 5
        channel.send(("%s\0%d\0%s" % (stage, number, path[:900])).encode("utf-8", "replace"))
        posix._exit(127)

    def receive_job(channel):
        def exactly(count):
            chunks = []
            while count:
                chunk = channel.recv(min(count, 1 << 20))
                if not chunk:
                    posix._exit(0)
                chunks.append(chunk)
                count -= len(chunk)
            return b"".join(chunks)

        body = exactly(int.from_bytes(exactly(4), "little"))
        fields, position = [], 0
        while position < len(body):
            start = position + 4
            position = start + int.from_bytes(body[position:start], "little")
            fields.append(body[start:position])
        return fields

    def write_code(channel, path, text):
        try:
            descriptor = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC
                                    | posix.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            try:
                os.makedirs(path.rpartition(b"/")[0], exist_ok=True)
                descriptor = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC
                                        | posix.O_CLOEXEC, 0o666)
            except OSError as error:
                fail(channel, "file", error, path.decode("utf-8", "replace"))
        except OSError as error:
            fail(channel, "file", error, path.decode("utf-8", "replace"))
        try:
            rest = memoryview(text)
            while rest:
                rest = rest[posix.write(descriptor, rest):]
        except OSError as error:
            fail(channel, "file", error, path.decode("utf-8", "replace"))
        posix.close(descriptor)

    # The rest of the server's own environment must be gone before a job's is set.
    os.environ.clear()
    posix.environ.clear()
    environment, initial_environment = os.environ._data, posix.environ

    def set_environment(fields):
        given = dict(zip(fields[::2], fields[1::2]))
        for key, value in added:
            given.setdefault(key, value)
        initial_environment.update(given)
        environment.update(given)
        for key, value in given.items():
            posix.putenv(key, value)

    # What `site` does at start, which the server did for another home and without packages in it.
    user_suffix = None
    if site.ENABLE_USER_SITE:
        os.environ["HOME"] = "/home"
        site.USER_BASE = site.USER_SITE = None
        user_suffix = site.getusersitepackages()[len(site.getuserbase()):]
        os.environ.clear()

    def add_user_packages():
        if user_suffix is None:
            return
        if b"HOME" in environment and b"PYTHONUSERBASE" not in environment:
            site.USER_BASE = os.environ["HOME"].rstrip("/") + "/.local"
            site.USER_SITE = directory = site.USER_BASE + user_suffix
        else:
            site.USER_BASE = site.USER_SITE = None
            directory = site.getusersitepackages()
        try:
            posix.stat(directory)
        except OSError:
            return
        if os.path.isdir(directory) and directory not in sys.path:
            before = list(sys.path)
            site.addsitedir(directory, site._init_pathinfo())
            fresh = [entry for entry in sys.path if entry not in before]
            places = [before.index(entry) for entry in site.getsitepackages() if entry in before]
            place = min(places, default=len(before))
            sys.path[:] = before[:place] + fresh + before[place:]

    # The server goes on without an import, so that these are all traces there will be.
    for name in list(sys.modules):
        if name not in plain_modules and name != "resource":
            del sys.modules[name]
    for path in list(sys.path_importer_cache):
        if path not in plain_finders:
            del sys.path_importer_cache[path]

    def become_job(channel, pages):
        channel.send(b"R")
        take_copies(channel, pages)
        fields = receive_job(channel)
        prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self belongs to us again
        has_code, path, text, directory = fields[:4]
        set_environment(fields[4:])
        if has_code == b"1":
            write_code(channel, path, text)
        try:
            posix.chdir(directory)
        except OSError as error:
            fail(channel, "cwd", error, directory.decode("utf-8", "replace"))
        if "resource" not in plain_modules:
            sys.modules.pop("resource", None)
        if reseed is not None:
            reseed()
        add_user_packages()
        atexit.register(at_exit, getpid(), frozenset(sys.modules))
        channel.send(b"S")
        channel.close()
        sys.modules.pop("sitecustomize", None)
        if own_spec is None:
            # To `site` this means that there is no such file, which is the truth.
            raise ImportError("No module named 'sitecustomize'", name="sitecustomize")
        module = module_type("sitecustomize")
        module.__spec__, module.__loader__ = own_spec, own_spec.loader
        module.__file__, module.__cached__ = own_spec.origin, own_spec.cached
        module.__package__ = ""
        sys.modules["sitecustomize"] = module
        if own_code is None:
            module.__builtins__ = sys.modules["builtins"].__dict__
        else:
            exec(own_code, module.__dict__)

    def drop_to_sandbox(descriptors):
        posix.setsid()
        for target, descriptor in enumerate(descriptors[1:]):
            posix.dup2(descriptor, target)
            posix.close(descriptor)
        adjust = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY)
        posix.write(adjust, b"1000")
        posix.close(adjust)
        posix.setgroups([])
        posix.setresgid(101, 101, 101)
        posix.setresuid(100, 100, 100)

    # --- the server ----------------------------------------------------------------------------
    def next_request(server):
        data, ancillary, _, _ = server.recvmsg(16, _socket.CMSG_SPACE(16), _socket.MSG_CMSG_CLOEXEC)
        if not data:
            posix._exit(0)
        descriptors = array.array("i")
        for _, _, content in ancillary:
            descriptors.frombytes(content[: len(content) - len(content) % 4])
        return list(descriptors)

    def report(server, pid):
        _, status, usage = posix.wait4(pid, 0)
        numbers = (pid, status, usage.ru_utime * 1e6, usage.ru_stime * 1e6, usage.ru_maxrss)
        server.send(("X" + " ".join("%d" % number for number in numbers)).encode())

    try:
        server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, control)
        posix.set_inheritable(control, False)
        gc.collect()
        gc.freeze()
        pages = try_a_program()
        if not_imported:
            server.send(("W" + "; ".join(not_imported))[:900].encode("utf-8", "replace"))
        while True:
            descriptors = next_request(server)
            pid = posix.fork()
            if pid == 0:
                break
            for descriptor in descriptors:
                posix.close(descriptor)
            server.send(b"F%d" % pid)
            report(server, pid)
    except BaseException as error:
        last_words(repr(error))

    try:
        server.close()
        drop_to_sandbox(descriptors)
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptors[0])
    except BaseException:
        posix._exit(127)
    become_job(channel, pages)


_serve()
