import os
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd")))
for fd in range(3):
    print(fd, os.get_inheritable(fd), os.readlink(f"/proc/self/fd/{fd}").split(":")[0])
print(open("/sandbox/main.py").fileno())
os.system("ls /proc/self/fd")
