import ctypes
libc = ctypes.CDLL(None)
libc.printf(b"from C %d\n", 5)
print(ctypes.sizeof(ctypes.c_long), ctypes.c_int(5))


class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_int)]


print(Pair(1, 2).b, ctypes.pointer(Pair(3, 4)).contents.a)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)
print(compare(4))
