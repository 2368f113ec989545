import os
import sys
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream, stream.line_buffering, stream.write_through, stream.newlines, stream.isatty())
    print(type(stream.buffer), stream.fileno(), stream.seekable(), os.get_blocking(stream.fileno()))
    print(sys.__stdout__ is sys.stdout, oct(os.fstat(stream.fileno()).st_mode & 0o170000))
