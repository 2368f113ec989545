import atexit
import os
import sys
atexit.register(print, "handler", flush=True)
print("before", flush=True)
pid = os.fork()
if pid == 0:
    print("child")
else:
    print("status", os.waitpid(pid, 0)[1])
