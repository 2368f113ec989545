"""Driver of a living Python: runs one piece of code after another in one `__main__`.

Commands come and reports go as lines of JSON on descriptors 3 and 4; `runner/src/live` is the other
end. The code must see what a fresh `python3 FILE` would show it: no frame, name or module of this file.
"""


def _drive():
    import fcntl, json, linecache, os, posix, signal, sys
    from _weakref import ref as reference

    module_type = type(sys)
    own_pid, getpid = posix.getpid(), posix.getpid
    read, write, close, dup2, fstat = posix.read, posix.write, posix.close, posix.dup2, posix.fstat
    open_file = posix.open
    loads, environ, standard_open = json.loads, os.environ, open
    getsignal, set_signal, SIGINT = signal.getsignal, signal.signal, signal.SIGINT
    compile_code, run_code = compile, exec
    READ_ONLY, CLOSE_ON_EXEC = posix.O_RDONLY, posix.O_CLOEXEC

    def out_of_the_way(fd):
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 900)
        close(fd)
        return moved

    commands, reports = out_of_the_way(3), out_of_the_way(4)
    # What the code may close or replace under 1 and 2, to mend it for the next call.
    outputs = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 900) for fd in (1, 2)}

    def report(text):
        write(reports, text.encode() + b"\n")

    # --- the module the code runs in -----------------------------------------------------------
    main = module_type("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    main.__dict__["__annotations__"] = {}
    sys.modules["__main__"] = main
    namespace = main.__dict__

    class CallPath(str):
        """A file's name that is equal to the plain one but hashes by call, so that `linecache` finds
        the text of the very call that defined a function. It all ran under one name."""

        def __new__(cls, path, number):
            self = str.__new__(cls, path)
            self.number = number
            return self

        def __hash__(self):
            return hash((str(self), self.number))

        def __str__(self):
            return str.__str__(self)

        def __reduce__(self):
            return str, (str.__str__(self),)

    CallPath.__module__ = "builtins"

    cache, watched = linecache.cache, {}

    def under_name(code, name):
        if not hasattr(code, "replace"):
            return code  # before Python 3.8, tracebacks show the latest text of a name
        nested = tuple(
            under_name(item, name) if type(item) is type(code) else item for item in code.co_consts
        )
        return code.replace(co_filename=name, co_consts=nested)

    def remember(path, number, text):
        """Keeps the text for tracebacks as long as code of it lives."""
        lines = text.splitlines(True)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        entry = (len(text), None, lines, path)
        cache[path] = entry
        name, key = CallPath(path, number), CallPath(path, number)
        cache[key] = entry
        watched[key] = reference(name, lambda _: forget(key))
        return name

    def forget(key):
        watched.pop(key, None)
        cache.pop(key, None)

    # --- what the code prints, reads and is told -------------------------------------------------
    own_stdin_is_plain = True

    def set_standard_input(path, number):
        nonlocal own_stdin_is_plain
        if path is None and own_stdin_is_plain and not getattr(sys.stdin, "closed", True):
            return
        fd = open_file(path or "/dev/null", READ_ONLY | CLOSE_ON_EXEC)
        if fd != 0:
            dup2(fd, 0)
            close(fd)
        if path is not None:
            try:
                posix.unlink(path)
            except OSError:
                pass  # somebody else removed it; it is open
            report('{"stdin":%d}' % number)
        own_stdin_is_plain = path is None
        encoding = getattr(sys.__stderr__, "encoding", "utf-8")
        sys.stdin = sys.__stdin__ = standard_open(0, "r", encoding=encoding, closefd=False)

    def mend_outputs():
        for fd, name in ((1, "stdout"), (2, "stderr")):
            try:
                fstat(fd)
            except OSError:
                dup2(outputs[fd], fd)
            stream = getattr(sys, name, None)
            if stream is None or getattr(stream, "closed", False):
                errors = "backslashreplace" if fd == 2 else "strict"
                stream = standard_open(fd, "w", encoding="utf-8", errors=errors, closefd=False,
                                       buffering=1)
                setattr(sys, name, stream)
                setattr(sys, "__%s__" % name, stream)

    def flush_outputs():
        sound = True
        for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
            try:
                stream = getattr(sys, name, None)
                if stream is not None and not getattr(stream, "closed", False):
                    stream.flush()
            except Exception:
                sound = False
        return sound

    def set_environment(changes):
        for name, value in changes.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value

    # --- endings ---------------------------------------------------------------------------------
    def show(kind, error, trace):
        hook = sys.excepthook
        if hook is not sys.__excepthook__:
            return hook(kind, error, trace)
        import traceback

        sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
        traceback.print_exception(kind, error, trace)

    def exit_code(error):
        """The exit code an exception stands for, once it has been shown."""
        if isinstance(error, SystemExit):
            if error.code is None:
                return 0
            if isinstance(error.code, int):
                return error.code & 0xFF
            print(error.code, file=sys.stderr)
            return 1
        trace = error.__traceback__
        # The first frame is ours, and so are those of a compiler that refuses the code.
        trace = trace.tb_next if trace is not None else None
        if trace is not None and trace.tb_frame.f_globals is globals_of_driver:
            trace = None
        error.__traceback__ = trace
        try:
            show(type(error), error, trace)
        except BaseException as second:
            try:
                write(2, ("Error in sys.excepthook: %r\n%r\n" % (second, error)).encode())
            except BaseException:
                pass  # nothing is left to say it on
        return 130 if isinstance(error, KeyboardInterrupt) else 1

    def run(call):
        number, path, text = call["call"], call["path"], call["code"]
        namespace["__file__"] = path
        sys.argv[:] = [path]
        sys.modules["__main__"] = main
        try:
            try:
                name = remember(path, number, text)
                code = under_name(compile_code(text, path, "exec", dont_inherit=True), name)
                run_code(code, namespace)
            finally:
                code = name = None
        except BaseException as error:
            return exit_code(error)
        return 0

    # --- one call after another -------------------------------------------------------------------
    def idle(number, frame):
        """Takes the interrupt that comes too late for the call it was meant for."""

    state = {"handler": getsignal(SIGINT)}

    def leave_call():
        handler = getsignal(SIGINT)
        if handler is not idle:
            # One that was not set from Python cannot be given back.
            state["handler"] = handler or signal.default_int_handler
            set_signal(SIGINT, idle)

    def insist(step, *arguments):
        """Does what must be done although an interrupt may come at any point of it."""
        while True:
            try:
                return step(*arguments)
            except KeyboardInterrupt:
                continue

    def next_line():
        while b"\n" not in state["inbox"]:
            chunk = read(commands, 1 << 16)
            if not chunk:
                posix._exit(0)
            state["inbox"] += chunk
        line, _, state["inbox"] = state["inbox"].partition(b"\n")
        return line

    def make_call(call):
        number = call["call"]
        if call["cwd"] is not None:
            try:
                posix.chdir(call["cwd"])
            except OSError as error:
                return report('{"failed":%d,"errno":%d}' % (number, error.errno or 5))
        set_environment(call["env"])
        mend_outputs()
        set_standard_input(call["stdinPath"], number)
        set_signal(SIGINT, state["handler"])
        code = run(call)
        if getpid() != own_pid:
            # A child that the code forked has come back from it: it ends like any Python.
            sys.exit(code)
        finish(number, code)

    def finish(number, code):
        leave_call()
        if not flush_outputs() and code == 0:
            code = 120
        report('{"done":%d,"exit":%d}' % (number, code))

    globals_of_driver = globals()
    state["inbox"] = b""
    leave_call()
    report('{"ready":true}')
    first = True
    while True:
        call = loads(next_line())
        if first:
            first = False
            sys.path[0] = call["path"].rpartition("/")[0] or "/"
        try:
            make_call(call)
        except KeyboardInterrupt:
            # It came between two steps of our own. A second report does no harm.
            if getpid() != own_pid:
                raise
            insist(finish, call["call"], 130)


_drive()
