"""Fork server for prepared Python programs.

The runner starts `python3 MAIN` with this directory on PYTHONPATH, as root with nothing but the
capabilities to change user. `site` imports this file before the main file is read, and the import
does not return: it forks one child for each job. A child drops to the sandbox user, waits for its
job, and only then returns, so that the interpreter goes on natively with the job's own main file.

Known differences to a fresh interpreter, all harmless: children of one server share its hash seed
(`random` is reseeded), `os.getppid()` is the server, `/proc/self/environ` is the server's.
"""


def _serve():
    import posix
    import sys

    control = 3
    here = "/isol8/prepared/python"
    plain_modules = set(sys.modules)

    import _socket
    import array
    import atexit
    import ctypes
    import gc
    import io
    import os
    import site
    import types

    def last_words(reason):
        posix.write(control, ("E" + reason)[:900].encode("utf-8", "replace"))
        posix._exit(1)

    # --- what the image itself would have run at this point ------------------------------------
    def own_sitecustomize():
        import importlib.machinery

        rest = [entry for entry in sys.path if entry != here]
        spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
        if spec is None or spec.loader is None:
            return None, None
        return spec, spec.loader.get_code("sitecustomize")

    own_spec, own_code = own_sitecustomize()

    # Set by the interpreter itself when the locale is "C" (PEP 538); a job must see it too.
    with open("/proc/self/environ", "rb") as file:
        given = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0") if entry)
    added = [(key, value) for key, value in posix.environ.items() if key not in given]

    # --- leaving without the interpreter's full finalisation -----------------------------------
    native = ctypes.PyDLL(None)
    frames = (ctypes.c_void_p * 64)()

    class Symbol(ctypes.Structure):
        _fields_ = [
            ("file", ctypes.c_char_p), ("base", ctypes.c_void_p),
            ("name", ctypes.c_char_p), ("address", ctypes.c_void_p),
        ]

    symbol = Symbol()
    symbol_pointer = ctypes.byref(symbol)
    try:
        backtrace, dladdr, leave = native.backtrace, native.dladdr, native.exit
        backtrace.argtypes = [ctypes.c_void_p, ctypes.c_int]
        dladdr.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        leave.argtypes = [ctypes.c_int]
        backtrace(frames, 64)  # loads the unwinder
    except AttributeError:
        backtrace = None
    prctl = native.prctl

    def callers():
        names = set()
        for address in frames[: backtrace(frames, 64)]:
            if address and dladdr(address, symbol_pointer) and symbol.name:
                names.add(symbol.name)
        return names

    if backtrace is not None and not callers() & {b"Py_RunMain", b"Py_BytesMain", b"Py_Main"}:
        backtrace = None  # stripped or statically hidden: exits cannot be told apart

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
    getpid = posix.getpid
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

    def leave_fast(pid, known_modules):
        # The last of the exit handlers: threads are joined and the program's own handlers have run.
        # Returning is always right; leaving is only done where nobody could tell.
        try:
            if (
                getpid() != pid
                or hasattr(sys, "last_type")
                or hasattr(sys, "last_exc")
                or sys.excepthook is not excepthook
                or sys.unraisablehook is not unraisablehook
                or (sys.stdin, sys.stdout, sys.stderr) != standard
                or sys.gettrace() is not None
                or sys.getprofile() is not None
                or len(sys._current_frames()) != 1
            ):
                return
            names = callers()
            if b"Py_Exit" in names or not names & {b"Py_RunMain", b"Py_BytesMain", b"Py_Main"}:
                return
            if not nothing_would_notice(known_modules):
                return
            standard[1].flush()
            standard[2].flush()
        except BaseException:
            return
        leave(0)

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

    def set_environment(fields):
        environment = dict(zip(fields[::2], fields[1::2]))
        for key, value in added:
            environment.setdefault(key, value)
        os.environ.clear()
        posix.environ.clear()
        posix.environ.update(environment)
        store = os.environ._data
        for key, value in environment.items():
            store[key] = value
            posix.putenv(key, value)

    def add_user_packages():
        # What `site` does at start, which the server did with another home and no such directory.
        if not site.ENABLE_USER_SITE:
            return
        site.USER_BASE = site.USER_SITE = None
        directory = site.getusersitepackages()
        if os.path.isdir(directory) and directory not in sys.path:
            before = list(sys.path)
            site.addsitedir(directory, site._init_pathinfo())
            fresh = [entry for entry in sys.path if entry not in before]
            places = [before.index(entry) for entry in site.getsitepackages() if entry in before]
            place = min(places, default=len(before))
            sys.path[:] = before[:place] + fresh + before[place:]

    traces = [name for name in sys.modules if name not in plain_modules]
    for path in list(sys.path_importer_cache):
        if path == here:
            del sys.path_importer_cache[path]
    sys.path[:] = [entry for entry in sys.path if entry != here]

    def become_job(channel):
        channel.send(b"R")
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
        for name in traces:
            sys.modules.pop(name, None)
        add_user_packages()
        if backtrace is not None:
            atexit.register(leave_fast, getpid(), frozenset(sys.modules))
        channel.send(b"S")
        channel.close()
        sys.modules.pop("sitecustomize", None)
        if own_spec is None:
            # To `site` this means that there is no such file, which is the truth.
            raise ImportError("No module named 'sitecustomize'", name="sitecustomize")
        module = type(sys)("sitecustomize")
        module.__spec__, module.__loader__ = own_spec, own_spec.loader
        module.__file__, module.__cached__ = own_spec.origin, own_spec.cached
        module.__package__ = ""
        sys.modules["sitecustomize"] = module
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
    become_job(channel)


_serve()
