class Loud:
    __slots__ = ()

    def __del__(self):
        print("del")


kept = Loud()
