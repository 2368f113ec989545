import os
import sys
pid = os.fork()
if pid == 0:
    raise ValueError("child")
print("status", os.waitpid(pid, 0)[1])
pid = os.fork()
if pid == 0:
    sys.exit(4)
print("status", os.waitpid(pid, 0)[1])
