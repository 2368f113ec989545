import os
import sys
print(sys.argv, sys.orig_argv, sys.executable, sys.prefix)
print(sys.path)
print(sys.path_hooks, sorted(sys.path_importer_cache))
print(sys.meta_path)
print(open("/proc/self/cmdline").read().split("\0"))
print(open("/proc/self/comm").read())
