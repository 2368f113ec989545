import sys


class Module(type(sys)):
    def __del__(self):
        print("module del")


sys.modules["fake"] = Module("fake")
